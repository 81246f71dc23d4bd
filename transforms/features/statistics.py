"""Statistics over present values that no sharding and no order of the rows can change.

Sums are exact (see `skewless.exact`), so merging is integer addition; mean and variance are
rounded once, at the very end. Quantiles are tf.Transform's
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
from skewless.exact import FINEST, exact_moments, ratio

__all__ = ["Moments", "MomentsCombiner", "moments", "quantiles", "require_values"]

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

    The accumulator is (count, sum * 2**1074, squares * 2**2148, minimum, maximum).
    """

    def create_accumulator(self) -> tuple[Any, ...]:
        """Return the accumulator of no values."""
        return (0, 0, 0, math.inf, -math.inf)

    def add_input(
        self, accumulator: tuple[Any, ...], batch_values: Sequence[npt.NDArray[np.float64]]
    ) -> tuple[Any, ...]:
        """Return the accumulator with the values of one batch added."""
        values = np.ravel(batch_values[0])
        if not len(values):
            return accumulator
        added = (len(values), *exact_moments(values), float(values.min()), float(values.max()))
        return _merge(accumulator, added)

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
        mean = ratio(total, count, exponent=FINEST)
        variance = ratio(count * squares - total * total, count * count, exponent=2 * FINEST)
        results = (np.int64(count), mean, variance, np.float64(low), np.float64(high))
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
        # What the exact quantiles that may stand for this raise in the same case.
        self.no_values = _no_values(source)

    def extract_output(self, accumulator: Any) -> list[Any]:
        (found,) = accumulator.GetQuantiles(self._num_quantiles).to_pylist() or [[]]
        if not found or not all(map(math.isfinite, found)):
            raise self.no_values
        return [np.asarray(found, np.float64)]
