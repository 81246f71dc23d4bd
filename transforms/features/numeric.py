"""Numbers in the graph: float64 all the way, rounded to float32 once.

Adding, multiplying, dividing and taking roots are exactly rounded wherever they run. What
is not (logarithm, sine) gets padded rows, so that it is the same in a batch of any size,
and is rounded to float32 on the spot, so that it is the same on any processor.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from skewless.parity import PAD_TO, pad_rows, slice_rows
from skewless.transforms.features import statistics
from skewless.transforms.features.columns import Buckets, Cyclic, Numeric, Step
from skewless.transforms.features.raw import Raw, set_ids

__all__ = ["make_buckets", "make_cyclic", "make_numeric", "to_float32"]

_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class _Number:
    """A number on its way through the steps.

    The value that missing ones are filled with goes the same way beside the column, as a
    scalar: so statistics are over present values only, and do not wait for its own.
    """

    values: tf.Tensor
    present: tf.Tensor
    source: str
    fill: tf.Tensor | None = None

    @functools.cached_property
    def known(self) -> tf.Tensor:
        return tf.boolean_mask(self.values, self.present)

    @functools.cached_property
    def moments(self) -> statistics.Moments:
        return statistics.moments(self.known, self.source)

    def quantiles(self, *at: float) -> list[tf.Tensor]:
        return statistics.quantiles(self.known, at, self.source)

    def map(self, fn: Callable[[tf.Tensor], tf.Tensor]) -> _Number:
        fill = None if self.fill is None else fn(self.fill)
        return dataclasses.replace(self, values=fn(self.values), fill=fill)

    def scale(self, middle: tf.Tensor, spread: tf.Tensor, flat: float) -> _Number:
        """Return (x - middle) / spread, or times `flat` where spread is 0."""
        one = tf.constant(1.0, tf.float64)
        # Multiplying: a graph optimizer turns division by a constant into that anyway,
        # but not in every graph, and the two round differently.
        factor = tf.where(spread > 0, one / tf.where(spread > 0, spread, one), flat * one)
        return self.map(lambda x: (x - middle) * factor)

    def filled(self) -> tf.Tensor:
        fill = tf.constant(0.0, tf.float64) if self.fill is None else self.fill
        return tf.where(self.present, self.values, fill)


def make_numeric(column: Numeric, key: str, raw: Raw) -> dict[str, Any]:
    """Return the feature, and the indicator if asked for, float32 [rows]."""
    number = _run(column, key, raw)
    return {key: to_float32(number.filled()), **_indicator(column, key, number)}


def make_buckets(column: Buckets, key: str, raw: Raw) -> dict[str, Any]:
    """Return bucket ids, int64 [rows], or one-hot, float32 [rows, buckets]."""
    number = _run(column.number, key, raw)
    if column.boundaries is None:
        count = column.buckets or 0
        bounds = tf.stack(number.quantiles(*(i / count for i in range(1, count))))
    else:
        bounds = tf.constant(column.boundaries, tf.float64)
        count = len(column.boundaries) + 1
    # Both sides as float32, so that a value that is a boundary is so on any processor.
    ids = tf.searchsorted(
        tf.cast(bounds, tf.float32), to_float32(number.filled()), side="right", out_type=tf.int64
    )
    if number.fill is None:
        ids = tf.where(number.present, ids, tf.constant(count, tf.int64))
    if column.hot:
        feature = tf.one_hot(ids, count, dtype=tf.float32)
    else:
        feature = ids
        set_ids(ids, count + 1)
    return {key: feature, **_indicator(column.number, key, number)}


def make_cyclic(column: Cyclic, key: str, raw: Raw) -> dict[str, Any]:
    """Return sine and cosine, float32 [rows], both 0 where missing."""
    values, present = raw.number(column.column)
    period = tf.constant(column.period, tf.float64)
    angle = tf.math.floormod(values, period) * (2 * math.pi / column.period)
    parts = zip(column.output_names(key), (tf.sin, tf.cos), strict=True)
    zero = tf.constant(0.0, tf.float64)
    return {name: to_float32(tf.where(present, _settled(fn, angle), zero)) for name, fn in parts}


def to_float32(values: tf.Tensor) -> tf.Tensor:
    """Round float64 to float32, to the largest finite one where it would be infinite."""
    return tf.cast(tf.clip_by_value(values, -_LARGEST, _LARGEST), tf.float32)


def _indicator(column: Numeric, key: str, number: _Number) -> dict[str, tf.Tensor]:
    if not column.indicator:
        return {}
    return {f"{key}_missing": tf.cast(tf.logical_not(number.present), tf.float32)}


def _run(column: Numeric, key: str, raw: Raw) -> _Number:
    values, present = raw.number(column.column)
    number = _Number(values, present, f'feature "{key}": column "{column.column}"')
    for step in column.steps:
        number = _apply(number, step)
    return number


def _apply(number: _Number, step: Step) -> _Number:
    arguments: Any = step.arguments
    return _STEPS[step.name](number, *arguments)


def _settled(fn: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor) -> tf.Tensor:
    """Return fn(values), the same in every batch and on every processor, as float64."""
    rows = tf.shape(values, out_type=tf.int64)[0]
    result = fn(pad_rows({"x": values}, PAD_TO)["x"])
    return tf.cast(to_float32(slice_rows(result, rows)), tf.float64)


def _signed_log1p(values: tf.Tensor) -> tf.Tensor:
    logs = _settled(tf.math.log1p, tf.reshape(tf.abs(values), [-1]))
    return tf.sign(values) * tf.reshape(logs, tf.shape(values))


def _impute(number: _Number, value: float | str) -> _Number:
    if value == "mean":
        fill = number.moments.mean
    elif value == "median":
        (fill,) = number.quantiles(0.5)
    else:
        fill = tf.constant(value, tf.float64)
    # The first imputation leaves nothing to impute.
    return number if number.fill is not None else dataclasses.replace(number, fill=fill)


def _clip_values(number: _Number, low: Any, high: Any) -> _Number:
    low, high = (tf.convert_to_tensor(bound, tf.float64) for bound in (low, high))
    return number.map(lambda x: tf.minimum(tf.maximum(x, low), high))


def _clip(number: _Number, low: float, high: float) -> _Number:
    return _clip_values(number, *number.quantiles(low, high))


def _clip_zscore(number: _Number, deviations: float) -> _Number:
    mean, reach = number.moments.mean, tf.sqrt(number.moments.variance) * deviations
    return _clip_values(number, mean - reach, mean + reach)


def _clip_iqr(number: _Number, ranges: float) -> _Number:
    first, third = number.quantiles(0.25, 0.75)
    reach = (third - first) * ranges
    return _clip_values(number, first - reach, third + reach)


def _log1p(number: _Number) -> _Number:
    return number.map(_signed_log1p)


def _zscore(number: _Number) -> _Number:
    return number.scale(number.moments.mean, tf.sqrt(number.moments.variance), flat=0)


def _minmax(number: _Number) -> _Number:
    low, high = number.moments.low, number.moments.high
    return number.scale(low, high - low, flat=0)


def _robust(number: _Number) -> _Number:
    first, median, third = number.quantiles(0.25, 0.5, 0.75)
    return number.scale(median, third - first, flat=1)


_STEPS: dict[str, Callable[..., _Number]] = {
    "impute": _impute,
    "clip": _clip,
    "clip_values": _clip_values,
    "clip_zscore": _clip_zscore,
    "clip_iqr": _clip_iqr,
    "log1p": _log1p,
    "zscore": _zscore,
    "minmax": _minmax,
    "robust": _robust,
}
