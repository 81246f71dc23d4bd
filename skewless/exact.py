"""Exact sums of floats, of their squares and products: no order and no grouping shows.

Values are cut into slices: float64 arrays of integers of at most `bits` bits, each times a
power of two. Sums and dot products of slices stay below 2**53, so NumPy and BLAS add them
without any rounding, in whatever order they like. The idea is from Ozaki, Ogita, Oishi and
Rump, "Error-free transformations of matrix multiplication" (Numerical Algorithms 59, 2012).
Totals are Python integers in fixed point: merging is integer addition, and a result is
rounded once, at the very end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "FINEST",
    "Scaled",
    "column_moments",
    "column_sums",
    "cross_moments",
    "exact_moments",
    "exact_sum",
    "group_sums",
    "ratio",
    "ratios",
]

Floats = npt.NDArray[np.float64]

# No float64 has a finer bit than 2**-1074; sums are integers in this unit, and sums of
# squares in its square.
FINEST = -1074

# Rows that are added up at once: for more, OpenBLAS starts threads for a dot product, which
# wait for each other longer than they work. And values that are cut at once: more leave the
# processor's caches, and cost the system a page each time.
_ROWS = 10_000
_CELLS = 2**14
# A product of two slices, added up _ROWS times, is below 2**53; so is a sum.
_PRODUCT_BITS = 19
_SUM_BITS = 39
# So many values are added one by one in Python in less time than NumPy takes for a call.
_FEW = 32
# Integers beyond this are no float64s any more.
_INTEGERS = 2**53

_NOT_FINITE = "values: expected finite numbers; leave out NaN and infinity before"


class Scaled(NamedTuple):
    """Exact numbers: `totals` * 2**`exponent`.

    The totals are one Python integer, or an array (dtype object) of them. One exponent for
    all numbers keeps the integers short where the values are alike.

    >>> one = Scaled(np.array([3], object), 1)
    >>> one.plus(Scaled(np.array([1], object), -1))
    Scaled(totals=array([13], dtype=object), exponent=-1)
    """

    totals: Any
    exponent: int

    @classmethod
    def zeros(cls, *shape: int) -> Scaled:
        """Return zeros of a shape."""
        return cls(np.zeros(shape, object), 0)

    def plus(self, other: Scaled) -> Scaled:
        """Return the exact sums, one by one; the shapes broadcast."""
        exponent = min(self.exponent, other.exponent)
        return Scaled(self.at(exponent) + other.at(exponent), exponent)

    def at(self, exponent: int) -> Any:
        """Return the totals in a unit as fine or finer."""
        return (
            self.totals << (self.exponent - exponent) if self.exponent > exponent else self.totals
        )


def exact_sum(values: npt.NDArray[Any]) -> int:
    """Return the sum of values, in units of 2**`FINEST`.

    Args:
        values: Finite floats of at most 64 bits, or integers; [n].

    Raises:
        ValueError: If a value is NaN or infinite.

    >>> exact_sum(np.array([0.1, 1e300, -1e300])) == int(0.1 * 2.0**60) << 1014
    True
    """
    if len(values) <= _FEW:
        return sum(_integers(values))
    total = 0
    for part in _parts(values):
        for cut, exponent in _slices(part, _SUM_BITS):
            total += int(cut.sum()) << (int(exponent) - FINEST)
    return total


def exact_moments(values: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the sums of values and of their squares, in 2**`FINEST` and its square.

    Args:
        values: Finite floats of at most 64 bits, or integers; [n].

    Raises:
        ValueError: If a value is NaN or infinite.

    >>> sums = exact_moments(np.array([1.0, 2.0, 3.0]))
    >>> [sums[0] >> 1074, sums[1] >> 2148]
    [6, 14]
    """
    if len(values) <= _FEW:
        integers = _integers(values)
        return sum(integers), sum(integer * integer for integer in integers)
    total = squares = 0
    for part in _parts(values):
        slices = [(cut, int(exponent) - FINEST) for cut, exponent in _slices(part, _PRODUCT_BITS)]
        for at, (one, place) in enumerate(slices):
            total += int(one.sum()) << place
            squares += int(one @ one) << 2 * place
            for other, lower in slices[at + 1 :]:
                squares += int(one @ other) << (place + lower + 1)
    return total, squares


def column_sums(values: npt.NDArray[Any]) -> Scaled:
    """Return the sum of each column, [k].

    Args:
        values: Finite floats of at most 64 bits, or integers; [rows, k].

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    sums = Scaled.zeros(values.shape[1])
    for part in _parts(values):
        found = [_sums(_slices(block, _SUM_BITS)) for block in _blocks(part)]
        sums = sums.plus(_join(found))
    return sums


def column_moments(values: npt.NDArray[Any]) -> tuple[Scaled, Scaled]:
    """Return the sums of each column's values and of their squares, both [k].

    Args:
        values: Finite floats of at most 64 bits, or integers; [rows, k].

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    sums = squares = Scaled.zeros(values.shape[1])
    for part in _parts(values):
        found = [_moments(list(_slices(block, _PRODUCT_BITS))) for block in _blocks(part)]
        sums = sums.plus(_join([one for one, _ in found]))
        squares = squares.plus(_join([other for _, other in found]))
    return sums, squares


def cross_moments(values: npt.NDArray[Any]) -> tuple[Scaled, Scaled]:
    """Return the sums of each column, [k], and of each two columns' products, [k, k].

    Args:
        values: Finite floats of at most 64 bits, or integers; [rows, k].

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    columns = values.shape[1]
    sums, products = Scaled.zeros(columns), Scaled.zeros(columns, columns)
    for part in _parts(values):
        slices = list(_slices(part, _PRODUCT_BITS))
        sums = sums.plus(_sums(slices))
        for start, (one, first) in enumerate(slices):
            for at, (other, second) in enumerate(slices[start:]):
                term = _gather([(one @ other.T, first + second.T)])
                products = products.plus(term)
                if at:
                    products = products.plus(Scaled(term.totals.T, term.exponent))
    return sums, products


def group_sums(values: npt.NDArray[Any], groups: npt.NDArray[np.int64], count: int) -> Scaled:
    """Return the sum of the values of each group, [count].

    Args:
        values: Finite floats of at most 64 bits, or integers; [n].
        groups: The group of each value, from 0 to `count` - 1; [n].
        count: The number of groups.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    sums, start = Scaled.zeros(count), 0
    for part in _parts(values):
        of, start = groups[start : start + len(part)], start + len(part)
        terms = [(np.bincount(of, cut, count), place) for cut, place in _slices(part, _SUM_BITS)]
        sums = sums.plus(_gather(terms))
    return sums


def ratio(numerator: int, denominator: int, dtype: Any = np.float64, exponent: int = 0) -> Any:
    """Return numerator / denominator * 2**exponent in a float dtype, rounded once.

    Args:
        numerator: Any integer.
        denominator: A positive integer.
        dtype: float16, float32 or float64.
        exponent: Of the unit of the numerator.

    Returns:
        A NumPy scalar, nearest to the exact number, ties to even; infinity beyond the range.

    >>> ratio(1, 3)
    np.float64(0.3333333333333333)
    """
    numerator, denominator = numerator << max(exponent, 0), denominator << max(-exponent, 0)
    try:
        # Dividing two Python integers is correctly rounded.
        nearest = numerator / denominator
    except OverflowError:
        return np.dtype(dtype).type(math.inf if numerator > 0 else -math.inf)
    if dtype != np.float64:
        nearest = _to_odd(nearest, numerator, denominator)
    with np.errstate(over="ignore"):
        return np.dtype(dtype).type(nearest)


def ratios(numerators: Scaled, denominators: Any, dtype: Any) -> npt.NDArray[Any]:
    """Return `ratio` of each two numbers, 0 where the denominator is 0; shapes are the same."""
    above, below = (np.asarray(integers, object) for integers in (numerators.totals, denominators))
    found = [
        ratio(one, other, dtype, numerators.exponent) if other else 0
        for one, other in zip(above.flat, below.flat, strict=True)
    ]
    return np.array(found, dtype).reshape(above.shape)


def _to_odd(nearest: float, numerator: int, denominator: int) -> float:
    """Return the number rounded to odd, so that rounding it again is as rounding once.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms
    using rounding to odd" (IEEE Transactions on Computers 57, 2008).
    """
    above, below = nearest.as_integer_ratio()
    beyond = numerator * below - above * denominator
    if not beyond or np.float64(nearest).view(np.int64) & 1:
        return nearest
    return math.nextafter(nearest, math.inf if beyond > 0 else -math.inf)


def _integers(values: npt.NDArray[Any]) -> list[int]:
    """Return values in units of 2**`FINEST`."""
    try:
        ratios = [value.as_integer_ratio() for value in values.tolist()]
    except (OverflowError, ValueError):
        raise ValueError(_NOT_FINITE) from None
    return [above << (1 - FINEST - below.bit_length()) for above, below in ratios]


def _sums(slices: Iterable[tuple[Floats, Any]]) -> Scaled:
    return _gather([(cut.sum(axis=-1), exponent[:, 0]) for cut, exponent in slices])


def _moments(slices: Sequence[tuple[Floats, Any]]) -> tuple[Scaled, Scaled]:
    squares = [
        (np.einsum("ij,ij->i", one, other), (first + second)[:, 0] + (at > 0))
        for start, (one, first) in enumerate(slices)
        for at, (other, second) in enumerate(slices[start:])
    ]
    return _sums(slices), _gather(squares)


def _gather(terms: Sequence[tuple[npt.NDArray[Any], Any]]) -> Scaled:
    """Return the sum of terms * 2**exponents; the terms are integers, of one shape."""
    totals = np.array([floats for floats, _ in terms]).astype(np.int64)
    places = np.array([exponents for _, exponents in terms])
    lowest = int(places.min(initial=0))
    places = (places - lowest).reshape(places.shape + (1,) * (totals.ndim - places.ndim))
    return Scaled((totals.astype(object) << places.astype(object)).sum(axis=0), lowest)


def _join(blocks: Sequence[Scaled]) -> Scaled:
    """Return the numbers of all blocks, one after the other."""
    exponent = min((block.exponent for block in blocks), default=0)
    totals = [np.zeros(0, object), *(block.at(exponent) for block in blocks)]
    return Scaled(np.concatenate(totals), exponent)


def _parts(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield some rows after the others, so few that sums of slices are exact.

    Columns become rows, which are added up several times as fast.
    """
    for start in range(0, len(values), _ROWS):
        yield np.ascontiguousarray(values[start : start + _ROWS].T)


def _blocks(part: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield some columns after the others, so few that their slices stay in the caches."""
    columns = max(1, _CELLS // part.shape[1])
    for start in range(0, len(part), columns):
        yield part[start : start + columns]


def _slices(values: npt.NDArray[Any], bits: int) -> Iterator[tuple[Floats, Any]]:
    """Yield integers as floats, and the exponents of their units; their sum is `values`.

    The exponent is one number for values of shape [n], and of shape [k, 1] for [k, n].
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and _is_long(values):
        for half, place in ((values >> 32, 32), (values & 0xFFFFFFFF, 0)):
            for cut, exponent in _slices(half.astype(np.float64), bits):
                yield cut, exponent + place
        return
    floats = values.astype(np.float64, copy=False)
    # Of the narrow floats it is found faster; the narrow integers have none for their least.
    top = _top(values if values.dtype.kind == "f" else floats).astype(np.float64)
    if not np.isfinite(top).all():
        raise ValueError(_NOT_FINITE)
    exponent = np.maximum(np.frexp(top)[1] - bits, FINEST)
    rest = np.ldexp(floats, -exponent)
    if np.any(exponent > 0) and np.any(np.ldexp(rest, exponent) != floats):
        # Scaling down lost bits of the least values; these are scaled up, by themselves.
        large = np.where(np.abs(floats) >= 1, floats, 0)
        yield from _slices(large, bits)
        yield from _slices(floats - large, bits)
        return
    while True:
        cut = np.rint(rest)
        yield cut, exponent
        rest -= cut
        top = _top(rest)
        if not top.any():
            return
        shift = np.minimum(bits - np.frexp(top)[1], exponent - FINEST)
        rest = np.ldexp(rest, shift)
        exponent = exponent - shift


def _top(values: npt.NDArray[Any]) -> Any:
    """Return the largest absolute value of each row, NaN if one is."""
    column = values.ndim > 1
    return np.maximum(values.max(axis=-1, keepdims=column), -values.min(axis=-1, keepdims=column))


def _is_long(values: npt.NDArray[Any]) -> bool:
    return bool(values.max() > _INTEGERS or values.min() < -_INTEGERS)
