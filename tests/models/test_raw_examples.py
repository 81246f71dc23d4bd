import pyarrow as pa
import pytest
import tensorflow as tf

from skewless.arrays import raw_arrays
from skewless.errors import RecipeError
from skewless.models.raw_examples import raw_examples
from skewless.schema import make_feature, make_schema

COLUMNS = {
    "x": (pa.float32(), True),
    "o": (pa.float32(), False),
    "n": (pa.int64(), False),
    "at": (pa.timestamp("s", tz="UTC"), False),
    "word": (pa.string(), False),
    "tags": (pa.list_(pa.string()), False),
}
SCHEMA = make_schema(make_feature(name, t, required=r) for name, (t, r) in COLUMNS.items())


def batch(**columns: list) -> pa.RecordBatch:
    arrays = [pa.array(columns[name], type_) for name, (type_, _) in COLUMNS.items()]
    return pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))


def test_an_example_holds_what_the_row_holds():
    rows = batch(
        x=[0.1, float("nan")],
        o=[2.5, None],
        n=[-(2**40), None],
        at=[1_700_000_000, None],
        word=["Æ ✈", None],
        tags=[["red", "blue"], None],
    )
    one, other = map(tf.train.Example.FromString, raw_examples(rows, SCHEMA))
    values = dict(one.features.feature.items())
    assert list(values["x"].float_list.value) == pytest.approx([0.1])
    assert list(values["n"].int64_list.value) == [-(2**40)]
    assert list(values["at"].int64_list.value) == [1_700_000_000]
    assert list(values["word"].bytes_list.value) == ["Æ ✈".encode()]
    assert list(values["tags"].bytes_list.value) == [b"red", b"blue"]
    assert list(other.features.feature) == ["x"], "what is null is left out"


def test_numbers_keep_every_bit():
    rows = batch(x=[1 / 3], o=[5e-324], n=[None], at=[None], word=[""], tags=[[]])
    (example,) = map(tf.train.Example.FromString, raw_examples(rows, SCHEMA))
    (x,) = example.features.feature["x"].float_list.value
    assert x == raw_arrays(rows, SCHEMA)["x"][0]
    assert list(example.features.feature["word"].bytes_list.value) == [b""]


def test_a_missing_column_is_named():
    with pytest.raises(RecipeError, match='no column "x"'):
        raw_examples(pa.RecordBatch.from_pydict({"y": [1.0]}), SCHEMA)


def test_what_is_null_is_written_where_asked():
    rows = batch(x=[1.0], o=[None], n=[None], at=[None], word=[None], tags=[None])
    (example,) = map(tf.train.Example.FromString, raw_examples(rows, SCHEMA, nulls=["o", "tags"]))
    values = dict(example.features.feature.items())
    assert sorted(values) == ["o", "tags", "x"]
    assert values["o"].WhichOneof("kind") is None
