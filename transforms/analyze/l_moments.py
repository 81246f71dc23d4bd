"""L-moments of all rows: the same whatever the sharding, order and batching of the rows.

The sample L-moments are those of J. R. M. Hosking, "L-moments: analysis and estimation of
distributions using linear combinations of order statistics", Journal of the Royal Statistical
Society B 52 (1990), 105-124: with x(1) <= ... <= x(n) in order and C the binomial coefficient,

    b(r) = sum of C(i - 1, r) x(i) / (n C(n - 1, r))
    l1 = b(0)                           l2 = 2 b(1) - b(0)
    l3 = 6 b(2) - 6 b(1) + b(0)         l4 = 20 b(3) - 30 b(2) + 12 b(1) - b(0)

tf.Transform averages these over batches instead, so that its result depends on the batching.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from skewless.errors import RecipeError
from skewless.transforms.analyze.combiner import Array, Combiner
from skewless.transforms.analyze.ordered import Cells, Column, Scope, as_keys, exact_sums

__all__ = ["LMoments", "l_moments"]

# More cells than this buy nothing that a float32 could show.
_SCOPE = Scope(2**16, 2**16)
_FROM_B = ((1,), (-1, 2), (1, -6, 6), (-1, 12, -30, 20))
# The mean of a cell is rounded down to this many bits below the unit of its sum.
_SPARE = 64

Position = tuple[int, ...]


@dataclasses.dataclass
class _Columns:
    """A column for each position in an instance, and the greatest shape of an instance."""

    shape: Position
    columns: dict[Position, Column] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class LMoments(Combiner):
    """What tf.Transform makes of the first four L-moments, for `analyzers._LMomentsCombiner`.

    `add_input` takes [values] or [values, present]. With `shape` () values have any shape and
    are one column; otherwise they are [rows, *instance], each position of an instance is a
    column, and dimensions that `shape` leaves open may differ between batches. `present` (bool,
    like values) tells values from padding. Values that are not finite are ignored, whereas
    tf.Transform replaces all moments of a batch that has one.

    The moments are exact for a column of up to 65,536 distinct values. Beyond, values with the
    same leading bits are counted as so many times their exact mean: l4, the worst, is then off
    by at most the sum of 33 p**2 w over the cells, where p is the share of values in a cell and
    w its width; 2e-8 of the typical size for continuous values, so that float32 shows it in its
    last bit at most. The accumulator of a column holds at most 65,536 cells of about 50 bytes.

    Args:
        dtype: float16, float32 or float64: the values are rounded to it, and the output is it.
        shape: Of each output; None for a dimension that is not known.
        tukey: Takes eight arrays of `dtype` and of the shape (how many values, pairs, triples
            and quadruples there are, then the four L-moments) and returns the outputs. It is
            `extract_output` of tf.Transform's combiner, on its accumulator of these.

    Raises:
        RecipeError: If `dtype` is no float.
    """

    dtype: Any
    shape: Sequence[int | None]
    tukey: Callable[[Sequence[Array]], Sequence[Array]]

    def __post_init__(self) -> None:
        if np.dtype(self.dtype).kind != "f":
            raise RecipeError(f"LMoments(dtype={np.dtype(self.dtype).name}): it must be a float")

    def create_accumulator(self) -> _Columns:
        """Return the accumulator of no values."""
        return _Columns(() if None in self.shape else tuple(self.shape))  # type: ignore[arg-type]

    def add_input(self, accumulator: _Columns, batch_values: Sequence[Array]) -> _Columns:
        """Return the accumulator with the values of one batch added."""
        values = np.asarray(batch_values[0]).astype(self.dtype, copy=False)
        if self.dtype == np.float16:
            values = values.astype(np.float32)
        keep = np.isfinite(values)
        if len(batch_values) > 1:
            keep &= np.asarray(batch_values[1], np.bool_)
        if not len(self.shape):
            values, keep = values.reshape(-1), keep.reshape(-1)
        accumulator.shape = _greatest(accumulator.shape, values.shape[1:])
        for position in np.ndindex(values.shape[1:]):
            at = (..., *position)
            chosen = values[at][keep[at]]
            column = accumulator.columns.setdefault(position, Column())
            column.add(as_keys(chosen), np.abs(chosen).astype(np.float64), _SCOPE)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Columns]) -> _Columns:
        """Return the accumulator of all values."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.shape = _greatest(merged.shape, accumulator.shape)
            for position, column in accumulator.columns.items():
                merged.columns.setdefault(position, Column()).merge(column, _SCOPE)
        return merged

    def extract_output(self, accumulator: _Columns) -> Sequence[Array]:
        """Return what `tukey` makes of the moments."""
        table = np.zeros((8, *accumulator.shape))
        for position, column in accumulator.columns.items():
            count, moments = l_moments(column.cells(_SCOPE))
            subsamples = [math.comb(count, size) for size in range(1, 5)]
            at: tuple[Any, ...] = (..., *position)
            table[at] = [*map(float, subsamples), *map(float, moments)]
        with np.errstate(over="ignore"):
            eight = list(table.astype(self.dtype))
        return self.tukey(eight)


def l_moments(cells: Cells | None) -> tuple[int, list[Fraction]]:
    """Return how many values there are, and their first four L-moments, 0 for too few values.

    Args:
        cells: Of the keys of finite values, with the sums of their magnitudes.
    """
    if cells is None:
        return 0, [Fraction(0)] * 4
    sums, exponent = exact_sums(cells)
    counts = cells.counts.astype(object)
    up_to = np.cumsum(counts)
    # All values of a cell are of one sign, which is the highest bit of the key.
    top = cells.prefixes.dtype.type(8 * cells.prefixes.dtype.itemsize - 1 - cells.shift)
    sums *= np.where(cells.prefixes >> top, 1, -1)
    means = (sums << _SPARE) // counts
    count, unit = int(up_to[-1]), Fraction(2) ** exponent
    b = [Fraction(int(np.sum(sums)), count) * unit]
    ways = zip(range(1, 4), _binomials(up_to)[1:], _binomials(up_to - counts)[1:], strict=True)
    for r, up_to_it, before_it in ways:
        # The sum of C(i - 1, r) over a cell telescopes to C(up to it, r + 1) - C(before it, r + 1).
        total = Fraction(int(np.dot(means, up_to_it - before_it)), 2**_SPARE) * unit
        b.append(total / max(1, (r + 1) * math.comb(count, r + 1)))
    enough = [_FROM_B[order] if count > order else () for order in range(4)]
    return count, [sum(map(operator.mul, factors, b), Fraction(0)) for factors in enough]


def _binomials(numbers: Array) -> list[Array]:
    """Return C(number, k) for k from 1 to 4, as Python integers."""
    chosen = [numbers]
    for k in range(1, 4):
        chosen.append(chosen[-1] * (numbers - k) // (k + 1))
    return chosen


def _greatest(one: Position, other: Position) -> Position:
    return tuple(map(max, one, other)) if one and other else one or other
