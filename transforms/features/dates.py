"""Parts of a date in the graph, by integer arithmetic on Unix time.

The calendar is Howard Hinnant's `civil_from_days`: years begin in March, so that the leap
day is the last one, and 400 of them (an era) always have 146,097 days.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.transforms.features.number_columns import DATE_PARTS, DateParts
from skewless.transforms.features.raw import Raw, set_ids

__all__ = ["make_date_parts", "parts_of"]

_DAY = 86_400
_ERA = 146_097
_MARCH_OF_YEAR_0 = 719_468


def make_date_parts(column: DateParts, key: str, raw: Raw) -> dict[str, Any]:
    """Return ids, int64 [rows], and for the year float32 years since 2000."""
    time, present = raw.scalar(column.column)
    unit = raw.feature(column.column).time_domain.integer_format
    if unit == schema_pb2.TimeDomain.UNIX_MICROSECONDS:
        time = time // 1_000_000
    values = parts_of(time)
    features = {}
    for part, name in zip(column.parts, column.output_names(key), strict=True):
        largest = DATE_PARTS[part]
        if largest is None:
            since = tf.where(present, values[part] - 2000, 0)
            features[name] = tf.cast(since, tf.float32)
        else:
            ids = tf.where(present, values[part], tf.constant(largest + 1, tf.int64))
            set_ids(ids, largest + 2)
            features[name] = ids
    return features


def parts_of(seconds: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return all parts of Unix seconds, int64 [rows], before 1970 too."""
    days, of_day = seconds // _DAY, seconds % _DAY
    since = days + _MARCH_OF_YEAR_0
    era, of_era = since // _ERA, since % _ERA
    of_400 = (of_era - of_era // 1460 + of_era // 36_524 - of_era // (_ERA - 1)) // 365
    of_year = of_era - (365 * of_400 + of_400 // 4 - of_400 // 100)
    march_month = (5 * of_year + 2) // 153
    month = march_month + tf.where(march_month < 10, tf.constant(3, tf.int64), -9)
    early = month <= 2
    year = of_400 + era * 400 + tf.cast(early, tf.int64)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return {
        "year": year,
        "quarter": (month + 2) // 3,
        "month": month,
        "day": of_year - (153 * march_month + 2) // 5 + 1,
        "weekday": (days + 3) % 7,
        "day_of_year": tf.where(early, of_year - 305, of_year + 60 + tf.cast(leap, tf.int64)),
        "hour": of_day // 3600,
        "minute": of_day // 60 % 60,
        "second": of_day % 60,
    }
