"""Parts of tiles: counts, sums and extremes, alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.aggregate.partials import Counts, Extremes, Group, Squares, Sums, Values

INTEGERS = st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63)])
FLOATS = st.sampled_from([0.0, -0.0, 1.5, -1e300, 1e300, 5e-324])
COLUMNS = st.one_of(
    st.lists(INTEGERS, max_size=8).map(lambda cells: pa.array(cells, pa.int64())),
    st.lists(FLOATS, max_size=8).map(lambda cells: pa.array(cells, pa.float64())),
)
KINDS = [(Counts, 0), (Sums, 0), (Squares, 0), (Extremes, 1), (Extremes, -1)]


def group(of, count):
    return Group(np.array(of, np.int64), count)


def part_of(kind, size, values, of, count):
    events = Values(values, np.zeros(len(values), np.int64))
    return kind.of_events(events, group(of, count), size)


def indices(*numbers):
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(("kind", "size"), KINDS)
@given(values=COLUMNS, chance=st.randoms(use_true_random=False))
def test_windows_regroup_and_events_agree(kind, size, values, chance):
    count = 6
    of = [chance.randrange(count) for _ in values]
    parts = part_of(kind, size, values, of, count)
    starts = indices(*[chance.randint(0, count) for _ in range(5)])
    stops = indices(*[chance.randint(start, count) for start in starts.tolist()])
    windows = parts.windows(starts, stops, size).to_cells()
    for start, stop, cell in zip(starts, stops, windows, strict=True):
        inside = [n for n, place in enumerate(of) if start <= place < stop]
        whole = part_of(kind, size, values.take(indices(*inside)), [0] * len(inside), 1)
        assert whole.to_cells() == [cell]
        if stop > start:
            one = parts.take(np.arange(start, stop))
            merged = one.regroup(group([0] * int(stop - start), 1), size)
            assert merged.to_cells() == [cell]


@pytest.mark.parametrize(("kind", "size"), KINDS)
@given(values=COLUMNS)
def test_cells_and_arrow_give_back_what_went_in(kind, size, values):
    part = part_of(kind, size, values, range(len(values)), len(values) + 1)
    assert kind.from_cells(part.to_cells()).to_cells() == part.to_cells()
    columns = {"other": pa.array([1]), **part.to_arrow("p1"), **part.to_arrow("p11")}
    assert kind.from_arrow("p1", columns).to_cells() == part.to_cells()
    both = kind.concat([part, kind.from_cells(part.to_cells())])
    assert both.to_cells() == part.to_cells() * 2


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_nothing_is_a_column_too(kind, size):
    none = part_of(kind, size, pa.array([], pa.int64()), [], 0)
    assert none.to_cells() == kind.from_cells([]).to_cells() == []
    assert none.take(indices()).regroup(group([], 0), size).to_cells() == []
    empty = part_of(kind, size, pa.array([], pa.int64()), [], 2)
    assert none.windows(indices(0, 0), indices(0, 0), size).to_cells() == empty.to_cells()


def test_the_least_integer_has_no_opposite_and_is_found_all_the_same():
    least, largest = -(2**63), 2**63 - 1
    values = pa.array([largest, least, 0], pa.int64())
    assert part_of(Extremes, 1, values, [0, 0, 1], 2).values.tolist() == [largest, 0]
    lows = part_of(Extremes, -1, values, [0, 0, 1], 2).negated()
    assert lows.values.tolist() == [least, 0]
    assert lows.known.tolist() == [True, True]


def test_zero_has_one_sign():
    for size in (1, -1):
        for values in ([0.0, -0.0], [-0.0, 0.0], [-0.0]):
            part = part_of(Extremes, size, pa.array(values), [0] * len(values), 1)
            found = part if size > 0 else part.negated()
            assert not np.signbit(found.values).any()
            assert part.to_cells() == [b"f" + bytes(8)]


def test_cells_of_no_value_take_the_type_of_others():
    large = part_of(Extremes, 1, pa.array([2**53 + 1]), [1], 2)
    nothing = Extremes.from_cells([b"", b""])
    for parts in ([large, nothing], [nothing, large]):
        assert 2**53 + 1 in Extremes.concat(parts).values.tolist()


def test_sums_of_different_places_are_put_together():
    tiny = part_of(Sums, 0, pa.array([5e-324]), [0], 1)
    huge = part_of(Sums, 0, pa.array([1e308]), [0], 1)
    whole = Sums.concat([tiny, huge, part_of(Sums, 0, pa.array([-1e308]), [0], 1)])
    assert whole.regroup(group([0, 0, 0], 1), 0).sums.to_float64().tolist() == [5e-324]
