"""Columns of text or of foreign Arrow types as the five Arrow types of raw columns.

The only place that decides what a number, a timestamp and a missing value look like, so
that a cell means the same wherever it comes from. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import DataError
from skewless.schema import Feature, arrow_type, is_list, missing_int
from skewless.timestamps import in_unit, null_where, outside_years, parse_timestamps, try_cast

__all__ = [
    "Cells",
    "Mask",
    "canonical",
    "cast_column",
    "expected",
    "is_flag",
    "parse_text",
    "true_where",
]

Mask = npt.NDArray[np.bool_]

_TRUE = pa.array(["true", "True", "TRUE"])
_FALSE = pa.array(["false", "False", "FALSE"])


class Cells(NamedTuple):
    """A parsed column: values with null for missing or bad, and which cells are bad."""

    values: pa.Array
    bad: Mask


def is_flag(feature: Feature) -> bool:
    """Say whether an INT column holds 0 and 1 only, so that true and false are values."""
    domain = feature.int_domain
    return bool(
        feature.type == schema_pb2.INT
        and domain.HasField("min")
        and domain.HasField("max")
        and (domain.min, domain.max) == (0, 1)
    )


def expected(feature: Feature) -> str:
    """Return what a cell of `feature` must look like, for a person."""
    type_ = arrow_type(feature)
    listed = "a list, each item " if is_list(feature) else ""
    if pa.types.is_timestamp(type_):
        whole = " in whole seconds" if type_.unit == "s" else ""
        return f"expected an ISO 8601 timestamp{whole}, from year 1 to 9999"
    words = {
        schema_pb2.INT: "a whole number (int64)",
        schema_pb2.FLOAT: "a number (float)",
        schema_pb2.BYTES: "UTF-8 text",
    }
    return f"expected {listed}{words[feature.type]}"


# --- Text -----------------------------------------------------------------------------


def parse_text(
    cells: pa.Array, feature: Feature, null_values: Sequence[str], strings_can_be_null: bool = False
) -> Cells:
    """Parse cells written as text; this is what CSV means.

    Args:
        cells: Binary or string array; nulls are missing.
        feature: The column, not a list.
        null_values: Texts that stand for a missing value (strings: only the empty one,
            unless `strings_can_be_null`).
        strings_can_be_null: Whether `null_values` apply to BYTES columns too.

    Returns:
        The values in the feature's Arrow type.

    >>> from skewless.schema import make_feature
    >>> cells = parse_text(pa.array([b"7", b"seven", b"NA"]),
    ...                    make_feature("n", pa.int64(), required=False), ["NA"])
    >>> cells.values.to_pylist(), cells.bad.tolist()
    ([7, None, None], [False, True, False])
    """
    texts = _decode(cells)
    undecoded = pc.and_(pc.is_valid(cells), pc.is_null(texts))
    if feature.type != schema_pb2.BYTES or strings_can_be_null:
        texts = null_where(texts, pc.is_in(texts, pa.array(null_values, pa.string())))
    type_ = arrow_type(feature)
    if feature.type == schema_pb2.BYTES:
        values = texts
    elif pa.types.is_timestamp(type_):
        values = parse_timestamps(texts, type_.unit)
    elif feature.type == schema_pb2.INT:
        values = _parse_ints(pc.ascii_trim_whitespace(texts), is_flag(feature))
    else:
        values = _parse_floats(pc.ascii_trim_whitespace(texts))
    bad = pc.or_(undecoded, pc.and_(pc.is_valid(texts), pc.is_null(values)))
    return Cells(canonical(values, feature), true_where(bad))


def _parse_ints(texts: pa.Array, flag: bool) -> pa.Array:
    # Arrow reads 0x10 as 16; no other JSON or CSV reader does.
    texts = null_where(texts, pc.match_substring(texts, "x", ignore_case=True))
    if flag:
        texts = pc.if_else(pc.is_in(texts, _TRUE), "1", texts)
        texts = pc.if_else(pc.is_in(texts, _FALSE), "0", texts)
    return try_cast(texts, pa.int64())


def _parse_floats(texts: pa.Array) -> pa.Array:
    values = try_cast(texts, pa.float64()).cast(pa.float32())
    infinite = pc.is_inf(values)
    if not pc.any(infinite).as_py():
        return values
    written = pc.match_substring(texts, "inf", ignore_case=True)
    return null_where(values, pc.and_(infinite, pc.invert(written)))


def _decode(cells: pa.Array) -> pa.Array:
    """Return binary cells as strings, null where they are not UTF-8."""
    return cells if pa.types.is_string(cells.type) else try_cast(cells, pa.string())


def true_where(flags: pa.Array) -> Mask:
    """Return a Boolean array as a mask; null is false."""
    return np.asarray(flags.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def canonical(values: pa.Array, feature: Feature) -> pa.Array:
    """Turn what serving cannot tell from missing (NaN, "", the missing integer) into null."""
    type_ = values.type
    if pa.types.is_list(type_):
        return _drop_missing_items(values, feature)
    if pa.types.is_floating(type_):
        missing = pc.is_nan(values)
    elif pa.types.is_integer(type_):
        missing = pc.equal(values, missing_int(feature))
    elif pa.types.is_string(type_):
        missing = pc.equal(pc.binary_length(values), 0)
    else:
        missing = pc.equal(values.cast(pa.int64()), missing_int(feature))
    return null_where(values, missing) if pc.any(missing).as_py() else values


def _drop_missing_items(lists: pa.Array, feature: Feature) -> pa.Array:
    items = canonical(lists.flatten(), feature)
    if not items.null_count:
        return lists
    kept = true_where(pc.is_valid(items))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(kept)])
    offsets = before[np.concatenate([[0], np.cumsum(lengths)])]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), items.drop_null(), mask=pc.is_null(lists)
    )


# --- Foreign Arrow types --------------------------------------------------------------


def cast_column(column: pa.Array, feature: Feature, where: str = "rows") -> Cells:
    """Cast a column of any Arrow type to the feature's, value by value.

    Args:
        column: The values; whole numbers may be written as floats.
        feature: The column's feature.
        where: What holds the column, for the error, e.g. a file's name.

    Returns:
        The values; bad are those that the type cannot hold (overflow, invalid UTF-8),
        and times that are not from year 1 to 9999.

    Raises:
        DataError: If the column's type can never be the feature's.
    """
    type_ = arrow_type(feature)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        column = column.cast(type_)
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())  # Arrow can hardly compute with halves
    if pa.types.is_list(type_) and _is_list_type(column.type):
        return _cast_lists(column, feature, where)
    values = None if pa.types.is_list(type_) else _cast_scalars(column, feature)
    if values is None:
        raise DataError(
            f'{where}: column "{feature.name}" has type {column.type}, which cannot become '
            f"{type_}; correct the schema or convert the column"
        )
    valid = pc.is_valid(column)
    if pa.types.is_floating(column.type):
        valid = pc.and_(valid, pc.invert(pc.is_nan(column)))
    bad = pc.and_(valid, pc.or_(pc.is_null(values), _overflowed(column, values)))
    return Cells(canonical(values, feature), true_where(bad))


def _overflowed(column: pa.Array, values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        return pa.scalar(False)
    literal = pc.is_inf(column) if pa.types.is_floating(column.type) else pa.scalar(False)
    return pc.and_(pc.is_inf(values), pc.invert(literal))


def _is_list_type(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def _cast_scalars(column: pa.Array, feature: Feature) -> pa.Array | None:
    """Return `column` in the feature's type, null where a value does not fit.

    Returns None if there is no such cast.
    """
    type_, given = arrow_type(feature), column.type
    number = pa.types.is_integer(given) or pa.types.is_boolean(given)
    text = pa.types.is_string(given) or pa.types.is_large_string(given)
    if text:  # Arrow does not look whether the text of a Parquet file is UTF-8.
        column = try_cast(column.cast(pa.large_binary()), pa.string())
    if pa.types.is_string(type_):
        binary = pa.types.is_binary(given) or pa.types.is_large_binary(given)
        return try_cast(column, type_) if text or binary else None
    if pa.types.is_timestamp(type_):
        if text:
            return parse_timestamps(column, type_.unit)
        if number:
            counts = try_cast(column, pa.int64())
            times, given_time = counts.cast(type_), pc.not_equal(counts, missing_int(feature))
            return null_where(times, pc.and_(given_time, outside_years(times)))
        if pa.types.is_date(given):
            column = column.cast(pa.timestamp("s" if pa.types.is_date32(given) else "ms"))
        if pa.types.is_timestamp(column.type):
            return in_unit(column, type_.unit)
        return None
    if number or pa.types.is_floating(given) or pa.types.is_decimal(given):
        if pa.types.is_floating(type_):
            return column.cast(pa.float64(), safe=False).cast(type_)
        if pa.types.is_floating(given):
            # 2**63 itself is the first float that int64 cannot hold.
            fits = pc.and_(pc.greater_equal(column, -(2.0**63)), pc.less(column, 2.0**63))
            column = null_where(
                column, pc.invert(pc.and_(fits, pc.equal(column, pc.trunc(column))))
            )
        return try_cast(column, type_)
    return None


def _cast_lists(column: pa.Array, feature: Feature, where: str) -> Cells:
    column = column.cast(pa.list_(column.type.value_type))
    item = Feature(name=feature.name, type=feature.type)
    items = cast_column(column.flatten(), item, where)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    bad_before = np.concatenate([[0], np.cumsum(items.bad)])
    bad = bad_before[offsets[1:]] > bad_before[offsets[:-1]]
    values = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), items.values, mask=pc.is_null(column)
    )
    return Cells(canonical(values, feature), bad)
