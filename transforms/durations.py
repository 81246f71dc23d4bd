"""Durations as people write them: "5m", "24h", or a timedelta."""

from __future__ import annotations

import datetime
import re

from skewless.errors import RecipeError

__all__ = ["Duration", "microseconds"]

Duration = str | datetime.timedelta

_PATTERN = re.compile(r"(\d+)\s*(us|ms|s|m|h|d|w)")
_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}


def microseconds(duration: Duration, where: str) -> int:
    """Return a duration in microseconds.

    Args:
        duration: A number and a unit, as in "6h", or a timedelta; not negative.
        where: The argument, for the error: `JoinAsOf: tolerance`.

    Raises:
        RecipeError: If it is none.

    >>> microseconds("90s", "Aggregate: tile")
    90000000
    """
    if isinstance(duration, str) and (match := _PATTERN.fullmatch(duration.strip())):
        return int(match[1]) * _MICROSECONDS[match[2]]
    if isinstance(duration, datetime.timedelta) and duration >= datetime.timedelta():
        return duration // datetime.timedelta(microseconds=1)
    raise RecipeError(
        f"{where}={duration!r}; expected a timedelta, or a number and one of "
        f'{", ".join(_MICROSECONDS)}, as in "6h"'
    )
