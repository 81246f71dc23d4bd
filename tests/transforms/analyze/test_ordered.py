import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.transforms.analyze import ordered
from skewless.transforms.analyze.ordered import Column, Scope, as_keys, as_values, exact_sums

FLOATS = {width: st.floats(allow_nan=False, width=width) for width in (32, 64)}
DTYPES = {32: np.float32, 64: np.float64}
AMOUNTS = st.floats(min_value=0, allow_infinity=False)


@pytest.mark.parametrize("width", FLOATS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_keys_compare_as_the_floats_do(width, data):
    values = np.array(data.draw(st.lists(FLOATS[width])), DTYPES[width])
    keys = as_keys(values)
    for one, key in zip(values, keys, strict=True):
        assert np.array_equal(one < values, key < keys)
        assert np.array_equal(one == values, key == keys)
    assert as_values(keys).dtype == DTYPES[width]
    assert np.array_equal(as_values(keys), values)


def test_a_negative_zero_comes_back_as_zero():
    assert math.copysign(1, as_values(as_keys(np.array([-0.0])))[0]) == 1


def column_of(keys, amounts, parts, scope):
    """Return one column of several, each of them filled by batches."""
    columns = [Column() for _ in range(max(parts, default=0) + 1)]
    for key, amount, part in zip(keys, amounts, parts, strict=True):
        columns[part].add(np.array([key]), np.array([amount]), scope)
    merged = Column()
    for column in columns:
        merged.merge(pickle.loads(pickle.dumps(column)), scope)
    return merged.cells(scope)


@pytest.mark.parametrize("width", FLOATS)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), most=st.integers(2, 9), waiting=st.integers(1, 5))
def test_cells_do_not_depend_on_order_and_sharding(width, data, most, waiting):
    rows = data.draw(st.lists(st.tuples(FLOATS[width], AMOUNTS), min_size=1, max_size=30))
    parts = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    keys = as_keys(np.array([value for value, _ in rows], DTYPES[width]))
    amounts = np.array([amount for _, amount in rows])
    scope = Scope(most, 2)
    whole = Column()
    whole.add(keys, amounts, scope)
    expected = whole.cells(scope)
    order = data.draw(st.permutations(range(len(rows))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered, "WAITING", waiting)
        found = column_of(keys[order], amounts[order], parts, scope)
    assert found.shift == expected.shift
    assert np.array_equal(found.prefixes, expected.prefixes)
    assert np.array_equal(found.counts, expected.counts)
    assert exact_totals(found) == exact_totals(expected)


def exact_totals(cells):
    sums, exponent = exact_sums(cells)
    return [Fraction(total) * Fraction(2) ** exponent for total in sums]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), AMOUNTS), min_size=1))
def test_sums_are_exact_over_the_whole_range_of_floats(rows):
    scope = Scope(9, 9)
    column = Column()
    for key, amount in rows:
        column.add(np.array([key], np.uint64), np.array([amount]), scope)
    cells = column.cells(scope)
    expected = {key: Fraction(0) for key, _ in rows}
    for key, amount in rows:
        expected[key] += Fraction(amount)
    assert dict(zip(cells.prefixes.tolist(), exact_totals(cells), strict=True)) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=40))
def test_no_more_bits_are_dropped_than_it_takes(keys):
    scope = Scope(8, 5)
    cells = column_of(np.array(keys, np.uint32), [0] * len(keys), [0] * len(keys), scope)
    distinct = np.unique(keys)
    assert cells.prefixes.tolist() == np.unique(distinct >> cells.shift).tolist()
    if len(distinct) <= 8:
        assert cells.shift == 0
    else:
        assert len(cells.prefixes) <= 5 < len(np.unique(distinct >> (cells.shift - 1)))


def test_a_scope_keeps_only_keys_with_its_leading_bits():
    keys = np.array([0, 3, 4, 7, 8, 11, 12, 15, 4], np.uint32)
    scope = Scope(None, 2, shift=2, prefixes=np.array([1, 3], np.uint32))
    column = Column()
    column.add(keys, None, scope)
    cells = column.cells(scope)
    assert cells.prefixes.tolist() == [4, 7, 12, 15]
    assert cells.counts.tolist() == [2, 1, 1, 1]
    nothing = Column()
    nothing.add(np.array([0], np.uint32), None, scope)
    assert nothing.cells(scope) is None


def test_a_column_of_few_values_is_small():
    column = Column()
    for _ in range(100):
        column.add(as_keys(np.array([1.0, 2.0], np.float32)), None, Scope(9, 9))
    assert len(pickle.dumps(column)) < 2_000
    column.cells(Scope(9, 9))
    assert len(pickle.dumps(column)) < 600
