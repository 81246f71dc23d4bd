import datetime
import math
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.arrays import raw_arrays
from skewless.errors import RecipeError
from skewless.parity import TransformGraph
from skewless.schema import arrow_schema, drop_columns, find_feature, make_feature, make_schema
from skewless.transforms.analyze import Analyze
from skewless.transforms.features.columns import (
    LABEL,
    categories,
    category,
    cross,
    cyclic,
    date_parts,
    label,
    numeric,
    passthrough,
    text,
)
from skewless.transforms.features.graph import build_preprocessing_fn

ROWS = 1500
WORDS = ["alpha", "Beta", "gamma-ray", "UA 1", "été"]
UTC = pa.timestamp("us", tz="UTC")

SCHEMA = make_schema(
    [
        make_feature("size", pa.float32(), required=True),
        make_feature("wide", pa.float32(), required=False),
        make_feature("hour", pa.int64(), required=False),
        make_feature("word", pa.string(), required=False),
        make_feature("must", pa.string(), required=True),
        make_feature("words", pa.list_(pa.string()), required=False),
        make_feature("at", UTC, required=False),
        make_feature("note", pa.string(), required=False),
        make_feature("kind", pa.string(), required=True),
        make_feature("late", pa.float32(), required=True),
    ]
)

FEATURES = {
    "size": numeric("size").clip(0.01, 0.99).log1p().zscore(),
    "wide": numeric("wide").impute("median").missing_indicator().clip_iqr().robust(),
    "plain": numeric("wide").zscore(),
    "unit": numeric("wide").impute("mean").clip_zscore(2).minmax(),
    "bounded": numeric("hour").impute(-1).clip_values(-0.1, 12),
    "tenth": numeric("size").log1p().bucketize(10),
    "third": numeric("wide").bucketize(boundaries=[0, 0.5]).one_hot(),
    "word": category("word").vocabulary(top=3, oov=2),
    "hot": category("word").vocabulary(min_count=2, oov=0).one_hot(),
    "hour_id": category("hour").vocabulary(oov=0),
    "hashed": category("must").hashed(100),
    "pair": cross("word", "hour").hashed(50),
    "hour": cyclic("hour", 24),
    "at": date_parts("at", ("year", "month", "day", "weekday", "day_of_year", "hour", "second")),
    "note": text("note").ngrams(1, 2).vocabulary(top=20),
    "bag": text("note").bag_of_words(),
    "words": categories("words"),
    "many": categories("words").vocabulary(oov=0).multi_hot(),
    "must": passthrough("must"),
    "list": passthrough("words"),
}


def maybe(rng, values):
    return [None if rng.random() < 0.2 else value for value in values]


def make_rows(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    lists = [list(rng.choice(WORDS, rng.integers(0, 4))) for _ in range(rows)]
    notes = [" ".join(rng.choice(WORDS, 4)) for _ in range(rows)]
    times = [
        datetime.datetime.fromtimestamp(s, datetime.UTC)
        for s in rng.integers(-(10**9), 4 * 10**9, rows).tolist()
    ]
    return pa.RecordBatch.from_pydict(
        {
            "size": rng.lognormal(size=rows).astype(np.float32) - np.float32(0.1),
            "wide": pa.array(maybe(rng, rng.normal(size=rows)), pa.float32()),
            "hour": pa.array(maybe(rng, rng.integers(0, 24, rows)), pa.int64()),
            "word": pa.array(maybe(rng, rng.choice(WORDS, rows)), pa.string()),
            "must": pa.array(rng.choice(WORDS, rows), pa.string()),
            "words": pa.array(maybe(rng, lists), pa.list_(pa.string())),
            "at": pa.array(maybe(rng, times), UTC),
            "note": pa.array(maybe(rng, notes), pa.string()),
            "kind": pa.array(rng.choice(["a", "b", "c"], rows), pa.string()),
            "late": pa.array(rng.normal(size=rows) * 20, pa.float32()),
        },
        schema=arrow_schema(SCHEMA),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("graph")
    batches = [make_rows(0).slice(start, 400) for start in range(0, ROWS, 400)]
    fn = build_preprocessing_fn(FEATURES, label("late").greater_than(15), SCHEMA)
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | beam.Create(batches)
        rows | Analyze(SCHEMA, fn, str(root / "graph"), str(root / "tmp"))
    return root / "graph"


@pytest.fixture(scope="module")
def graph(folder):
    return TransformGraph(str(folder), without=(LABEL,))


@pytest.fixture(scope="module")
def call(graph):
    return tf.function(graph.from_rows, input_signature=[graph.row_signature()])


@pytest.fixture(scope="module")
def features(graph, call):
    return call(raw_arrays(make_rows(0), graph.raw_schema))


def column(name, filled=np.nan):
    return np.array(
        [filled if v is None else v for v in make_rows(0).column(name).to_pylist()], np.float64
    )


def close(feature, expected):
    np.testing.assert_allclose(feature.numpy(), expected, rtol=3e-6, atol=1e-6)


def test_numbers_are_what_numpy_makes_of_them(features):
    size = column("size")
    size = np.clip(size, *np.quantile(size, [0.01, 0.99], method="inverted_cdf"))
    size = np.sign(size) * np.log1p(np.abs(size))
    # The sketch has its own idea of a quantile that falls between two rows.
    np.testing.assert_allclose(features["size"], (size - size.mean()) / size.std(), atol=0.05)

    wide = column("wide")
    missing = np.isnan(wide)
    known = wide[~missing]
    close(features["wide_missing"], missing)
    close(features["plain"], np.where(missing, 0, (wide - known.mean()) / known.std()))
    reach = 2 * known.std()
    clipped = np.clip(known, known.mean() - reach, known.mean() + reach)
    filled = np.where(missing, known.mean(), wide).clip(clipped.min(), clipped.max())
    close(features["unit"], (filled - clipped.min()) / np.ptp(clipped))
    first, median, third = np.quantile(known, [0.25, 0.5, 0.75], method="inverted_cdf")
    spread = third - first
    robust = np.where(missing, median, wide).clip(first - 1.5 * spread, third + 1.5 * spread)
    np.testing.assert_allclose(features["wide"], (robust - median) / spread, atol=0.02)
    close(features["bounded"], column("hour", -1).clip(-0.1, 12))


def test_buckets(features):
    counts = np.bincount(features["tenth"].numpy())
    assert len(counts) == 10
    assert counts.max() - counts.min() < 0.02 * ROWS
    wide = column("wide")
    third = features["third"].numpy()
    np.testing.assert_array_equal(third.sum(axis=1), ~np.isnan(wide))
    known = ~np.isnan(wide)
    np.testing.assert_array_equal(third[known].argmax(1), np.digitize(wide[known], [0, 0.5]))


def vocabulary(folder, name):
    return (folder / "transform_fn" / "assets" / name).read_text().splitlines()


def test_categories_and_their_missing_ids(folder, features):
    words = make_rows(0).column("word").to_pylist()
    top = vocabulary(folder, "word")
    assert len(top) == 3
    for word, at in zip(words, features["word"].numpy(), strict=True):
        if word is None:
            assert at == 5
        elif word in top:
            assert at == top.index(word)
        else:
            assert at in (3, 4)
    known = vocabulary(folder, "hot")
    assert sorted(known) == sorted(WORDS)
    expected = [[float(word == name) for name in known] for word in words]
    np.testing.assert_array_equal(features["hot"], expected)
    hours = make_rows(0).column("hour").to_pylist()
    names = vocabulary(folder, "hour_id")
    expected = [24 if h is None else names.index(str(h)) for h in hours]
    np.testing.assert_array_equal(features["hour_id"], expected)
    missing = [w is None or h is None for w, h in zip(words, hours, strict=True)]
    np.testing.assert_array_equal(features["pair"].numpy() == 50, missing)


def test_cycles_and_dates(features):
    hour = column("hour")
    for name, fn in (("hour_sin", np.sin), ("hour_cos", np.cos)):
        close(features[name], np.nan_to_num(fn(hour * 2 * math.pi / 24)))
    for row, time in enumerate(make_rows(0).column("at").to_pylist()):
        names = ("year", "month", "day", "weekday", "day_of_year", "hour", "second")
        got = [int(features[f"at_{name}"][row]) for name in names]
        if time is None:
            assert got == [0, 13, 32, 7, 367, 24, 60]
        else:
            parts = time.timetuple()
            expected = [parts.tm_year - 2000, parts.tm_mon, parts.tm_mday, parts.tm_wday]
            assert got == [*expected, parts.tm_yday, parts.tm_hour, parts.tm_sec]


def test_lists_and_words(folder, features):
    rows = make_rows(0).to_pylist()
    known = vocabulary(folder, "words")
    ids = tf.sparse.to_dense(features["words"], default_value=-1).numpy()
    assert [[known[at] for at in row if at >= 0] for row in ids] == [r["words"] or [] for r in rows]
    expected = [
        [float(name in (r["words"] or [])) for name in vocabulary(folder, "many")] for r in rows
    ]
    np.testing.assert_array_equal(features["many"], expected)
    bag = vocabulary(folder, "bag")
    assert sorted(bag) == ["1", "alpha", "beta", "gamma", "ray", "ua", "été"]
    words = [(r["note"] or "").lower().replace("-", " ").split() for r in rows]
    expected = [[float(word in row) for word in bag] for row in words]
    np.testing.assert_array_equal(features["bag"], expected)
    assert any(" " in word for word in vocabulary(folder, "note"))


def test_the_schema_says_how_many_ids_there_are(folder):
    schema = tft.TFTransformOutput(str(folder)).transformed_metadata.schema
    sizes = {"word": 6, "hashed": 101, "pair": 51, "hour_id": 25, "tenth": 11, "words": 6}
    for name, size in {**sizes, "at_month": 14, LABEL: 2}.items():
        domain = find_feature(schema, name).int_domain
        assert (domain.is_categorical, domain.min, domain.max) == (True, 0, size - 1), name
    widths = {"hot": 5, "third": 3, "bag": 7, "many": 5}
    for name, width in widths.items():
        assert [dim.size for dim in find_feature(schema, name).shape.dim] == [width], name
    assert (folder / "metadata" / "schema.pbtxt").exists()


def test_the_label_is_not_an_input(folder, graph):
    assert find_feature(graph.raw_schema, "late") is None
    assert find_feature(graph.raw_schema, "kind") is None
    whole = TransformGraph(str(folder))
    got = whole.from_rows(raw_arrays(make_rows(0), whole.raw_schema))[LABEL]
    np.testing.assert_array_equal(got, column("late") > 15)


F32 = np.float32


@pytest.mark.parametrize(
    ("wanted", "values", "expected"),
    [
        (label("late").greater_than(0.1), F32([0.1, 0.2]), np.int64([0, 1])),
        (label("late").less_than(0.1), F32([0.1, 0.05]), np.int64([0, 1])),
        (label("late").equals(0.1), F32([0.1, 0.2]), np.int64([1, 0])),
        (label("late"), F32([0.1, 0.2]), F32([0.1, 0.2])),
        (label("count").greater_than(1.5), np.int64([1, 2]), np.int64([0, 1])),
        (label("count").equals(2), np.int64([1, 2]), np.int64([0, 1])),
        (label("count"), np.int64([1, 2]), np.int64([1, 2])),
        (label("kind").equals("b"), np.array([b"a", b"b"]), np.int64([0, 1])),
    ],
)
def test_labels(wanted, values, expected):
    schema = make_schema([*SCHEMA.feature, make_feature("count", pa.int64(), required=True)])
    fn = build_preprocessing_fn({"must": passthrough("must")}, wanted, schema)
    got = tf.function(fn)({wanted.column: tf.constant(values), "must": tf.constant(["a", "b"])})
    assert got[LABEL].dtype == expected.dtype
    np.testing.assert_array_equal(got[LABEL], expected)


def test_a_string_label_is_a_class_and_one_more_stands_for_the_unseen(tmp_path):
    fn = build_preprocessing_fn({"must": passthrough("must")}, label("kind"), SCHEMA)
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | beam.Create([make_rows(0, 50)])
        rows | Analyze(SCHEMA, fn, str(tmp_path / "graph"), str(tmp_path / "tmp"))
    graph = TransformGraph(str(tmp_path / "graph"))
    names = [name.encode() for name in vocabulary(tmp_path / "graph", LABEL)]
    arrays = {"kind": np.array([*names, b"unseen"]), "must": np.array([b"x"] * 4)}
    assert graph.from_rows(arrays)[LABEL].numpy().tolist() == [0, 1, 2, 3]
    schema = tft.TFTransformOutput(str(tmp_path / "graph")).transformed_metadata.schema
    assert find_feature(schema, LABEL).int_domain.max == 3


def bits(value, rows):
    """Return what each row holds, as bytes or lists, so that equal means bit by bit."""
    if isinstance(value, tf.SparseTensor):
        lists = [[] for _ in range(rows)]
        for (row, _), item in zip(value.indices.numpy(), value.values.numpy(), strict=True):
            lists[row].append(item)
        return lists
    array = value.numpy()
    return array.tolist() if array.dtype == object else [row.tobytes() for row in array]


def in_batches(call, arrays, size):
    rows = len(next(iter(arrays.values())))
    joined = {}
    for start in range(0, rows, size):
        part = {name: array[start : start + size] for name, array in arrays.items()}
        count = min(size, rows - start)
        for name, value in call(part).items():
            joined.setdefault(name, []).extend(bits(value, count))
    return joined


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_no_bit_differs_between_batch_sizes(graph, call, features, size):
    arrays = raw_arrays(make_rows(0), graph.raw_schema)
    got = in_batches(call, arrays, size)
    assert set(got) == set(graph.outputs)
    for name, rows in got.items():
        assert rows == bits(features[name], ROWS), name


OPTIONAL_FLOAT = st.none() | st.floats(width=32)
ROW = st.fixed_dictionaries(
    {
        "size": st.floats(width=32),
        "wide": OPTIONAL_FLOAT,
        "hour": st.none() | st.integers(-(2**63), 2**63 - 1),
        "word": st.none() | st.text(max_size=4),
        "must": st.text(min_size=1, max_size=4),
        "words": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=4),
        "at": st.none() | st.integers(-(2**62), 2**62),
        "note": st.none() | st.text(max_size=12),
    }
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=20))
def test_any_row_gives_finite_features_that_do_not_depend_on_the_batch(graph, call, rows):
    schema = drop_columns(SCHEMA, ["kind", "late"])
    types = arrow_schema(schema).set(6, pa.field("at", pa.int64()))
    text_rows = [_encodable(row) for row in rows]
    batch = pa.RecordBatch.from_pylist(text_rows, schema=types)
    arrays = raw_arrays(batch, graph.raw_schema)
    whole = in_batches(call, arrays, len(rows))
    assert in_batches(call, arrays, 1) == whole
    for name, value in call(arrays).items():
        if isinstance(value, tf.Tensor) and value.dtype == tf.float32:
            assert np.isfinite(value.numpy()).all(), name


def _encodable(row):
    def clean(value):
        if isinstance(value, str):
            return value.encode("utf-8", "ignore").decode()
        return [clean(item) for item in value] if isinstance(value, list) else value

    return {name: clean(value) for name, value in row.items()}


@pytest.mark.parametrize(
    ("features", "wanted", "says"),
    [
        ({}, None, "there is none"),
        ({"a": numeric("sise")}, None, 'did you mean "size"'),
        ({"a": numeric("word")}, None, '"word" is of kind string; numeric takes'),
        ({"a": category("size")}, None, "of kind float"),
        ({"a": category("words")}, None, "use categories"),
        ({"a": categories("word")}, None, "use category"),
        ({"a": date_parts("hour")}, None, "of kind integer; dateparts takes timestamp"),
        (
            {"a_sin": numeric("size"), "a": cyclic("hour", 24)},
            None,
            'both make the feature "a_sin"',
        ),
        ({"label": numeric("size")}, None, "rename the feature"),
        ({"a": "size"}, None, "expected a column"),
        ({"a": numeric("late")}, label("late"), "not known when"),
        ({"a": numeric("size")}, label("lat"), 'label: there is no column "lat"'),
        ({"a": numeric("size")}, label("kind").greater_than(1), "cannot be"),
        ({"a": numeric("size")}, label("late").equals("x"), "cannot be"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(features, wanted, says):
    with pytest.raises(RecipeError) as error:
        build_preprocessing_fn(features, wanted, SCHEMA)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_assets_are_named_after_features(folder):
    names = {path.name for path in pathlib.Path(folder / "transform_fn" / "assets").iterdir()}
    assert names == {"word", "hot", "hour_id", "note", "bag", "words", "many"}
