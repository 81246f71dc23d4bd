"""How many values there are of each size, exactly, in any order of the rows and in flat memory.

A float is read as an unsigned integer of the same order, its key. While a column has few
distinct keys, each is counted by itself; when there are too many, the lowest bits are dropped
until the prefixes that are left are few enough. Which bits are dropped follows from the set of
keys alone, so neither sharding nor order nor batching of the rows can change a cell. A second
look at the rows, only into the cells that matter, finds the bits that were dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skewless.transforms.analyze.combiner import Array

__all__ = ["WAITING", "Cells", "Column", "Scope", "as_keys", "as_values", "exact_sums"]

# Keys wait until there are so many, or as many as there are cells: merging costs by the cells.
WAITING = 2**15
# Exact sums are rows of 32 bits each, in int64, so that 2**31 of them can be added unseen.
_LIMB = 32
_MASK = 2**_LIMB - 1
_MANTISSA = 53
# The unit of all sums is 2**-1126: the smallest subnormal is an integer of 53 bits in it.
_UNIT = 1126


def as_keys(values: Array) -> Array:
    """Return unsigned integers that compare as the floats do; -0.0 counts as 0.0.

    Args:
        values: float32 or float64 [n], contiguous, without NaN.

    Returns:
        uint32 or uint64 [n].

    >>> as_keys(np.array([-1.5, -0.0, 0.0, 2.0], np.float32)).tolist()
    [1077936127, 2147483648, 2147483648, 3221225472]
    """
    signed, unsigned, sign = _types(values.dtype.itemsize)
    positive = values + values.dtype.type(0)  # -0.0 + 0.0 is 0.0
    flips = (positive.view(signed) >> sign).view(unsigned) | (unsigned(1) << unsigned(sign))
    flips ^= positive.view(unsigned)
    return np.asarray(flips)


def as_values(keys: Array) -> Array:
    """Return the floats of `as_keys`: float32 for uint32, float64 for uint64."""
    _, unsigned, sign = _types(keys.dtype.itemsize)
    negative = (keys >> unsigned(sign)) ^ unsigned(1)
    flips = (unsigned(0) - negative) | (unsigned(1) << unsigned(sign))
    return np.asarray((keys ^ flips).view(np.float32 if sign == 31 else np.float64))


def _types(size: int) -> tuple[Any, Any, int]:
    return (np.int32, np.uint32, 31) if size == 4 else (np.int64, np.uint64, 63)


class Cells(NamedTuple):
    """Distinct prefixes of keys, ascending, and what was added to each.

    `prefixes` are keys >> `shift` (unsigned [cells]), `counts` int64 [cells], `sums` int64
    [cells, limbs]: limb j counts units of 2**(32 * (low + j) - 1126).
    """

    shift: int
    prefixes: Array
    counts: Array
    sums: Array
    low: int


@dataclasses.dataclass(frozen=True, eq=False)
class Scope:
    """What a pass over the rows keeps.

    Args:
        most: So many distinct keys at most; None for all of them.
        coarse: So many cells at most, at least 2, once there are more distinct keys.
        shift: The shift of `prefixes`.
        prefixes: Keys with these leading bits only, ascending; None for all.
    """

    most: int | None
    coarse: int
    shift: int = 0
    prefixes: Array | None = None

    def of(self, keys: Array) -> Array | slice:
        """Return which of ascending keys are in the scope, as an index."""
        if self.prefixes is None:
            return slice(None)
        heads = keys >> keys.dtype.type(self.shift)
        starts = np.searchsorted(heads, self.prefixes, "left")
        stops = np.searchsorted(heads, self.prefixes, "right")
        some = stops > starts
        marks = np.zeros(len(keys) + 1, np.int8)
        marks[starts[some]] += 1
        marks[stops[some]] -= 1
        return np.cumsum(marks[:-1], dtype=np.int8).view(np.bool_)


class Column:
    """The cells of one column so far, and the keys that wait to be counted.

    It holds at most `most` cells of 12 bytes (float32) or 16 bytes (float64), 8 bytes more for
    each limb of the sums, and as many waiting keys, or 32,768, besides those of a batch.
    """

    __slots__ = ("_amounts", "_cells", "_keys", "_waiting")

    def __init__(
        self, cells: Cells | None = None, keys: Sequence[Array] = (), amounts: Sequence[Array] = ()
    ) -> None:
        self._cells = cells
        self._keys = list(keys)
        self._amounts = list(amounts)
        self._waiting = sum(map(len, self._keys))

    def __reduce__(self) -> tuple[Any, ...]:
        keys, amounts = _joined(self._keys), _joined(self._amounts)
        return Column, (self._cells, keys, amounts)

    def add(self, keys: Array, amounts: Array | None, scope: Scope) -> None:
        """Count keys.

        Args:
            keys: Of `as_keys`, [n]; the array is kept.
            amounts: What to sum in the cells: finite, not negative, float64 [n]; always
                or never given to one column.
            scope: The same in all calls on columns of one pass.
        """
        if not len(keys):
            return
        self._keys.append(keys)
        if amounts is not None:
            self._amounts.append(amounts)
        self._waiting += len(keys)
        self._settle(scope)

    def merge(self, other: Column, scope: Scope) -> None:
        """Add what another column holds; the other must not be used any more."""
        self._keys += other._keys
        self._amounts += other._amounts
        self._waiting += other._waiting
        self._take(other._cells, scope)
        self._settle(scope)

    def cells(self, scope: Scope) -> Cells | None:
        """Return the cells of all keys, None if there are none in the scope."""
        if self._waiting:
            (keys,), amounts = _joined(self._keys), _joined(self._amounts)
            self._keys, self._amounts, self._waiting = [], [], 0
            shift = self._cells.shift if self._cells is not None else 0
            self._take(_count(keys, amounts[0] if amounts else None, shift, scope), scope)
        return self._cells

    def _settle(self, scope: Scope) -> None:
        held = len(self._cells.prefixes) if self._cells is not None else 0
        if self._waiting >= max(WAITING, held):
            self.cells(scope)

    def _take(self, cells: Cells | None, scope: Scope) -> None:
        if cells is None:
            return
        if self._cells is not None:
            cells = _merge(self._cells, cells)
        self._cells = _fit(cells, scope)


def _joined(arrays: list[Array]) -> list[Array]:
    return [np.concatenate(arrays)] if len(arrays) > 1 else arrays


def _count(keys: Array, amounts: Array | None, shift: int, scope: Scope) -> Cells | None:
    """Return cells of keys in any order, None if none is in the scope."""
    if amounts is None:
        keys = np.sort(keys)
        keys = keys[scope.of(keys)]
        limbs, low = np.empty((len(keys), 0), np.int64), 0
    else:
        order = np.argsort(keys)
        keys = keys[order]
        chosen = scope.of(keys)
        keys = keys[chosen]
        limbs, low = _limbs(amounts[order][chosen])
    if not len(keys):
        return None
    return _summed(shift, keys >> keys.dtype.type(shift), None, limbs, low)


def _summed(shift: int, prefixes: Array, counts: Array | None, sums: Array, low: int) -> Cells:
    """Return one cell for each run of equal prefixes, of which each counts as one or `counts`."""
    starts = np.concatenate([[0], np.flatnonzero(prefixes[1:] != prefixes[:-1]) + 1])
    if counts is None:
        counts = np.diff(starts, append=len(prefixes))
    else:
        counts = np.add.reduceat(counts, starts)
    if sums.shape[1]:
        sums = _carried(np.add.reduceat(sums, starts, axis=0))
    return Cells(shift, prefixes[starts], counts, sums[: len(starts)], low)


def _merge(one: Cells, other: Cells) -> Cells:
    shift = max(one.shift, other.shift)
    one, other = _coarsened(one, shift), _coarsened(other, shift)
    prefixes = np.concatenate([one.prefixes, other.prefixes])
    # Two ascending runs: a stable sort merges them in one go.
    order = np.argsort(prefixes, kind="stable")
    counts = np.concatenate([one.counts, other.counts])[order]
    low = min(one.low, other.low)
    width = max(one.low + one.sums.shape[1], other.low + other.sums.shape[1]) - low
    sums = np.concatenate([_widened(one, low, width), _widened(other, low, width)])[order]
    return _summed(shift, prefixes[order], counts, sums, low)


def _coarsened(cells: Cells, shift: int) -> Cells:
    if shift == cells.shift:
        return cells
    prefixes = cells.prefixes >> cells.prefixes.dtype.type(shift - cells.shift)
    return _summed(shift, prefixes, cells.counts, cells.sums, cells.low)


def _fit(cells: Cells, scope: Scope) -> Cells:
    """Return no more cells than the scope allows, with as few bits dropped as that takes."""
    size = len(cells.prefixes)
    if scope.most is None or size <= (scope.coarse if cells.shift else scope.most):
        return cells
    # Neighbours fall together once the highest bit in which they differ is dropped.
    steps = cells.prefixes[1:] ^ cells.prefixes[:-1]
    few, enough = 0, 8 * steps.dtype.itemsize - 1
    while enough - few > 1:
        middle = (few + enough) // 2
        if 1 + np.count_nonzero(steps >> steps.dtype.type(middle)) <= scope.coarse:
            enough = middle
        else:
            few = middle
    return _coarsened(cells, cells.shift + enough)


def _limbs(amounts: Array) -> tuple[Array, int]:
    """Return amounts as limbs, int64 [n, limbs], and the place of the lowest."""
    some = amounts[amounts > 0]
    if not len(some):
        return np.zeros((len(amounts), 1), np.int64), 0
    (_, least), (_, greatest) = math.frexp(some.min()), math.frexp(some.max())
    low = (least - _MANTISSA + _UNIT) // _LIMB
    limbs = np.empty((len(amounts), (greatest - 1 + _UNIT) // _LIMB - low + 1), np.int64)
    # From the highest on, take the bits of a limb off; scaling by powers of two is exact.
    rest = amounts
    for at in reversed(range(limbs.shape[1])):
        exponent = _LIMB * (low + at) - _UNIT
        piece = np.floor(np.ldexp(rest, -exponent))
        rest = rest - np.ldexp(piece, exponent)
        limbs[:, at] = piece
    return limbs, low


def _carried(sums: Array) -> Array:
    """Return the same sums with all limbs but the highest below 2**32."""
    for at in range(sums.shape[1] - 1):
        sums[:, at + 1] += sums[:, at] >> _LIMB
        sums[:, at] &= _MASK
    while sums.shape[1] > 1 and not sums[:, -1].any():
        sums = sums[:, :-1]
    return sums


def _widened(cells: Cells, low: int, width: int) -> Array:
    left = cells.low - low
    return np.pad(cells.sums, ((0, 0), (left, width - left - cells.sums.shape[1])))


def exact_sums(cells: Cells) -> tuple[Array, int]:
    """Return the sum of each cell as Python integers [cells], and the exponent of their unit.

    >>> column = Column()
    >>> column.add(as_keys(np.array([1.0, 1.0, 3.0])), np.array([0.5, 0.25, 4.0]), Scope(9, 9))
    >>> sums, exponent = exact_sums(column.cells(Scope(9, 9)))
    >>> [total * 2.0**exponent for total in sums]
    [0.75, 4.0]
    """
    totals = np.zeros(len(cells.prefixes), object)
    for at in range(cells.sums.shape[1]):
        totals += cells.sums[:, at].astype(object) << (_LIMB * at)
    return totals, _LIMB * cells.low - _UNIT
