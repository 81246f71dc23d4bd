import itertools

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import given
from hypothesis import strategies as st

from skewless.arrays import raw_arrays
from skewless.errors import DataError, RecipeError
from skewless.parity import TransformGraph, read_raw_schema
from skewless.schema import arrow_schema, drop_columns, make_feature, make_schema
from skewless.transforms.analyze import Analyze, check_exportable
from skewless.transforms.analyze.columns import as_tensor_columns
from skewless.transforms.features.columns import category, cross, numeric
from skewless.transforms.features.graph import build_preprocessing_fn
from skewless.transforms.rows import with_origin

SCHEMA = make_schema(
    [
        make_feature("x", pa.float32(), required=True),
        make_feature("o", pa.float32(), required=False),
        make_feature("n", pa.int64(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("l", pa.list_(pa.string()), required=False),
        make_feature("t", pa.timestamp("s", tz="UTC"), required=False),
    ]
)


def analyze(folder, fn, batches, schema=SCHEMA):
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | beam.Create(batches)
        rows | Analyze(schema, fn, str(folder / "graph"), str(folder / "tmp"))
    return folder / "graph"


def make_rows(rows, seed=0):
    rng = np.random.default_rng(seed)

    def maybe(values):
        return [None if rng.random() < 0.2 else value for value in values]

    columns = {
        "x": rng.lognormal(size=rows).astype(np.float32),
        "o": pa.array(maybe(rng.random(rows) * 3), pa.float32()),
        "n": maybe(rng.integers(0, 24, rows).tolist()),
        "s": maybe(rng.choice(["a", "b", "c", "d", "e"], rows).tolist()),
        "l": maybe([["a"] for _ in range(rows)]),
        "t": maybe(rng.integers(0, 10**9, rows).tolist()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=arrow_schema(SCHEMA))


def test_raw_rows_as_lists_of_values():
    batch = pa.RecordBatch.from_pydict(
        {
            "x": [1.5, 2.5],
            "o": [None, 3.5],
            "n": [7, None],
            "s": ["é", None],
            "l": [["a", None, "b"], None],
            "t": [10, None],
        },
        schema=arrow_schema(SCHEMA),
    )
    lists = as_tensor_columns(with_origin(batch, "f.csv", pa.array([0, 9])), SCHEMA)
    assert lists.to_pydict() == {
        "x": [[1.5], [2.5]],
        "o": [[], [3.5]],
        "n": [[7], []],
        "s": [["é".encode()], []],
        "l": [[b"a", b"b"], []],
        "t": [[10], []],
    }
    assert lists.schema.field("t").type == pa.large_list(pa.int64())
    assert lists.schema.field("s").type == pa.large_list(pa.large_binary())


LISTS = st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3)


@given(rows=st.lists(LISTS, max_size=9), start=st.integers(0, 9))
def test_lists_lose_nothing_but_what_is_missing(rows, start):
    schema = make_schema([make_feature("l", pa.list_(pa.string()), required=False)])
    batch = pa.RecordBatch.from_pydict({"l": pa.array(rows, pa.list_(pa.string()))}).slice(start)
    expected = [[s.encode() for s in row or [] if s is not None] for row in rows[start:]]
    assert as_tensor_columns(batch, schema).column("l").to_pylist() == expected


def test_a_column_that_the_rows_lack_is_named():
    batch = pa.RecordBatch.from_pydict({"x": [1.0], "oo": [1.0]})
    with pytest.raises(RecipeError, match='there is no column "o"; did you mean "oo"'):
        as_tensor_columns(batch, SCHEMA)


def test_a_required_value_that_is_missing_is_named():
    batch = make_rows(3).set_column(0, "x", pa.array([1.0, None, 2.0], pa.float32()))
    with pytest.raises(DataError, match='"x" is required by the schema, but 1 of 3 rows'):
        as_tensor_columns(batch, SCHEMA)


def asks_for_another_column(inputs):
    return {"a": inputs["xs"]}


def leaves_the_graph(inputs):
    return {"a": tf.py_function(lambda x: x, [inputs["x"]], tf.float32)}


def leaves_it_deep_inside(inputs):
    inner = tf.function(lambda x: tf.numpy_function(np.abs, [x], tf.float32))
    return {"a": tf.reshape(inner(inputs["x"]), [-1])}


def wants_a_value(inputs):
    return {"a": inputs["x"] * float(inputs["x"].numpy()[0])}


def gives_doubles(inputs):
    return {"a": tf.cast(inputs["x"], tf.float64)}


def gives_one_value(inputs):
    return {"a": tf.reduce_mean(inputs["x"])}


def gives_nothing(inputs):
    return {}


def gives_no_tensor(inputs):
    return {"a": None}


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (asks_for_another_column, 'there is no column "xs"; did you mean "x"?'),
        (leaves_the_graph, "calls Python from the graph (EagerPyFunc)"),
        (leaves_it_deep_inside, "calls Python from the graph (PyFunc)"),
        (wants_a_value, "cannot be traced as a TensorFlow graph"),
        (gives_doubles, 'feature "a" is float64; a feature is float32'),
        (gives_one_value, 'feature "a" is one value'),
        (gives_nothing, "returns no features"),
        (gives_no_tensor, 'feature "a" is NoneType;'),
    ],
)
def test_a_function_that_cannot_be_exported_is_refused_in_one_line(fn, says):
    with pytest.raises(RecipeError) as error:
        check_exportable(fn, SCHEMA)
    assert f"preprocessing_fn {__name__}.{fn.__name__}: " in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_it_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(RecipeError, match="did you mean"):
        analyze(tmp_path, asks_for_another_column, [make_rows(3)])
    assert not (tmp_path / "graph").exists()


def test_a_column_without_any_value_is_named(tmp_path):
    schema = make_schema([make_feature("o", pa.float32(), required=False)])
    empty = pa.RecordBatch.from_pydict({"o": pa.array([None, None], pa.float32())})
    for name, column in {
        "moments": numeric("o").zscore(),
        "quantiles": numeric("o").impute("median"),
    }.items():
        fn = build_preprocessing_fn({name: column}, None, schema)
        with pytest.raises(DataError, match=f'feature "{name}": column "o" has no value'):
            analyze(tmp_path / name, fn, [empty], schema)


def test_a_vocabulary_without_any_value_is_named(tmp_path):
    schema = make_schema([make_feature("s", pa.string(), required=False)])
    empty = pa.RecordBatch.from_pydict({"s": pa.array([None, None], pa.string())})
    fn = build_preprocessing_fn({"s": category("s")}, None, schema)
    with pytest.raises(DataError, match='feature "s": column "s" has no value'):
        analyze(tmp_path, fn, [empty], schema)


def test_neither_shards_nor_order_change_the_graph(tmp_path):
    fn = build_preprocessing_fn(
        {
            "x": numeric("x").log1p().zscore(),
            "o": numeric("o").impute("mean").clip_zscore(1.5).minmax(),
            "s": category("s").vocabulary(top=3),
            "sn": cross("s", "n").vocabulary(),
        },
        None,
        SCHEMA,
    )
    rows = make_rows(2_001)
    shuffled = rows.take(pa.array(np.random.default_rng(1).permutation(len(rows))))
    edges = [0, 1, 8, 25, 400, 1_000, 1_999, len(rows)]
    shards = [shuffled.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    one = analyze(tmp_path / "one", fn, [rows])
    seven = analyze(tmp_path / "seven", fn, shards)
    names = sorted(path.name for path in (one / "transform_fn" / "assets").iterdir())
    assert names == ["s", "sn"]
    for name in names:
        path = f"transform_fn/assets/{name}"
        assert (one / path).read_bytes() == (seven / path).read_bytes()
    assert read_raw_schema(str(one)) == SCHEMA
    assert tft.TFTransformOutput(str(seven)).raw_metadata.schema == SCHEMA
    first, second = (_features(folder, rows) for folder in (one, seven))
    for name, value in first.items():
        assert value.numpy().tobytes() == second[name].numpy().tobytes(), name


def _features(folder, rows):
    graph = TransformGraph(str(folder))
    return graph.from_rows(raw_arrays(rows, graph.raw_schema))


def float32_functions(inputs):
    """Compute in float32 what is not exactly rounded, on dense and on optional columns."""
    x, o = inputs["x"], inputs["o"]
    filled = tf.sparse.to_dense(tf.SparseTensor(o.indices, o.values, [o.dense_shape[0], 1]))[:, 0]
    return {
        "log1p": tf.math.log1p(x),
        "sigmoid": tf.sigmoid(x),
        "power": x**0.3,
        "optional_log1p": tf.math.log1p(filled),
        "sparse_sigmoid": o.with_values(tf.sigmoid(o.values)),
        "sparse_power": o.with_values(o.values**0.3),
    }


@pytest.fixture(scope="module")
def float32_graph(tmp_path_factory):
    schema = drop_columns(SCHEMA, ["n", "s", "l", "t"])
    return analyze(tmp_path_factory.mktemp("f32"), float32_functions, [make_rows(64)], schema)


def differing(folder, size, pad_to):
    """Return the features of which a bit differs between batches of `size` and all rows."""
    graph = TransformGraph(str(folder), pad_to=pad_to)
    call = tf.function(graph.from_rows, input_signature=[graph.row_signature()])
    arrays = raw_arrays(make_rows(4_001), graph.raw_schema)
    together = call(arrays)
    parts = [
        call({name: array[start : start + size] for name, array in arrays.items()})
        for start in range(0, 4_001, size)
    ]
    different = set()
    for name, whole in together.items():
        sparse = isinstance(whole, tf.SparseTensor)
        alone = [part[name].values if sparse else part[name] for part in parts]
        whole = whole.values if sparse else whole
        if np.concatenate(alone).tobytes() != whole.numpy().tobytes():
            different.add(name)
    return different


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_padding_leaves_no_bit_different_in_any_function(float32_graph, size):
    assert differing(float32_graph, size, pad_to=16) == set()


def test_without_padding_the_same_functions_differ(float32_graph):
    assert differing(float32_graph, 7, pad_to=1) == {
        "log1p",
        "sigmoid",
        "power",
        "optional_log1p",
        "sparse_sigmoid",
        "sparse_power",
    }


@pytest.mark.parametrize("engine", ["fused", "tft"])
def test_without_analyzers_the_rows_are_not_read(tmp_path, engine):
    folder = str(tmp_path / "graph")
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | beam.Create([make_rows(3)])
        rows | Analyze(SCHEMA, float32_functions, folder, str(tmp_path / "tmp"), engine=engine)
    assert len(TransformGraph(folder).outputs) == 6


def test_quantiles_of_more_distinct_values_than_one_pass_counts(tmp_path):
    """A second pass finds them, and the next phase waits for it."""
    values = np.random.default_rng(5).normal(size=70_000).astype(np.float32)
    schema = make_schema([make_feature("x", pa.float32(), required=True)])

    def fn(inputs):
        low, high = tf.unstack(tft.quantiles(inputs["x"], 3, 0.0)[0])
        cut = tf.clip_by_value(inputs["x"], low, high)
        return {"cut": cut, "mean": cut - tft.mean(cut)}

    batches = [pa.record_batch({"x": half}) for half in np.split(values, 2)]
    graph = TransformGraph(str(analyze(tmp_path, fn, batches, schema)))
    cut = graph.from_rows({"x": tf.constant(values)})["cut"].numpy()
    ordered = np.sort(values)
    assert [cut.min(), cut.max()] == [ordered[70_000 // 3], ordered[2 * 70_000 // 3]]
