"""Times written as text, and what no time can be."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["in_unit", "null_where", "outside_years", "parse_timestamps", "try_cast"]

_US = pa.timestamp("us", tz="UTC")
_ZONED = r"[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"

# What a `datetime` can hold: from year 1 to the end of year 9999, in seconds since 1970.
_FIRST_SECOND, _END_SECOND = -62_135_596_800, 253_402_300_800
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parse_timestamps(texts: pa.Array, unit: str) -> pa.Array:
    """Parse ISO 8601 texts; without a zone they are UTC.

    Args:
        texts: String array, e.g. `2013-01-01T10:00:00Z`, `2013-01-01 12:00+02:00`,
            `2013-01-01`. Digits past the microsecond are cut off.
        unit: `s` or `us`.

    Returns:
        Timestamps in UTC; null where a text is no timestamp from year 1 to 9999, or
        `unit` cannot hold it.
    """
    for type_ in (_US, pa.timestamp("us")):
        try:
            return in_unit(texts.cast(type_).cast(_US), unit)
        except pa.ArrowInvalid:
            pass  # some text has the other form, or is no timestamp at all
    cleaned = pc.replace_substring_regex(pc.ascii_trim_whitespace(texts), r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(cleaned, _ZONED)
    with_zone = try_cast(null_where(cleaned, pc.invert(zoned)), _US)
    without = try_cast(null_where(cleaned, zoned), pa.timestamp("us")).cast(_US)
    return in_unit(pc.coalesce(with_zone, without), unit)


def in_unit(times: pa.Array, unit: str) -> pa.Array:
    """Return times in UTC and `unit`, null where it or a datetime cannot hold one."""
    times = null_where(times, outside_years(times))
    times = times.cast(pa.timestamp("us", tz=times.type.tz), safe=False).cast(_US)
    cast = times.cast(pa.timestamp(unit, tz="UTC"), safe=False)
    return null_where(cast, pc.not_equal(cast.cast(_US), times))


def outside_years(times: pa.Array) -> pa.Array:
    """Say which times are not from year 1 to 9999."""
    scale, counts = _PER_SECOND[times.type.unit], times.cast(pa.int64())
    first = max(_FIRST_SECOND * scale, -(2**63))
    last = min(_END_SECOND * scale, 2**63) - 1
    return pc.or_(pc.less(counts, first), pc.greater(counts, last))


def try_cast(cells: pa.Array, type_: pa.DataType) -> pa.Array:
    """Cast what can be cast; null is the rest. Only distinct cells are looked at singly."""
    try:
        return cells.cast(type_)
    except pa.ArrowInvalid:
        distinct = cells.dictionary_encode()
        return _bisect(distinct.dictionary, type_).take(distinct.indices)


def _bisect(cells: pa.Array, type_: pa.DataType) -> pa.Array:
    try:
        return cells.cast(type_)
    except pa.ArrowInvalid:
        if len(cells) == 1:
            return pa.nulls(1, type_)
        half = len(cells) // 2
        return pa.concat_arrays([_bisect(cells[:half], type_), _bisect(cells[half:], type_)])


def null_where(values: pa.Array, mask: pa.Array) -> pa.Array:
    """Return `values` with null where `mask` is true."""
    return pc.if_else(mask, pa.scalar(None, values.type), values)
