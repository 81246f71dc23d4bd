"""Exact sums of many groups at once, as columns of integers.

Features of windows are sums and differences of sums. Rounded, they depend on the order of the
rows and on how these were split; exact sums do not, and are rounded once, at the very end. A
column per 32 bits keeps millions of them in NumPy: the limbs of long integers, which all numbers
have at the same places. Limbs are added as float64 where that is exact, and else as int64.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skewless.exact import ratio

__all__ = ["ExactSums", "variance"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Places = dict[int, Ints]

_BITS = 32
_MASK = 2**_BITS - 1
# Float64 holds every integer up to here, so sums up to here are exact in any order.
_INTEGERS = 2**53
# So many limbs of a group are added as float64.
_ROWS = _INTEGERS >> _BITS
# So many rows at once stay in the processor's caches.
_BLOCK = 2**14
# Squares beyond 2**(+-_WIDE) might lose bits; scaled by 2**_SCALE they do not.
_WIDE = 400
_SCALE = 640
# Numbers of 53 bits at these places are far from the limits of float64.
_SHORT_BASE = 8
# The least float64 of full precision; what is finer would be rounded twice.
_NORMAL = 2.0**-1022


class ExactSums(NamedTuple):
    """Exact numbers: number i is the sum over j of `limbs[i, j] * 2**(32 * (base + j))`.

    The class methods make them: all limbs but the last of a number are from 0 to 2**32 - 1, and
    the last has the sign. At most 2**31 numbers are added up at once.

    >>> sums = ExactSums.of_groups(np.array([1e300, 0.1, -1e300]), np.array([0, 1, 0]), 2)
    >>> sums.to_float64()
    array([0. , 0.1])
    """

    limbs: Ints
    base: int

    @classmethod
    def zeros(cls, n: int) -> ExactSums:
        """Return n zeros."""
        return cls(np.zeros((n, 1), np.int64), 0)

    @classmethod
    def of_groups(cls, values: npt.NDArray[Any], groups: Ints, count: int) -> ExactSums:
        """Return the sum of the values of each group.

        Args:
            values: Finite float64 or float32, or int64; [n].
            groups: The group of each value, from 0 to `count` - 1, in any order; [n].
            count: The number of groups.

        Returns:
            `count` numbers; 0 for a group without values.

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        places: Places = {}
        for part in _floats(values):
            _add(places, part, groups, count)
        return _of_places(places, count)

    @classmethod
    def squares_of_groups(cls, values: npt.NDArray[Any], groups: Ints, count: int) -> ExactSums:
        """Return the sum of the squares of the values of each group; all is as in `of_groups`.

        >>> of = np.array([0, 0, 1])
        >>> ExactSums.squares_of_groups(np.array([3, 4, 2**62]), of, 2).to_float64()
        array([2.50000000e+01, 2.12676479e+37])
        """
        places: Places = {}
        parts = _floats(values)
        for scale, rows in _scales(parts[0]):
            scaled = (part[rows] * 2.0 ** (-scale * _SCALE) for part in parts)
            halves = [half for part in scaled for half in _halves(part)]
            for at, one in enumerate(halves):
                for to, other in enumerate(halves[at:]):
                    product = one * other * (2.0 if to else 1.0)
                    _add(places, product, groups[rows], count, 2 * scale * _SCALE // _BITS)
        return _of_places(places, count)

    @classmethod
    def concat(cls, parts: Sequence[ExactSums]) -> ExactSums:
        """Return the numbers of all parts, one after the other."""
        if not parts:
            return cls.zeros(0)
        ends = np.cumsum([len(part.limbs) for part in parts])
        places: Places = {}
        for part, end in zip(parts, ends.tolist(), strict=True):
            for place, limbs in enumerate(part.limbs.T, part.base):
                whole = places.setdefault(place, np.zeros(ends[-1], np.int64))
                whole[end - len(limbs) : end] = limbs
        return _of_places(places, int(ends[-1]))

    @classmethod
    def from_bytes(cls, cells: Sequence[bytes]) -> ExactSums:
        """Return the numbers that `to_bytes` wrote.

        Raises:
            ValueError: If a cell has a length that no number has.
        """
        alike: dict[int, list[int]] = {}
        for row, cell in enumerate(cells):
            alike.setdefault(len(cell), []).append(row)
        alike.pop(0, None)
        places: Places = {}
        for length, rows in alike.items():
            if length < 6 or length % 4 != 2:
                raise ValueError("cells: expected the bytes of exact sums")
            joined = b"".join([cells[row] for row in rows])
            found = np.frombuffer(joined, _cell(length))
            limbs = found["limbs"].astype(np.int64)
            limbs[:, -1] = found["limbs"][:, -1].view(np.int32)
            bases, at = found["base"], np.array(rows)
            for base in set(bases.tolist()):
                chosen = bases == base
                for place, column in enumerate(limbs[chosen].T, base):
                    whole = places.setdefault(place, np.zeros(len(cells), np.int64))
                    whole[at[chosen]] = column
        return _of_places(places, len(cells))

    def to_bytes(self) -> list[bytes]:
        """Return the bytes of each number: equal ones for equal numbers, however these were made.

        Zero is `b""`. Others are the place of the lowest limb that is not 0, as int16, and from
        there on the limbs of 32 bits, in two's complement; all are little-endian.

        >>> ExactSums.of_groups(np.array([-2.0, 0.0]), np.array([0, 1]), 2).to_bytes()
        [b'\\x00\\x00\\xfe\\xff\\xff\\xff', b'']
        """
        last = self.limbs[:, -1]
        limbs = np.column_stack([self.limbs, last >> _BITS]) & _MASK
        low, high = np.zeros(len(limbs), np.int64), np.zeros(len(limbs), np.int64)
        for at in reversed(range(limbs.shape[1])):
            low[limbs[:, at] != 0] = at
        for at in range(1, limbs.shape[1]):
            # A limb says no more than the sign bit below it where both are alike.
            sign = np.where(last < 0, _MASK, 0)
            high[(limbs[:, at] != sign) | (limbs[:, at - 1] >> 31 != sign & 1)] = at
        lengths = np.where(limbs.any(axis=1), high - low + 1, 0)
        cells = np.full(len(limbs), b"", object)
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = np.flatnonzero(lengths == length)
            found = np.empty(len(rows), _cell(2 + 4 * length))
            found["base"] = low[rows] + self.base
            found["limbs"] = limbs[rows[:, None], low[rows][:, None] + np.arange(length)]
            cells[rows] = found.view(f"V{found.itemsize}").astype(object)
        return list(cells)

    def take(self, indices: Any) -> ExactSums:
        """Return the numbers at some indices."""
        return ExactSums(self.limbs[indices], self.base)

    def regroup(self, groups: Ints, count: int) -> ExactSums:
        """Return the sum of the numbers of each group, of which there are `count`."""
        columns = [np.zeros(count, np.int64) for _ in range(self.limbs.shape[1])]
        for start in range(0, len(groups), _ROWS):
            part = slice(start, start + _ROWS)
            for column, limbs in zip(columns, self.limbs[part].T, strict=True):
                column += np.bincount(groups[part], limbs, count).astype(np.int64)
        return _carried(columns, self.base)

    def windows(self, starts: Ints, stops: Ints) -> ExactSums:
        """Return the sums of the numbers [start, stop) of each window.

        >>> sums = ExactSums.of_groups(np.array([1.0, 2.0, 4.0]), np.arange(3), 3)
        >>> sums.windows(np.array([0, 1, 2]), np.array([2, 3, 2])).to_float64()
        array([3., 6., 0.])
        """
        columns = []
        for limbs in self.limbs.T:
            # At most 2**31 numbers below 2**32 fit without a carry.
            running = np.zeros(len(limbs) + 1, np.int64)
            np.cumsum(limbs, out=running[1:])
            columns.append(running[stops] - running[starts])
        return _carried(columns, self.base)

    def to_float64(self) -> Floats:
        """Return each number rounded once, to nearest, ties to even; infinity beyond the range."""
        found = [_ratios(self.take(rows)) for rows in _blocks(len(self.limbs))]
        return np.concatenate([np.zeros(0), *found])

    def divided_by(self, counts: Ints) -> Floats:
        """Return each number divided by its count and rounded once; NaN where the count is 0."""
        found = [_ratios(self.take(rows), counts[rows]) for rows in _blocks(len(counts))]
        return np.concatenate([np.zeros(0), *found])


def variance(sums: ExactSums, squares: ExactSums, counts: Ints) -> Floats:
    """Return the population variance of each group, rounded once.

    Args:
        sums: The sums of the values; n numbers.
        squares: The sums of their squares.
        counts: The number of values of each; [n].

    Returns:
        The exact (count * squares - sums**2) / count**2, rounded; NaN where the count is 0; [n].

    >>> rows = np.array([1e9 + 1, 1e9 + 2, 1e9 + 3]), np.zeros(3, np.int64), 1
    >>> sums, squares = ExactSums.of_groups(*rows), ExactSums.squares_of_groups(*rows)
    >>> variance(sums, squares, np.array([3]))
    array([0.66666667])
    """
    found = [np.zeros(0)]
    for rows in _blocks(len(counts)):
        count, size = counts[rows], _sizes(sums.take(rows))
        places: Places = {}
        factor = ExactSums(np.stack([count & _MASK, count >> _BITS], axis=1), 0)
        _add_products(places, factor, squares.take(rows), 1)
        _add_products(places, size, size, -1)
        found.append(_ratios(_of_places(places, len(count)), count, 2))
    return np.concatenate(found)


@functools.lru_cache(maxsize=256)
def _cell(length: int) -> np.dtype[Any]:
    """Return the type of the bytes of a number."""
    return np.dtype([("base", "<i2"), ("limbs", "<u4", (length // 4,))])


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]


def _floats(values: npt.NDArray[Any]) -> list[Floats]:
    """Return floats of which the values are the exact sums."""
    if values.dtype.kind == "f":
        floats = values.astype(np.float64, copy=False)
        if not np.isfinite(floats).all():
            raise ValueError("values: expected finite numbers")
        return [floats]
    if values.max(initial=0) <= _INTEGERS and values.min(initial=0) >= -_INTEGERS:
        return [values.astype(np.float64)]
    return [(values >> _BITS) * 2.0**_BITS, (values & _MASK).astype(np.float64)]


def _scales(values: Floats) -> Iterator[tuple[int, Any]]:
    """Yield rows and the power of 2**_SCALE by which their squares are far from the limits."""
    sizes = np.abs(values)
    huge, tiny = sizes >= 2.0**_WIDE, (sizes < 2.0**-_WIDE) & (sizes > 0)
    if not huge.any() and not tiny.any():
        yield 0, slice(None)
        return
    for scale, rows in ((1, huge), (0, ~(huge | tiny)), (-1, tiny)):
        yield scale, np.flatnonzero(rows)


def _halves(values: Floats) -> list[Floats]:
    """Return floats of at most 26 bits, whose products are exact: Veltkamp's splitting."""
    above = values * (2.0**27 + 1)
    above -= above - values
    below = values - above
    return [above, below] if below.any() else [above]


def _add(places: Places, values: Floats, groups: Ints, count: int, offset: int = 0) -> None:
    """Add floats times 2**(32 * offset) to the sums of their groups."""
    for start in range(0, len(values), _ROWS):
        rest, of = values[start : start + _ROWS], groups[start : start + _ROWS]
        # No group's sum of so many bits has more than 53.
        bits = 53 - (int(np.bincount(of).max()) - 1).bit_length()
        while filled := np.count_nonzero(rest):
            if 2 * filled < len(rest):
                kept = np.flatnonzero(rest)
                rest, of = rest[kept], of[kept]
            top = int(np.frexp(max(rest.max(), -rest.min()))[1])
            # The least place from which so many bits reach the top.
            place = -((bits - top) // _BITS)
            cut = np.trunc(np.ldexp(rest, -place * _BITS))
            sums = np.bincount(of, cut, count).astype(np.int64)
            places[place + offset] = places.get(place + offset, 0) + sums
            rest = rest - np.ldexp(cut, place * _BITS)


def _of_places(places: Places, n: int) -> ExactSums:
    """Return n numbers by their limbs at some places."""
    if not places:
        return ExactSums.zeros(n)
    none, low = np.zeros(n, np.int64), min(places)
    return _carried([places.get(place, none) for place in range(low, max(places) + 1)], low)


def _carried(columns: Sequence[Ints], base: int) -> ExactSums:
    """Return the numbers of limbs that are any int64."""
    limbs = np.empty((len(columns) + 1, len(columns[0])), np.int64)
    limbs[-1] = 0
    for at, column in enumerate(columns):
        total = column + limbs[-1]
        np.bitwise_and(total, _MASK, out=limbs[at])
        np.right_shift(total, _BITS, out=limbs[-1])
    # Columns without any bits would cost time ever after.
    while len(limbs) > 1 and limbs[-1].min(initial=0) >= -1 and limbs[-1].max(initial=0) <= 0:
        limbs[-2] += limbs[-1] << _BITS
        limbs = limbs[:-1]
    while len(limbs) > 1 and not limbs[0].any():
        limbs, base = limbs[1:], base + 1
    return ExactSums(limbs.T, base)


def _sizes(numbers: ExactSums) -> ExactSums:
    """Return the absolute numbers."""
    signs = np.where(numbers.limbs[:, -1] < 0, -1, 1)
    return _carried([limbs * signs for limbs in numbers.limbs.T], numbers.base)


def _add_products(places: Places, one: ExactSums, other: ExactSums, sign: int) -> None:
    """Add the products of numbers that are at least 0, times a sign."""
    firsts, seconds = (
        # Few limbs of wide numbers have any bits.
        [(at, limbs.astype(np.uint64)) for at, limbs in enumerate(x.limbs.T, x.base) if limbs.any()]
        for x in (one, other)
    )
    for (at, first), (to, second) in itertools.product(firsts, seconds):
        product = first * second
        for place, half in ((at + to, product & _MASK), (at + to + 1, product >> _BITS)):
            places[place] = places.get(place, 0) + sign * half.astype(np.int64)


def _ratios(numbers: ExactSums, counts: Ints | None = None, power: int = 1) -> Floats:
    """Return numbers / counts**power, rounded once; NaN where the count is 0."""
    short = _short_ratios(numbers, counts, power)
    if short is not None:
        return short
    sizes = _sizes(numbers)
    found, exact, left = _nearest(sizes, np.zeros(len(sizes.limbs), np.bool_))
    if counts is not None:
        divisors = counts.astype(np.float64) ** power
        easy = exact & np.isfinite(found) & (divisors < _INTEGERS)
        with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
            quotients = found / divisors
        long = np.flatnonzero(~exact & ~left & (counts < 2**_BITS) & (counts > 0))
        left = ~easy
        parts = _divided(sizes.take(long), counts[long], power)
        quotients[long], _, left[long] = _nearest(*parts)
        found, left = quotients, left & (counts > 0)
        found[counts == 0] = np.nan
    for row in np.flatnonzero(left).tolist():
        size = sum(limb << (_BITS * at) for at, limb in enumerate(sizes.limbs[row].tolist()))
        divisor = 1 if counts is None else int(counts[row]) ** power
        found[row] = ratio(size, divisor, exponent=_BITS * sizes.base)
    return np.where(numbers.limbs[:, -1] < 0, -found, found)


def _short_ratios(numbers: ExactSums, counts: Ints | None, power: int) -> Floats | None:
    """Return what `_ratios` does, if float64 holds all numbers and divisors and all is normal."""
    last = numbers.limbs[:, -1]
    bound = _INTEGERS >> (_BITS * (numbers.limbs.shape[1] - 1))
    if bound == 0 or abs(numbers.base) > _SHORT_BASE:
        return None
    if last.max(initial=0) >= bound or last.min(initial=0) < -bound:
        return None
    found = last if numbers.limbs.shape[1] == 1 else last << _BITS | numbers.limbs[:, 0]
    floats = np.ldexp(found.astype(np.float64), _BITS * numbers.base)
    if counts is None:
        return floats
    if int(counts.max(initial=0)) ** power > _INTEGERS:
        return None
    # The division of two exact floats is rounded once.
    return np.where(counts > 0, floats / np.maximum(counts, 1).astype(np.float64) ** power, np.nan)


def _divided(sizes: ExactSums, counts: Ints, power: int) -> tuple[ExactSums, Bools]:
    """Return sizes / counts**power, cut off two limbs below theirs, and where bits were cut.

    Of sizes of 54 bits or more, that leaves 54: one to round by.
    """
    limbs = np.zeros((sizes.limbs.shape[1] + 2, len(counts)), np.uint64)
    limbs[2:] = sizes.limbs.T
    divisors, cut = counts.astype(np.uint64), np.zeros(len(counts), np.bool_)
    for _ in range(power):
        rest = np.zeros(len(counts), np.uint64)
        for limb in limbs[::-1]:
            total = rest << _BITS | limb
            np.floor_divide(total, divisors, out=limb)
            rest = total - limb * divisors
        cut |= rest != 0
    return ExactSums(limbs.astype(np.int64).T, sizes.base - 2), cut


def _nearest(sizes: ExactSums, cut: Bools) -> tuple[Floats, Bools, Bools]:
    """Return sizes as floats, rounded once, which have 53 bits, and which are too fine for it.

    The first 64 bits decide, if the last of them tells whether any follow; `cut` says where
    some follow that the limbs do not have.
    """
    n, width = len(sizes.limbs), sizes.limbs.shape[1] + 2
    limbs = np.zeros((width, n), np.uint64)
    limbs[2:] = sizes.limbs.T
    high, low, rows = np.full(n, 2), np.full(n, width), np.arange(n)
    for at in range(2, width):
        high[limbs[at] != 0] = at
    for at in reversed(range(2, width)):
        low[limbs[at] != 0] = at
    first, second, third = (limbs[high - back, rows] for back in range(3))
    length = np.frexp(first.astype(np.float64))[1].astype(np.uint64)
    head = (first << _BITS | second) << (_BITS - length) | third >> length
    more = cut | (low < high - 2) | (third & ((np.uint64(1) << length) - 1) != 0)
    exponents = _BITS * (sizes.base + high - 4) + length.astype(np.int64)
    with np.errstate(over="ignore", under="ignore"):
        found = np.ldexp((head | more).astype(np.float64), exponents)
    left = (head > 0) & (found < _NORMAL)
    exact = ~more & (head & 0x7FF == 0) & ~left
    return found, exact, left
