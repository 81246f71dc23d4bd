"""Parts of tiles that are lists: the latest values, distinct ones, how often each one came."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.aggregate.lists import Distinct, Frequencies, Latest, estimate_distinct
from skewless.transforms.aggregate.partials import Group, Values

TEXTS = st.sampled_from(["", "a", "b", "é", "\U0001f40d", "\uffff", '"', "\x00"])
COLUMNS = st.one_of(
    st.lists(TEXTS, max_size=10).map(lambda cells: pa.array(cells, pa.string())),
    st.lists(st.integers(-2, 2), max_size=10).map(lambda cells: pa.array(cells, pa.int64())),
    st.lists(st.sampled_from([0.0, -0.0, 0.1, 1e-45, -3.5]), max_size=10).map(
        lambda cells: pa.array(cells, pa.float32())
    ),
)
KINDS = [(Latest, 1), (Latest, 3), (Latest, -1), (Distinct, 3), (Distinct, 100), (Frequencies, 2)]


def group(of, count):
    return Group(np.array(of, np.int64), count)


def indices(*numbers):
    return np.array(numbers, np.int64)


def part_of(kind, size, values, of=None, count=1, times=None):
    values = values if isinstance(values, pa.Array) else pa.array(values)
    of = [0] * len(values) if of is None else of
    times = [0] * len(values) if times is None else times
    return kind.of_events(Values(values, np.array(times, np.int64)), group(of, count), size)


@pytest.mark.parametrize(("kind", "size"), KINDS)
@given(values=COLUMNS, chance=st.randoms(use_true_random=False))
def test_windows_regroup_and_events_agree(kind, size, values, chance):
    count = 6
    of = [chance.randrange(count) for _ in values]
    # As in tiles: entries in the order of time, and values of equal times in one of them.
    times = [10 * place + chance.randrange(3) for place in of]
    parts = part_of(kind, size, values, of, count, times)
    starts = indices(*[chance.randint(0, count) for _ in range(5)])
    stops = indices(*[chance.randint(start, count) for start in starts.tolist()])
    windows = parts.windows(starts, stops, size).to_cells()
    for start, stop, cell in zip(starts, stops, windows, strict=True):
        inside = [n for n, place in enumerate(of) if start <= place < stop]
        some = [times[n] for n in inside]
        whole = part_of(kind, size, values.take(indices(*inside)), None, 1, some)
        assert whole.to_cells() == [cell]
        if stop > start:
            shuffled = np.arange(start, stop)
            chance.shuffle(shuffled)
            merged = parts.take(shuffled).regroup(group([0] * len(shuffled), 1), size)
            assert merged.to_cells() == [cell]


@pytest.mark.parametrize(("kind", "size"), KINDS)
@given(values=COLUMNS)
def test_cells_and_arrow_give_back_what_went_in(kind, size, values):
    part = part_of(kind, size, values, range(len(values)), len(values) + 1)
    cells = part.to_cells()
    assert all(isinstance(cell, bytes) for cell in cells)
    assert kind.from_cells(cells).to_cells() == cells
    batch = pa.record_batch(part.to_arrow("p1"))
    for rows in (slice(0, None), slice(1, None), slice(0, 1)):
        some = batch.slice(rows.start, rows.stop)
        columns = dict(zip(some.schema.names, some.columns, strict=True))
        assert kind.from_arrow("p1", columns).to_cells() == cells[rows]
    assert kind.concat([part, kind.from_cells(cells)]).to_cells() == cells * 2


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_nothing_is_a_column_too(kind, size):
    for type_ in (pa.int64(), pa.string(), pa.float32()):
        none = part_of(kind, size, pa.array([], type_), [], 0)
        assert none.to_cells() == kind.from_cells([]).to_cells() == []
        assert none.take(indices()).regroup(group([], 0), size).to_cells() == []
        empty = part_of(kind, size, pa.array([], type_), [], 2)
        assert none.windows(indices(0, 0), indices(0, 0), size).to_cells() == empty.to_cells()
        bare = kind.from_cells(empty.to_cells())
        full = part_of(kind, size, pa.array([1 if type_ != pa.string() else "a"], type_))
        for parts in ([bare, full], [full, bare]):
            merged = kind.concat(parts).regroup(group([0] * 3, 1), size)
            assert merged.to_cells() == full.to_cells()


def test_the_latest_are_ordered_by_time_then_by_value():
    times, values = [5, 7, 5, 7, 1], ["b", "é", "a", "z", "x"]
    assert part_of(Latest, 3, values, times=times).values.to_pylist() == ["b", "z", "é"]
    assert part_of(Latest, 1, values, times=times).values.to_pylist() == ["é"]
    assert part_of(Latest, -1, values, times=times).values.to_pylist() == ["x"]
    assert part_of(Latest, -1, values[:3], times=times[:3]).values.to_pylist() == ["a"]
    assert part_of(Latest, 9, values, times=times).times.tolist() == [1, 5, 5, 7, 7]


def test_times_are_kept_as_microseconds():
    noon = datetime.datetime(2013, 1, 1, 12, tzinfo=datetime.UTC)
    values = pa.array([noon], pa.timestamp("s", "UTC"))
    part = part_of(Latest, 1, values)
    assert part.values.to_pylist() == [int(noon.timestamp()) * 10**6]


def test_the_most_common_come_first_and_of_equally_common_ones_the_least():
    values = ["b", "a", "c", "c", "é", "b", "z"]
    part = part_of(Frequencies, 0, values)
    assert part.most_common(2).to_pylist() == [["b", "c"]]
    assert part.most_common(4).to_pylist() == [["b", "c", "a", "z"]]
    assert part.most_common(9).to_pylist() == [["b", "c", "a", "z", "é"]]
    merged = Frequencies.concat([part, part_of(Frequencies, 0, ["z", "z"])])
    assert merged.most_common(1).to_pylist() == [["b"], ["z"]]
    assert merged.regroup(group([0, 0], 1), 0).most_common(1).to_pylist() == [["z"]]


def distinct(values, size):
    return part_of(Distinct, size, pa.array(values))


def test_fewer_distinct_values_than_the_bound_are_counted_exactly():
    values = [*range(1023), *range(500), *range(500)]
    assert estimate_distinct(distinct(values, 1024), 1024).tolist() == [1023]
    assert estimate_distinct(distinct([0.0, -0.0, 1.0], 3), 3).tolist() == [2]
    empty = part_of(Distinct, 3, pa.array([], pa.string()), [], 2)
    assert estimate_distinct(empty, 3).tolist() == [0, 0]


@pytest.mark.parametrize("size", [64, 256, 1024])
@pytest.mark.parametrize("kind", [str, int])
def test_more_are_estimated_within_the_stated_error(size, kind):
    n, groups = 20_000, 10
    of = np.repeat(np.arange(groups), n)
    values = pa.array([kind(value) for value in range(n * groups)])
    found = estimate_distinct(part_of(Distinct, size, values, of, groups), size)
    errors = found / n - 1
    standard = 1 / np.sqrt(size - 2)
    assert np.abs(errors).max() < 5 * standard
    # Neither is it much better, nor biased.
    assert 0.3 * standard < errors.std() < 2 * standard
    assert abs(errors.mean()) < 5 * standard / np.sqrt(groups)


def test_at_the_bound_it_is_at_least_the_bound():
    assert estimate_distinct(distinct(list(range(1024)), 1024), 1024)[0] >= 1024


def test_the_same_values_once_more_change_nothing():
    part = distinct(list(range(5000)), 64)
    again = Distinct.concat([part, distinct(list(range(2500)), 64), part])
    assert again.regroup(group([0, 0, 0], 1), 64).to_cells() == part.to_cells()
    windows = again.windows(indices(0, 1), indices(3, 3), 64)
    assert windows.to_cells() == part.to_cells() * 2
