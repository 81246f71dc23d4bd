import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skewless.exact import (
    FINEST,
    Scaled,
    column_moments,
    column_sums,
    cross_moments,
    exact_moments,
    exact_sum,
    group_sums,
    ratio,
    ratios,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
NARROW = st.floats(allow_nan=False, allow_infinity=False, width=32)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
# A column is all of one kind, or hypothesis never makes two values that meet.
COLUMN = st.one_of(
    st.lists(FLOATS).map(lambda found: np.array(found, np.float64)),
    st.lists(st.floats(-1e3, 1e3)).map(lambda found: np.array(found, np.float64)),
    st.lists(NARROW).map(lambda found: np.array(found, np.float32)),
    st.lists(INTEGERS).map(lambda found: np.array(found, np.int64)),
    st.lists(st.integers(0, 2**64 - 1)).map(lambda found: np.array(found, np.uint64)),
    st.lists(st.integers(-128, 127)).map(lambda found: np.array(found, np.int8)),
)
TABLE = arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 3)), elements=FLOATS)


def exactly(values):
    return [Fraction(value.item()) for value in values]


def of(scaled):
    unit = Fraction(2) ** scaled.exponent
    return [total * unit for total in scaled.totals.flat]


@given(values=COLUMN)
@example(values=np.array([5e-324, -5e-324, 1.7976931348623157e308]))
@example(values=np.array([1e308, 1e308, -1e308]))
@example(values=np.array([-(2**63)], np.int64))
@example(values=np.array([-128, -128], np.int8))
def test_sums_and_sums_of_squares_are_exact(values):
    exact = exactly(values)
    total, squares = exact_moments(values)
    assert Fraction(total, 2**-FINEST) == sum(exact)
    assert Fraction(squares, 2 ** (-2 * FINEST)) == sum(value * value for value in exact)
    assert exact_sum(values) == total


@pytest.mark.parametrize("rows", [9_999, 10_000, 10_001, 40_000])
def test_the_largest_slices_of_many_rows_are_exact_too(rows):
    values = np.full(rows, np.nextafter(1.0, 0))
    exact = Fraction(values[0])
    total, squares = exact_moments(values)
    assert Fraction(total, 2**-FINEST) == rows * exact
    assert Fraction(squares, 2 ** (-2 * FINEST)) == rows * exact**2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_many_random_values_are_added_as_fsum_does(dtype):
    values = (np.random.default_rng(1).normal(size=30_000) ** 5).astype(dtype)
    assert exact_sum(values) / 2**-FINEST == math.fsum(values.tolist())


@given(table=TABLE)
def test_columns_are_added_exactly(table):
    columns = [exactly(column) for column in table.T]
    sums, squares = column_moments(table)
    assert of(sums) == [sum(column) for column in columns]
    assert of(squares) == [sum(value * value for value in column) for column in columns]
    assert of(column_sums(table)) == of(sums)
    assert sums.totals.shape == squares.totals.shape == (table.shape[1],)


@given(table=TABLE)
def test_products_of_columns_are_added_exactly(table):
    columns = [exactly(column) for column in table.T]
    sums, products = cross_moments(table)
    assert of(sums) == [sum(column) for column in columns]
    assert of(products) == [
        sum(x * y for x, y in zip(one, other, strict=True)) for one in columns for other in columns
    ]


def test_wide_and_long_tables_are_cut_into_parts_that_fit_together():
    table = np.random.default_rng(2).normal(size=(16_500, 3)) * [1e-30, 1.0, 1e30]
    sums, squares = column_moments(table)
    for at in range(3):
        total, square = exact_moments(table[:, at])
        assert of(sums)[at] == Fraction(total, 2**-FINEST)
        assert of(squares)[at] == Fraction(square, 2 ** (-2 * FINEST))
    wide = table[:300].reshape(9, 100).repeat(20, axis=1)
    assert of(column_sums(wide)) == [sum(exactly(column)) for column in wide.T]
    _, products = cross_moments(table)
    assert of(products)[::4] == of(squares)


@given(pairs=st.lists(st.tuples(FLOATS, st.integers(0, 3))))
def test_groups_are_added_exactly(pairs):
    values = np.array([value for value, _ in pairs], np.float64)
    groups = np.array([group for _, group in pairs], np.int64)
    expected = [sum(Fraction(v) for v, g in pairs if g == group) for group in range(4)]
    assert of(group_sums(values, groups, 4)) == expected


def test_groups_of_many_rows_are_added_exactly():
    values = np.random.default_rng(3).random(40_000)
    groups = np.arange(40_000) % 2
    one, other = of(group_sums(values, groups, 2))
    assert (float(one), float(other)) == (math.fsum(values[::2]), math.fsum(values[1::2]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("add", [exact_sum, exact_moments])
def test_what_is_not_finite_is_refused(add, wrong):
    with pytest.raises(ValueError, match="finite"):
        add(np.array([1.0, wrong, 2.0], np.float32))


def test_adding_keeps_the_finer_unit_and_pickles():
    fine = column_sums(np.array([[1e-300, 3.0]]))
    coarse = column_sums(np.array([[1e300, 4.0]]))
    for one, other in ((fine, coarse), (coarse, fine)):
        both = pickle.loads(pickle.dumps(one)).plus(other)
        assert of(both) == [Fraction(1e-300) + Fraction(1e300), 7]


@given(numerator=INTEGERS, denominator=st.integers(1, 2**63), exponent=st.integers(-1200, 1200))
@example(numerator=2**53 + 1 + (1 << 29), denominator=2**53, exponent=0)
@example(numerator=-(2**63), denominator=1, exponent=1100)
def test_ratios_are_rounded_once(numerator, denominator, exponent):
    exact = Fraction(numerator, denominator) * Fraction(2) ** exponent
    for dtype in (np.float16, np.float32, np.float64):
        found = ratio(numerator, denominator, dtype, exponent)
        assert type(found) is dtype
        if not np.isfinite(found):
            assert abs(exact) > float(np.finfo(dtype).max)
            continue
        with np.errstate(over="ignore"):
            beside = [np.nextafter(found, dtype(way)) for way in (-np.inf, np.inf)]
        distance = abs(Fraction(found.item()) - exact)
        for other in filter(np.isfinite, beside):
            assert distance <= abs(Fraction(other.item()) - exact)


def test_a_ratio_near_the_middle_of_two_narrow_floats_is_not_rounded_twice():
    # Just above the middle: to float64 it is the middle, and the middle goes to even.
    middle = Fraction(1) + Fraction(1, 2**24)
    above = middle + Fraction(1, 2**80)
    assert np.float32(float(above)) == 1
    assert ratio(above.numerator, above.denominator, np.float32) == np.nextafter(
        np.float32(1), np.float32(2)
    )


def test_a_ratio_to_nothing_is_nothing():
    numerators = Scaled(np.array([[3, 0]], object), -1)
    found = ratios(numerators, np.array([[2, 0]]), np.float32)
    assert found.tolist() == [[0.75, 0.0]]
    assert found.dtype == np.float32
