"""Exact quantiles: the same whatever the sharding, order and batching of the rows.

The definition is the limit of tf.Transform's sketch at an error of zero. With the values in
order, each with its weight (1 if none are given) and C(v) the sum of the weights up to and
including value v, quantile r of n is the least value with C(v) > r / n * C(the greatest), and the
greatest value for r = n. No value is ever interpolated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skewless.errors import DataError, RecipeError
from skewless.transforms.analyze.combiner import Array, Combiner
from skewless.transforms.analyze.ordered import (
    WAITING,
    Cells,
    Column,
    Scope,
    as_keys,
    as_values,
    exact_sums,
)

__all__ = ["PASSES", "Quantiles"]

# All passes over the rows that quantiles may ever need, the first included.
PASSES = 4
_DISTINCT = 2**16
_DISTINCT_IN_A_LATER_PASS = 2**20
# Continuous values need no more bits than that to be found again, and fewer cells are faster.
_SHARE = 4


class _Place(NamedTuple):
    """Which cells the wanted quantiles of one column are in.

    They are `prefixes` at `shift`; `below` is the weight before each of these, and `total` that
    of all values, in units of 2**exponent: int64, or Python integers if there are weights.
    """

    shift: int
    prefixes: Array
    below: Array
    total: int
    exponent: int


# What is known of the wanted quantiles of one column: their keys (none if there are no values),
# or the cells they are in.
_Known = Array | _Place


@dataclasses.dataclass(frozen=True, eq=False)
class Quantiles(Combiner):
    """Quantiles of one column, or of each of several, as `analyzers.QuantilesCombiner` has them.

    `add_input` takes [values] or [values, weights]: values of any shape that is
    [rows, num_features] in C order, floats or integers; weights [rows]. NaN, and values whose
    weight is NaN or not positive, are ignored; infinities are values like others, and -0.0 is
    0.0. The values are rounded to `dtype` first, which does not change any output.

    The accumulator of a column counts up to `distinct` distinct values, and for that many one
    pass is enough. When there are more it counts by their leading bits, in a quarter as many
    cells, and a later pass looks only at values that share the leading bits of a wanted one: it
    holds 1,048,576 distinct ones at most, usually some thousands. Two passes serve 10**7 rows of
    continuous values and 100 quantiles. No data needs more than `PASSES`; the last one keeps
    every distinct value that is still in question. `bytes_of_column` tells the memory.

    Args:
        num_quantiles: Into how many parts the values are divided, at least 2.
        dtype: float32 or float64, of the output.
        output_shape: Of the output; its size is num_features times the number of quantiles.
        num_features: How many columns there are in the values.
        has_weights: Whether there are weights.
        include_max_and_min: Give num_quantiles + 1 values, the extremes too, not
            num_quantiles - 1.
        error: Raised when a column has no value or a quantile is infinite; without it, no
            values give zeros.
        distinct: How many distinct values of a column the first pass counts, at most.

    Raises:
        RecipeError: If an argument is impossible.

    >>> median = Quantiles(2, np.float32, [1])
    >>> batch = [np.array([3, 1, 2, 9], np.float32)]
    >>> median.extract_output(median.add_input(median.create_accumulator(), batch))
    [array([3.], dtype=float32)]
    """

    num_quantiles: int
    dtype: Any
    output_shape: Sequence[int]
    num_features: int = 1
    has_weights: bool = False
    include_max_and_min: bool = False
    error: Exception | None = None
    distinct: int = _DISTINCT

    most_passes = PASSES

    def __post_init__(self) -> None:
        if self.num_quantiles < 2:
            raise RecipeError(f"Quantiles(num_quantiles={self.num_quantiles}): ask for 2 or more")
        if np.dtype(self.dtype) not in (np.float32, np.float64):
            name = np.dtype(self.dtype).name
            raise RecipeError(f"Quantiles(dtype={name}): it must be float32 or float64")
        if self.distinct < 2:
            raise RecipeError(f"Quantiles(distinct={self.distinct}): give 2 or more")

    @staticmethod
    def bytes_of_column(
        dtype: npt.DTypeLike, has_weights: bool = False, distinct: int = _DISTINCT
    ) -> int:
        """Return the most that the accumulator of one column holds in the first pass.

        It is for weights within a factor of 2**40; each 2**32 more takes 8 bytes a cell.
        """
        key, weight = np.dtype(dtype).itemsize, 8 * has_weights
        return distinct * (key + 8 + 4 * weight) + max(distinct, WAITING) * (key + weight)

    def create_accumulator(self) -> list[Column]:
        """Return the accumulator of no values."""
        return [Column() for _ in range(self.num_features)]

    def add_input(self, accumulator: list[Column], batch_values: Sequence[Array]) -> list[Column]:
        """Return the accumulator with the values of one batch added."""
        scopes = self._scopes()
        for at, (keys, weights) in enumerate(self._columns(batch_values)):
            if scope := scopes[at]:
                accumulator[at].add(keys, weights, scope)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Column]]) -> list[Column]:
        """Return the accumulator of all values."""
        merged, scopes = self.create_accumulator(), self._scopes()
        for accumulator in accumulators:
            for at, column in enumerate(accumulator):
                if scope := scopes[at]:
                    merged[at].merge(column, scope)
        return merged

    def refine(self, accumulator: list[Column]) -> Combiner | None:
        """Return what looks for the quantiles in the cells they are in, if that is needed."""
        known = self._narrow(accumulator)
        if all(isinstance(column, np.ndarray) for column in known):
            return None
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Quantiles)}
        return _Refined(**fields, known=known, passed=self._passed() + 1)

    def extract_output(self, accumulator: list[Column]) -> list[Array]:
        """Return the quantiles, after as many passes as `refine` asks for."""
        output = np.stack([self._values(known) for known in self._narrow(accumulator)])
        return [output.reshape(self.output_shape)]

    def _passed(self) -> int:
        """Return how many passes there were before this one."""
        return 0

    def _scopes(self) -> list[Scope | None]:
        """Return what this pass keeps of each column, None for nothing."""
        scope = Scope(self.distinct, max(2, self.distinct // _SHARE))
        return [scope] * self.num_features

    def _narrow(self, accumulator: list[Column]) -> list[_Known]:
        """Return what is known of each column after all rows of this pass."""
        found = []
        for column, scope in zip(accumulator, self._scopes(), strict=True):
            cells = column.cells(scope) if scope else None
            found.append(_narrowed(cells, self._ranks(), self.num_quantiles, None))
        return found

    def _ranks(self) -> range:
        if self.include_max_and_min:
            return range(self.num_quantiles + 1)
        return range(1, self.num_quantiles)

    def _columns(self, batch_values: Sequence[Array]) -> Iterable[tuple[Array, Array | None]]:
        """Yield keys and weights of each column, without what is ignored."""
        table = _rounded(np.asarray(batch_values[0]), self.dtype).reshape(-1, self.num_features)
        weights = _weights(batch_values[1], len(table)) if self.has_weights else None
        for values in table.T:
            keep = ~np.isnan(values) if weights is None else ~np.isnan(values) & (weights > 0)
            if not keep.all():
                values = values[keep]
            keys = as_keys(np.ascontiguousarray(values))
            yield keys, None if weights is None else weights[keep]

    def _values(self, known: _Known) -> Array:
        if isinstance(known, _Place):
            raise RuntimeError("quantiles are not known yet: run the passes that refine() returns")
        values = as_values(known) if len(known) else np.zeros(len(self._ranks()), self.dtype)
        if self.error is not None and not (len(known) and np.isfinite(values).all()):
            raise self.error
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class _Refined(Quantiles):
    """A later pass: the values in the cells that the wanted quantiles are in."""

    known: Sequence[_Known] = ()
    passed: int = 1

    def _passed(self) -> int:
        return self.passed

    def _scopes(self) -> list[Scope | None]:
        most = _DISTINCT_IN_A_LATER_PASS
        bound = most if self.passed < PASSES - 1 else None
        return [
            Scope(bound, most, known.shift, known.prefixes) if isinstance(known, _Place) else None
            for known in self.known
        ]

    def _narrow(self, accumulator: list[Column]) -> list[_Known]:
        found: list[_Known] = []
        for column, scope, known in zip(accumulator, self._scopes(), self.known, strict=True):
            if scope is None or not isinstance(known, _Place):
                found.append(known)
            else:
                cells = column.cells(scope)
                found.append(_narrowed(cells, self._ranks(), self.num_quantiles, known))
        return found


def _rounded(values: Array, dtype: Any) -> Array:
    """Return values as the sketch has them (float64), rounded as its output is."""
    if values.dtype == dtype:
        return values
    # Rounding keeps the order, so that it may come before the choice. Beyond float32 is inf.
    with np.errstate(over="ignore"):
        return values.astype(np.float64, copy=False).astype(dtype, copy=False)


def _weights(values: Array, rows: int) -> Array:
    weights = np.ravel(values).astype(np.float64)
    if len(weights) != rows:
        raise DataError(
            f"quantiles: there are {len(weights)} weights for {rows} values; give one for each"
        )
    if np.isposinf(weights).any():
        raise DataError(
            "quantiles: a weight is infinite, so the other values would not count at all; "
            "repair or filter the weights before"
        )
    return weights


def _narrowed(cells: Cells | None, ranks: range, parts: int, before: _Place | None) -> _Known:
    """Return the keys of the wanted quantiles, or the cells they are in if these are no keys."""
    if cells is None:
        return np.empty(0, np.uint64)
    sums, exponent = exact_sums(cells) if cells.sums.shape[1] else (cells.counts, 0)
    if before is None:
        up_to = np.cumsum(sums)
        total = int(up_to[-1])
    else:
        if exponent > before.exponent:
            sums = sums << (exponent - before.exponent)
        up_to = np.cumsum(sums) + _offsets(sums, cells, before)
        total, exponent = before.total, before.exponent
    # The sums are integers: the least above r / n of the total is the least above its floor.
    targets = [min(rank * total // parts, total - 1) for rank in ranks]
    at = np.searchsorted(up_to, np.array(targets, up_to.dtype), "right")
    if cells.shift == 0:
        return np.asarray(cells.prefixes[at])
    at = np.unique(at)
    return _Place(cells.shift, cells.prefixes[at], up_to[at] - sums[at], total, exponent)


def _offsets(sums: Array, cells: Cells, before: _Place) -> Array:
    """Return what to add to the running sum of cells, to have that of all values."""
    heads = cells.prefixes >> cells.prefixes.dtype.type(before.shift - cells.shift)
    starts = np.searchsorted(heads, before.prefixes)
    offsets = before.below - (np.cumsum(sums) - sums)[starts]
    return np.asarray(offsets[np.searchsorted(before.prefixes, heads)])
