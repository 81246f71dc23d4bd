import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.arrays import argument_names, raw_array, raw_arrays
from skewless.errors import RecipeError
from skewless.schema import MISSING_INT, make_feature, make_schema

int64s = st.integers(MISSING_INT + 1, 2**63 - 1)
float32s = st.floats(width=32, allow_nan=False)
strings = st.text(min_size=1, max_size=5)
TYPES = {pa.int64(): int64s, pa.float32(): float32s, pa.string(): strings}
MISSING = {pa.int64(): MISSING_INT, pa.string(): ""}


def from_array(array, type_):
    """Read an array back as a serving client would: a missing value is its written form."""
    values = [v.decode() if isinstance(v, bytes) else v for v in array.tolist()]
    return [None if v == MISSING.get(type_) or v != v else v for v in values]


@given(st.sampled_from(list(TYPES)), st.data())
def test_a_column_reads_back_from_its_array(type_, data):
    values = data.draw(st.lists(st.none() | TYPES[type_]))
    array = raw_array(pa.array(values, type_), make_feature("x", type_, required=False))
    assert array.shape == (len(values),)
    assert from_array(array, type_) == values


@given(st.sampled_from(list(TYPES)), st.data())
def test_a_list_column_reads_back_from_its_matrix(type_, data):
    rows = data.draw(st.lists(st.none() | st.lists(TYPES[type_], max_size=4)))
    feature = make_feature("x", pa.list_(type_), required=False)
    matrix = raw_array(pa.array(rows, pa.list_(type_)), feature)
    longest = max((len(row or []) for row in rows), default=0)
    assert matrix.shape == (len(rows), longest)
    for row, values in zip(rows, matrix, strict=True):
        padded = (row or []) + [None] * (longest - len(row or []))
        assert from_array(values, type_) == padded


@given(st.lists(st.none() | float32s, min_size=2), st.data())
def test_a_slice_of_a_batch_is_the_slice_of_its_arrays(values, data):
    start = data.draw(st.integers(0, len(values) - 1))
    feature = make_feature("x", pa.float32(), required=False)
    column = pa.array(values, pa.float32())
    np.testing.assert_array_equal(
        raw_array(column[start:], feature), raw_array(column, feature)[start:]
    )
    listed = make_feature("x", pa.list_(pa.float32()), required=False)
    rows = pa.array([[v] if v is not None else [] for v in values], pa.list_(pa.float32()))
    sliced = raw_array(rows[start:], listed)
    np.testing.assert_array_equal(sliced, raw_array(rows, listed)[start:][:, : sliced.shape[1]])


@pytest.mark.parametrize(
    ("type_", "dtype", "missing"),
    [(pa.int64(), np.int64, -1), (pa.float32(), np.float32, np.nan), (pa.string(), object, b"")],
    ids=str,
)
def test_a_column_of_nothing_but_missing_values(type_, dtype, missing):
    feature = make_feature("x", type_, required=False)
    feature.annotation.tag[:] = ["missing=-1"]
    array = raw_array(pa.nulls(3, type_), feature)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.array([missing] * 3, dtype))


def test_timestamps_are_their_integers():
    moment = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
    for unit, scale in (("s", 1), ("us", 1_000_000)):
        type_ = pa.timestamp(unit, "UTC")
        array = raw_array(pa.array([moment, None], type_), make_feature("t", type_, required=False))
        assert array.tolist() == [86_400 * scale, MISSING_INT]


def test_arrays_are_by_column_and_a_lacking_one_is_named():
    schema = make_schema([make_feature("origin", pa.string(), required=True)])
    batch = pa.record_batch({"_file": ["f"], "origin": ["EWR"]})
    assert list(raw_arrays(batch, schema)) == ["origin"]
    with pytest.raises(RecipeError, match='no column "origin"; did you mean "orign"'):
        raw_arrays(pa.record_batch({"orign": ["EWR"]}), schema)


def test_a_timestamp_is_in_the_unit_of_the_schema_whatever_the_column_has():
    feature = make_feature("at", pa.timestamp("s", tz="UTC"), required=False)
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        column = pa.array([1_357_034_400 * factor, None], pa.timestamp(unit, tz="UTC"))
        assert raw_array(column, feature).tolist() == [1_357_034_400, MISSING_INT]


def test_a_time_that_the_unit_cannot_hold_is_named():
    feature = make_feature("at", pa.timestamp("s", tz="UTC"), required=False)
    with pytest.raises(RecipeError, match='column "at"'):
        raw_array(pa.array([1_500], pa.timestamp("ms", tz="UTC")), feature)


def schema_of(names):
    return make_schema(make_feature(name, pa.float32(), required=True) for name in names)


def test_arguments_are_identifiers_and_no_two_alike():
    names = ["trip miles", "Größe", "_x", "a-b", "a_b", "A_b", "A_b_2", "1st", "class", "self", "X"]
    assert argument_names(schema_of(names)) == {
        "trip miles": "trip_miles",
        "Größe": "Gr__e",
        "_x": "arg__x",
        "a-b": "a_b_3",
        "a_b": "a_b_4",
        "A_b": "A_b",
        "A_b_2": "A_b_2",
        "1st": "arg_1st",
        "class": "arg_class",
        "self": "arg_self",
        "X": "X",
    }


@given(st.lists(st.text("aAbB_2- ß", max_size=4), unique=True), st.randoms())
def test_every_column_has_an_argument_of_its_own(names, random):
    arguments = argument_names(schema_of(names))
    assert set(arguments) == set(names)
    assert len({argument.lower() for argument in arguments.values()}) == len(names)
    assert all(a.isascii() and a.isidentifier() and a[0].isalpha() for a in arguments.values())
    random.shuffle(names)
    assert argument_names(schema_of(names)) == arguments
