import datetime
import itertools

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import Rows, with_origin
from skewless.transforms.split import SPLITS, SplitByHash, SplitByTime

UTC = datetime.UTC
BY_TIME = SplitByTime("2013-10-01", "2013-11-15", on="t")


def times(values, unit="us"):
    return pa.record_batch({"t": pa.array(values, pa.timestamp(unit, "UTC"))})


@pytest.mark.parametrize("unit", ["s", "us"])
def test_bounds_belong_to_the_later_split(unit):
    second = datetime.timedelta(seconds=1)
    first, last = (
        datetime.datetime(2013, 10, 1, tzinfo=UTC),
        datetime.datetime(2013, 11, 15, tzinfo=UTC),
    )
    batch = times([first - second, first, last - second, last, None], unit)
    assert BY_TIME.assign(batch).tolist() == [0, 1, 1, 2, -1]


def test_bounds_are_texts_dates_or_datetimes():
    east = datetime.timezone(datetime.timedelta(hours=2))
    for bound in (
        "2013-10-01",
        "2013-10-01T00:00:00Z",
        "2013-10-01T02:00:00+02:00",
        datetime.date(2013, 10, 1),
        datetime.datetime(2013, 10, 1),
        datetime.datetime(2013, 10, 1, 2, tzinfo=east),
    ):
        assert SplitByTime(bound, "2014-01-01").train_until == BY_TIME.train_until


@pytest.mark.parametrize(
    ("train_until", "eval_until", "message"),
    [
        ("2013-11-15", "2013-10-01", "is not before"),
        ("2013-10-01", "2013-10-01T00:00:00Z", "is not before"),
        ("October", "2013-10-01", 'train_until="October"; expected an ISO 8601 time'),
        ("2013-10-01", 2014, "eval_until=2014; expected a text, a date or a datetime"),
    ],
)
def test_wrong_bounds(train_until, eval_until, message):
    with pytest.raises(RecipeError, match=message):
        SplitByTime(train_until, eval_until)


def test_time_column_is_checked():
    schema = make_schema(
        [
            make_feature("t", pa.timestamp("s", "UTC"), required=True),
            make_feature("day", pa.string(), required=True),
        ]
    )
    assert BY_TIME.output_schema(schema) == schema
    for on, message in (("days", 'did you mean "day"'), ("day", "not times"), (None, "give on=")):
        with pytest.raises(RecipeError, match=message):
            SplitByTime("2013-10-01", "2013-11-15", on=on).output_schema(schema)


def test_rows_without_a_time_are_rejected_and_none_is_lost(eager):
    days = [datetime.datetime(2013, month, 1, tzinfo=UTC) for month in range(1, 13)]
    batch = with_origin(times([*days, None], "s"), "f.csv", pa.array(range(13)))
    result = eager(lambda p: Rows(p | beam.Create([batch])) | BY_TIME)
    sizes = {split: sum(b.num_rows for b in getattr(result, split)) for split in SPLITS}
    assert sizes == {"train": 9, "eval": 2, "test": 1}
    (rejected,) = result.rejected
    assert rejected[:6] == ("SplitByTime", "f.csv", 12, "t", "", "expected a time")


def test_assignments_are_pinned():
    # A key must stay where it is for ever: changing this moves test rows into training.
    keys = pa.record_batch({"id": pa.array(["N14228", "N24211", "", None, *"abcdefgh"])})
    step = SplitByHash(["id"], train=0.5, eval=0.25)
    assert step.assign(keys).tolist() == [0, 0, 1, 1, 0, 0, 1, 2, 0, 1, 0, 1]
    numbers = pa.record_batch({"id": pa.array(range(12))})
    assert step.assign(numbers).tolist() == [1, 0, 0, 1, 1, 1, 2, 0, 0, 2, 0, 1]
    salted = SplitByHash(["id"], train=0.5, eval=0.25, salt="again")
    assert salted.assign(numbers).tolist() == [0, 0, 1, 2, 0, 0, 0, 2, 1, 0, 0, 0]


def test_parts_are_as_large_as_asked_for():
    keys = pa.record_batch({"id": pa.array(range(100_000))})
    sizes = np.bincount(SplitByHash(["id"]).assign(keys)) / 100_000
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    assert set(SplitByHash(["id"], train=1, eval=0).assign(keys)) == {0}
    assert set(SplitByHash(["id"], train=0, eval=1).assign(keys)) == {1}


def test_salts_are_independent():
    keys = pa.record_batch({"id": pa.array(range(100_000))})
    one, other = (SplitByHash(["id"], train=0.5, salt=salt).assign(keys) for salt in ("", "x"))
    assert np.mean((one == 0) & (other == 0)) == pytest.approx(0.25, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(
    keys=st.lists(st.none() | st.integers().filter(lambda n: abs(n) < 2**63), min_size=1),
    cut=st.integers(0, 50),
)
def test_a_key_is_in_one_split_whatever_the_batch(keys, cut):
    step = SplitByHash(["id"], train=0.4, eval=0.3)
    batch = pa.record_batch({"id": pa.array(keys, pa.int64())})
    whole = step.assign(batch).tolist()
    assert [*step.assign(batch.slice(0, cut)), *step.assign(batch.slice(cut))] == whole
    homes = {}
    assert all(
        homes.setdefault(key, split) == split for key, split in zip(keys, whole, strict=True)
    )


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_splits_hold_every_row_once(eager, sizes):
    bounds = np.cumsum([0, *sizes])
    batches = [
        pa.record_batch({"id": pa.array(range(start, end))})
        for start, end in itertools.pairwise(bounds)
    ]
    result = eager(lambda p: p | beam.Create(batches) | SplitByHash(["id"], train=0.5, eval=0.2))
    rows = [
        row for split in SPLITS for b in getattr(result, split) for row in b.column(0).to_pylist()
    ]
    assert sorted(rows) == list(range(bounds[-1]))
    assert result.rejected == []


def test_splits_are_coded_as_batches():
    pipeline = beam.Pipeline("FnApiRunner")
    splits = pipeline | beam.Create([times([None])]) | BY_TIME
    assert [getattr(splits, name).element_type for name in SPLITS] == [pa.RecordBatch] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "id"}, "by='id'; expected a list"),
        ({"by": []}, "expected a list"),
        ({"by": ["id"], "train": 0.95}, "train=0.95 and eval=0.1"),
        ({"by": ["id"], "train": -0.1}, "between 0 and 1"),
        ({"by": ["id"], "train": float("nan")}, "between 0 and 1"),
    ],
)
def test_wrong_parts(arguments, message):
    with pytest.raises(RecipeError, match=message):
        SplitByHash(**arguments)


def test_key_columns_are_checked():
    schema = make_schema([make_feature("tailnum", pa.string(), required=False)])
    assert SplitByHash(["tailnum"]).output_schema(schema) == schema
    with pytest.raises(RecipeError, match=r'SplitByHash\(by=.*did you mean "tailnum"'):
        SplitByHash(["tailnun"]).output_schema(schema)
