"""Exact sums in columns against Python's integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skewless.transforms.aggregate.limbs import ExactSums, variance

FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 1e308, -1e308, 0.1, 1.0, 2.0**53]),
    st.sampled_from(
        [math.ldexp(sign * (1 + 2.0**-52), at) for sign in (1, -1) for at in (-500, 0)]
    ),
)
INTS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-100, 100),
    st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**32, 2**32 - 1]),
)
VALUES = st.one_of(
    st.lists(FLOATS, max_size=12).map(lambda cells: np.array(cells, np.float64)),
    st.lists(st.floats(-4, 4, width=32), max_size=12).map(lambda cells: np.array(cells, "f4")),
    st.lists(INTS, max_size=12).map(lambda cells: np.array(cells, np.int64)),
)


@st.composite
def grouped(draw):
    """Values, their groups, and how many groups there are."""
    values = draw(VALUES)
    count = draw(st.integers(1, 5))
    groups = draw(st.lists(st.integers(0, count - 1), min_size=len(values), max_size=len(values)))
    return values, np.array(groups, np.int64), count


def exactly(sums: ExactSums) -> list[Fraction]:
    unit = Fraction(2) ** (32 * sums.base)
    return [
        unit * sum(limb << (32 * at) for at, limb in enumerate(row)) for row in sums.limbs.tolist()
    ]


def of(values, groups, count, power=1) -> list[Fraction]:
    sums = [Fraction(0)] * count
    for value, group in zip(values.tolist(), groups.tolist(), strict=True):
        sums[group] += Fraction(value) ** power
    return sums


def rounded(number: Fraction) -> float:
    try:
        return number.numerator / number.denominator
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def numbers(fractions: list[Fraction]) -> ExactSums:
    """The numbers, which are of finitely many bits."""
    cells = []
    for number in fractions:
        place = -((number.denominator.bit_length() - 1 + 31) // 32)
        integer = int(number * Fraction(2) ** (-32 * place))
        while integer and integer % 2**32 == 0:
            integer, place = integer >> 32, place + 1
        width = 4 * (integer.bit_length() // 32 + 1)
        packed = place.to_bytes(2, "little", signed=True)
        cells.append(packed + integer.to_bytes(width, "little", signed=True) if integer else b"")
    return ExactSums.from_bytes(cells)


@given(grouped())
def test_sums_are_those_of_fractions(rows):
    sums, squares = ExactSums.of_groups(*rows), ExactSums.squares_of_groups(*rows)
    assert exactly(sums) == of(*rows)
    assert exactly(squares) == of(*rows, power=2)
    for found in (sums, squares):
        assert found.limbs.dtype == np.int64
        assert np.all((found.limbs[:, :-1] >= 0) & (found.limbs[:, :-1] < 2**32))
        assert np.all(abs(found.limbs[:, -1]) <= 2**32)
        assert found.to_float64().tolist() == [rounded(number) for number in exactly(found)]


@given(grouped(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_no_order_and_no_split_shows(rows, cut, random):
    values, groups, count = rows
    order = np.array(random.sample(range(len(values)), len(values)), np.int64)
    parts = [order[:cut], order[cut:], order[:0]]
    for make in (ExactSums.of_groups, ExactSums.squares_of_groups):
        tiles = ExactSums.concat([make(values[part], groups[part], count) for part in parts])
        merged = tiles.regroup(np.tile(np.arange(count), len(parts)), count)
        assert merged.to_bytes() == make(*rows).to_bytes()


@given(grouped())
def test_bytes_come_back(rows):
    sums = ExactSums.of_groups(*rows)
    cells = sums.to_bytes()
    back = ExactSums.from_bytes(cells)
    assert exactly(back) == exactly(sums)
    assert back.to_bytes() == numbers(exactly(sums)).to_bytes() == cells
    alone = [cell for row in range(len(cells)) for cell in sums.take([row]).to_bytes()]
    assert alone == cells
    assert [cell == b"" for cell in cells] == [number == 0 for number in exactly(sums)]


@given(grouped(), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8))
def test_windows_are_differences_of_running_sums(rows, windows):
    values, _, _ = rows
    each = ExactSums.of_groups(values, np.arange(len(values)), len(values))
    ends = np.minimum(np.array(windows, np.int64).reshape(-1, 2), len(values))
    start, stop = ends.min(axis=1), ends.max(axis=1)
    found = each.windows(start, stop)
    assert exactly(found) == [
        sum(map(Fraction, values[one:other].tolist()), Fraction(0))
        for one, other in zip(start.tolist(), stop.tolist(), strict=True)
    ]


COUNTS = st.one_of(
    st.integers(1, 10),
    st.integers(1, 2**62),
    st.sampled_from([2**26, 2**26 + 1, 2**31 - 1, 2**32 - 1, 2**32, 2**53, 2**53 + 1]),
)


@given(grouped(), st.lists(COUNTS, min_size=5, max_size=5), st.integers(0, 4))
def test_quotients_are_rounded_once(rows, counts, zero):
    divisors = np.array(counts[: rows[2]], np.int64)
    divisors[zero:] = 0
    for make in (ExactSums.of_groups, ExactSums.squares_of_groups):
        sums = make(*rows)
        found = sums.divided_by(divisors).tolist()
        for one, number, count in zip(found, exactly(sums), divisors.tolist(), strict=True):
            assert math.isnan(one) if count == 0 else one == rounded(number / count)


@given(st.lists(st.tuples(st.integers(-(2**200), 2**200), st.integers(-2200, 1000)), max_size=4))
@example([(2**54 + 1, 0), (2**54 + 2, 0), (2**54 + 3, 0), (2**118 + 2**65, -64)])
@example([(2**54 - 1, 970), (2**53 - 1, 971), (2**1024 - 2**970, 0), (-(2**1024), 0)])
@example([(1, -1075), (2**64 + 1, -1139), (3, -1075), (-(2**52) - 1, -1076)])
@example([(2**1024, 0)])
def test_numbers_of_any_bits_are_rounded_once(pairs):
    fractions = [Fraction(integer) * Fraction(2) ** place for integer, place in pairs]
    sums = numbers(fractions)
    assert exactly(sums) == fractions
    assert sums.to_float64().tolist() == [rounded(number) for number in fractions]
    for count in (3, 2**31 - 1, 2**40 + 1):
        found = sums.divided_by(np.full(len(pairs), count))
        assert found.tolist() == [rounded(number / count) for number in fractions]


@given(grouped())
def test_variance_is_rounded_once(rows):
    counts = np.bincount(rows[1], minlength=rows[2])
    sums, squares = ExactSums.of_groups(*rows), ExactSums.squares_of_groups(*rows)
    found = variance(sums, squares, counts)
    for one, n, first, second in zip(
        found.tolist(), counts.tolist(), of(*rows), of(*rows, power=2), strict=True
    ):
        assert math.isnan(one) if n == 0 else one == rounded((n * second - first**2) / n**2)


@given(st.lists(st.tuples(COUNTS, st.integers(0, 2**70)), min_size=1, max_size=4))
def test_variance_of_many_rows(pairs):
    """Counts that no test can have rows for."""
    counts = np.array([count for count, _ in pairs])
    firsts = [Fraction(first) for _, first in pairs]
    seconds = [first**2 / 2**80 + first for first in firsts]
    found = variance(numbers(firsts), numbers(seconds), counts)
    assert found.tolist() == [
        rounded((n * second - first**2) / n**2)
        for n, first, second in zip(counts.tolist(), firsts, seconds, strict=True)
    ]


def test_many_rows_of_one_group():
    values = np.random.default_rng(1).normal(size=2**21 + 100).astype(np.float32)
    values[::1000] *= 1e6
    groups = np.zeros(len(values), np.int64)
    sums = ExactSums.of_groups(values, groups, 1)
    assert sums.to_float64().tolist() == [math.fsum(values.tolist())]
    squares = ExactSums.squares_of_groups(values, groups, 1)
    assert squares.to_float64().tolist() == [math.fsum((values.astype(np.float64) ** 2).tolist())]
    apart = ExactSums.of_groups(values, np.arange(len(values)), len(values))
    last = apart.windows(np.array([0]), np.array([len(values)]))
    assert last.to_bytes() == sums.to_bytes()
    most = np.full(len(values), 2**63 - 1)
    assert exactly(ExactSums.of_groups(most, groups, 1)) == [len(values) * (2**63 - 1)]
    assert exactly(ExactSums.squares_of_groups(most, groups, 1)) == [len(values) * (2**63 - 1) ** 2]
    each = ExactSums.of_groups(most, np.arange(len(values)), len(values))
    assert exactly(each.regroup(groups, 1)) == [len(values) * (2**63 - 1)]


def test_many_groups_of_wide_values():
    random = np.random.default_rng(2)
    values = random.normal(size=60_000) * np.exp(random.normal(size=60_000) * 20)
    groups = random.integers(0, 20_000, 60_000)
    sums = ExactSums.of_groups(values, groups, 20_000)
    counts = np.bincount(groups, minlength=20_000)
    order = np.argsort(groups, kind="stable")
    parts = np.split(values[order], np.cumsum(counts)[:-1])
    assert sums.to_float64().tolist() == [math.fsum(part.tolist()) for part in parts]
    means = sums.divided_by(counts)
    some = slice(0, None, 97)
    assert [
        count == 0 or one == rounded(number / count)
        for one, number, count in zip(
            means[some].tolist(), exactly(sums.take(some)), counts[some].tolist(), strict=True
        )
    ] == [True] * len(means[some])
    assert ExactSums.from_bytes(sums.to_bytes()).to_bytes() == sums.to_bytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_nothing(dtype):
    none, no_rows = np.zeros(0, dtype), np.zeros(0, np.int64)
    for make in (ExactSums.of_groups, ExactSums.squares_of_groups):
        assert make(none, no_rows, 3).to_bytes() == [b""] * 3
        empty = make(none, no_rows, 0)
        for same in (empty, empty.take(no_rows), empty.regroup(no_rows, 0), ExactSums.zeros(0)):
            assert same.to_bytes() == []
            assert same.to_float64().dtype == np.float64
            assert len(same.divided_by(no_rows)) == 0
    assert empty.windows(np.array([0]), np.array([0])).to_float64().tolist() == [0.0]
    assert empty.windows(no_rows, no_rows).to_bytes() == []
    assert empty.regroup(no_rows, 2).to_bytes() == [b"", b""]
    assert ExactSums.concat([]).to_bytes() == ExactSums.from_bytes([]).to_bytes() == []
    assert len(variance(empty, empty, no_rows)) == 0
    assert ExactSums.zeros(2).to_float64().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numbers_that_are_not_finite_are_refused(value, dtype):
    values, groups = np.array([1.0, value], dtype), np.zeros(2, np.int64)
    for make in (ExactSums.of_groups, ExactSums.squares_of_groups):
        with pytest.raises(ValueError, match="values: expected finite numbers"):
            make(values, groups, 1)


@pytest.mark.parametrize("cell", [b"\0", b"\0\0", b"\0\0\1", b"\0" * 8])
def test_bytes_of_no_number_are_refused(cell):
    with pytest.raises(ValueError, match="cells: expected the bytes of exact sums"):
        ExactSums.from_bytes([b"", cell])
