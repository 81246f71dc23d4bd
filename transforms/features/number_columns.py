"""Columns made of numbers and dates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from skewless.transforms.features.column import (
    NUMBERS,
    Column,
    SingleColumn,
    check,
    is_count,
    is_number,
)

__all__ = ["DATE_PARTS", "Buckets", "Cyclic", "DateParts", "Numeric", "Step"]

# The largest value of each part of a date that is an id; the year is a number.
DATE_PARTS = {
    "year": None,
    "quarter": 4,
    "month": 12,
    "day": 31,
    "weekday": 6,
    "day_of_year": 366,
    "hour": 23,
    "minute": 59,
    "second": 59,
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation on a number, by the name of the method that asked for it."""

    name: str
    arguments: tuple[float | str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Numeric(SingleColumn):
    """A number, float32; its steps run in the order of the calls. Made by `numeric`.

    >>> from skewless.transforms.features.columns import numeric
    >>> numeric("distance").impute("median").log1p().zscore().steps[0]
    Step(name='impute', arguments=('median',))
    """

    kinds: ClassVar[frozenset[str]] = NUMBERS

    steps: tuple[Step, ...] = ()
    indicator: bool = False

    def output_names(self, key: str) -> tuple[str, ...]:
        """Return the names of the features made when the recipe calls it `key`."""
        return (key, f"{key}_missing") if self.indicator else (key,)

    def impute(self, value: float | str) -> Numeric:
        """Replace a missing value by the "mean" or "median" of the present ones, or a number."""
        known = value in ("mean", "median") if isinstance(value, str) else is_number(value)
        check(known, "impute", value, '"mean", "median" or a finite number')
        return self._then("impute", value)

    def missing_indicator(self) -> Numeric:
        """Add the feature `<key>_missing`: 1 where the value is missing, else 0."""
        return dataclasses.replace(self, indicator=True)

    def clip(self, low: float, high: float) -> Numeric:
        """Clip to the `low` and `high` quantiles (between 0 and 1) of the training rows."""
        right = is_number(low) and is_number(high) and 0 <= low < high <= 1
        check(right, "clip", (low, high), "quantiles with 0 <= low < high <= 1")
        return self._then("clip", low, high)

    def clip_values(self, low: float, high: float) -> Numeric:
        """Clip to the numbers `low` and `high`."""
        right = is_number(low) and is_number(high) and low <= high
        check(right, "clip_values", (low, high), "finite numbers with low <= high")
        return self._then("clip_values", low, high)

    def clip_zscore(self, deviations: float = 3.0) -> Numeric:
        """Clip to the mean plus or minus `deviations` standard deviations."""
        check(is_number(deviations) and deviations > 0, "clip_zscore", deviations, "above 0")
        return self._then("clip_zscore", deviations)

    def clip_iqr(self, ranges: float = 1.5) -> Numeric:
        """Clip to `ranges` interquartile ranges below the first and above the third quartile."""
        check(is_number(ranges) and ranges >= 0, "clip_iqr", ranges, "0 or more")
        return self._then("clip_iqr", ranges)

    def log1p(self) -> Numeric:
        """Take `log(1 + x)`; of a negative value `-log(1 - x)`, so that it stays finite."""
        return self._then("log1p")

    def zscore(self) -> Numeric:
        """Subtract the mean and divide by the standard deviation; 0 where that is 0."""
        return self._then("zscore")

    def minmax(self) -> Numeric:
        """Scale the training rows' range to 0..1; 0 where all values are the same."""
        return self._then("minmax")

    def robust(self) -> Numeric:
        """Subtract the median and divide by the interquartile range (by 1 where that is 0)."""
        return self._then("robust")

    def bucketize(
        self, buckets: int | None = None, *, boundaries: Sequence[float] | None = None
    ) -> Buckets:
        """Turn the number into the id of its bucket, the missing value being the last id.

        Args:
            buckets: Into how many buckets of about equal counts.
            boundaries: Or the bounds: a value belongs to bucket i if it is at least
                boundary i-1 and below boundary i.
        """
        given = (buckets, boundaries)
        check((buckets is None) != (boundaries is None), "bucketize", given, "one of the two")
        if boundaries is None:
            check(is_count(buckets) and buckets != 1, "bucketize", buckets, "2 or more")
            return Buckets(self, buckets=buckets)
        bounds = tuple(boundaries)
        rising = all(map(is_number, bounds)) and list(bounds) == sorted(set(bounds))
        check(bool(bounds) and rising, "bucketize", bounds, "rising finite boundaries")
        return Buckets(self, boundaries=bounds)

    def _then(self, name: str, *arguments: float | str) -> Numeric:
        return dataclasses.replace(self, steps=(*self.steps, Step(name, arguments)))


@dataclasses.dataclass(frozen=True)
class Buckets(Column):
    """A number as the id of its bucket, int64 (or one-hot). Made by `Numeric.bucketize`."""

    kinds: ClassVar[frozenset[str]] = NUMBERS

    number: Numeric
    buckets: int | None = None
    boundaries: tuple[float, ...] | None = None
    hot: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The raw columns it reads."""
        return self.number.inputs

    def output_names(self, key: str) -> tuple[str, ...]:
        """Return the names of the features made when the recipe calls it `key`."""
        return self.number.output_names(key)

    def one_hot(self) -> Buckets:
        """Give float32 [rows, buckets] with a single 1, instead of ids."""
        return dataclasses.replace(self, hot=True)


@dataclasses.dataclass(frozen=True)
class Cyclic(SingleColumn):
    """A number on a circle: `<key>_sin` and `<key>_cos`, float32; missing is the centre."""

    kinds: ClassVar[frozenset[str]] = NUMBERS

    period: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check(is_number(self.period) and self.period > 0, "cyclic(period)", self.period, "above 0")

    def output_names(self, key: str) -> tuple[str, ...]:
        """Return the names of the features made when the recipe calls it `key`."""
        return (f"{key}_sin", f"{key}_cos")


@dataclasses.dataclass(frozen=True)
class DateParts(SingleColumn):
    """Parts of a UTC timestamp: `<key>_<part>`. Made by `date_parts`."""

    kinds: ClassVar[frozenset[str]] = frozenset({"timestamp"})

    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parts", tuple(self.parts))
        right = bool(self.parts) and set(self.parts) <= DATE_PARTS.keys()
        check(right, "date_parts(parts)", self.parts, f"some of {', '.join(DATE_PARTS)}")

    def output_names(self, key: str) -> tuple[str, ...]:
        """Return the names of the features made when the recipe calls it `key`."""
        return tuple(f"{key}_{part}" for part in self.parts)
