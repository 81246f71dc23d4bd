"""Statistics over present values that no sharding and no order of the rows can change.

Sums are kept as Python integers in fixed point, so adding is exact and merging is integer
addition; mean and variance are rounded once, at the very end. Quantiles are tf.Transform's
sketch. The only place that knows tf.Transform's analyzers from within.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_transform import analyzer_nodes, analyzers

from skewless.errors import DataError

__all__ = ["Moments", "MomentsCombiner", "moments", "quantiles", "require_values"]

# A float64 is mantissa * 2**exponent with an integer mantissa below 2**53 and an exponent
# of at least -1126 (the smallest subnormal, 2**-1074, as frexp normalises it).
_MANTISSA = 53
_LOWEST = -1126
# Pieces of 27 bits: their float64 sum in a bincount is exact for up to 2**26 values.
_PIECE = 27
_MOST = 2**26

_SKETCH_ERROR = 1e-4
_FINEST_QUANTILE = 10_000


class Moments(NamedTuple):
    """Scalar tensors, float64 (count: int64), of the present values of the training rows."""

    count: Any
    mean: Any
    variance: Any
    low: Any
    high: Any


def moments(values: tf.Tensor, source: str) -> Moments:
    """Return count, mean, population variance, minimum and maximum, each exactly rounded.

    Args:
        values: Present, finite values, float64 [n].
        source: The feature and column, for the error when there is no value at all.
    """
    return Moments(*_analyze(MomentsCombiner(source), values))


def quantiles(values: tf.Tensor, at: Sequence[float], source: str) -> list[tf.Tensor]:
    """Return quantiles as float64 scalars; 0 and 1 are the exact minimum and maximum.

    Args:
        values: Present, finite values, float64 [n].
        at: Which, between 0 and 1.
        source: The feature and column, for the error when there is no value at all.
    """
    wanted = [Fraction(q).limit_denominator(_FINEST_QUANTILE) for q in at]
    buckets = max(2, math.lcm(*(q.denominator for q in wanted)))
    (bounds,) = _analyze(_QuantilesCombiner(buckets, source), values)
    return [bounds[int(q * buckets)] for q in wanted]


def require_values(values: tf.Tensor, source: str) -> None:
    """Make the analysis fail with a `DataError` when there is no value at all."""
    _analyze(_CountCombiner(source), tf.size(values, tf.int64))


def _analyze(combiner: analyzer_nodes.Combiner, values: tf.Tensor) -> tuple[Any, ...]:
    # tf.Transform tells analyzers apart by their name scope.
    with tf.compat.v1.name_scope(None, "analyze"):
        return tuple(analyzers._apply_cacheable_combiner(combiner, values))


class _JsonCoder(analyzer_nodes.CacheCoder):  # type: ignore[misc]
    """Accumulators for tf.Transform's cache; JSON integers are exact however long."""

    def encode_cache(self, cache: Sequence[Any]) -> bytes:
        return json.dumps(list(cache)).encode()

    def decode_cache(self, encoded_cache: bytes) -> tuple[Any, ...]:
        return tuple(json.loads(encoded_cache))


class _Combiner(analyzer_nodes.Combiner):  # type: ignore[misc]
    def __init__(self, source: str) -> None:
        self._source = source

    @property
    def accumulator_coder(self) -> _JsonCoder:
        return _JsonCoder()


def _no_values(source: str) -> DataError:
    return DataError(
        f"{source} has no value in the training rows, so nothing can be learnt from it; "
        "leave the feature out, or check the column in the source"
    )


class MomentsCombiner(_Combiner):
    """Exact count, sum, sum of squares, minimum and maximum of float64 values.

    The accumulator is (count, sum * 2**1126, squares * 2**2252, minimum, maximum).
    """

    def create_accumulator(self) -> tuple[Any, ...]:
        """Return the accumulator of no values."""
        return (0, 0, 0, math.inf, -math.inf)

    def add_input(
        self, accumulator: tuple[Any, ...], batch_values: Sequence[npt.NDArray[np.float64]]
    ) -> tuple[Any, ...]:
        """Return the accumulator with the values of one batch added."""
        values = np.ravel(batch_values[0])
        for start in range(0, len(values), _MOST):
            part = values[start : start + _MOST]
            added = (len(part), *_exact_sums(part), float(part.min()), float(part.max()))
            accumulator = _merge(accumulator, added)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
        """Return the accumulator of all values."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = _merge(merged, accumulator)
        return merged

    def extract_output(self, accumulator: tuple[Any, ...]) -> list[npt.NDArray[Any]]:
        """Return count, mean, variance, minimum and maximum."""
        count, total, squares, low, high = accumulator
        if not count:
            raise _no_values(self._source)
        # Dividing two Python integers is correctly rounded.
        mean = total / (count << -_LOWEST)
        variance = (count * squares - total * total) / ((count * count) << (-2 * _LOWEST))
        results = (np.int64(count), *map(np.float64, (mean, variance, low, high)))
        return [np.asarray(result) for result in results]

    def output_tensor_infos(self) -> list[Any]:
        """Return the types of the outputs."""
        dtypes = (tf.int64, *[tf.float64] * 4)
        return [analyzer_nodes.TensorInfo(dtype, [], None) for dtype in dtypes]


def _merge(one: Sequence[Any], other: Sequence[Any]) -> tuple[Any, ...]:
    return (
        one[0] + other[0],
        one[1] + other[1],
        one[2] + other[2],
        min(one[3], other[3]),
        max(one[4], other[4]),
    )


def _exact_sums(values: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Return the sum (in units of 2**-1126) and the sum of squares (2**-2252), exactly."""
    fractions, exponents = np.frexp(values)
    mantissas = np.ldexp(fractions, _MANTISSA).astype(np.int64)
    shifts = exponents.astype(np.int64) - _MANTISSA - _LOWEST
    high, low = mantissas >> _PIECE, mantissas & (2**_PIECE - 1)
    total = _shifted_sum(high, shifts, _PIECE) + _shifted_sum(low, shifts, 0)
    # (high * 2**27 + low) squared; each product is below 2**54 and is summed in two pieces.
    squares = 0
    for product, place in ((high * high, 2 * _PIECE), (high * low, _PIECE + 1), (low * low, 0)):
        squares += _shifted_sum(product >> _PIECE, 2 * shifts, place + _PIECE)
        squares += _shifted_sum(product & (2**_PIECE - 1), 2 * shifts, place)
    return total, squares


def _shifted_sum(pieces: npt.NDArray[np.int64], shifts: npt.NDArray[np.int64], place: int) -> int:
    """Return the sum of pieces * 2**(shifts + place)."""
    least = int(shifts.min())
    sums = np.bincount(shifts - least, weights=pieces)
    return sum(int(sums[at]) << (least + int(at) + place) for at in np.flatnonzero(sums))


class _CountCombiner(_Combiner):
    """The number of values; none is an error."""

    def create_accumulator(self) -> tuple[int]:
        return (0,)

    def add_input(self, accumulator: tuple[int], batch_values: Sequence[Any]) -> tuple[int]:
        return (accumulator[0] + int(batch_values[0]),)

    def merge_accumulators(self, accumulators: Iterable[tuple[int]]) -> tuple[int]:
        return (sum(accumulator[0] for accumulator in accumulators),)

    def extract_output(self, accumulator: tuple[int]) -> list[Any]:
        if not accumulator[0]:
            raise _no_values(self._source)
        return [np.int64(accumulator[0])]

    def output_tensor_infos(self) -> list[Any]:
        return [analyzer_nodes.TensorInfo(tf.int64, [], None)]


class _QuantilesCombiner(analyzers.QuantilesCombiner):  # type: ignore[misc]
    """tf.Transform's sketch, with minimum and maximum as first and last quantile."""

    def __init__(self, buckets: int, source: str) -> None:
        super().__init__(
            buckets,
            _SKETCH_ERROR,
            np.float64,
            output_shape=[buckets + 1],
            include_max_and_min=True,
        )
        self._source = source

    def extract_output(self, accumulator: Any) -> list[Any]:
        (found,) = accumulator.GetQuantiles(self._num_quantiles).to_pylist() or [[]]
        if not found or not all(map(math.isfinite, found)):
            raise _no_values(self._source)
        return [np.asarray(found, np.float64)]
