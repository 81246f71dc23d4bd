"""Batches of rows as BigQuery takes them: types, columns of tables, and requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RunError
from skewless.transforms.rows import ORIGIN

__all__ = ["Column", "difference", "serialized_slices", "storable", "table_columns"]

# BigQuery takes 10 MB in one request; what is about half of it needs no second look.
_REQUEST_BYTES = 4 << 20
_MOST_REQUEST_BYTES = 9 << 20

# The two spellings of a type.
_SAME = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}


class Column(NamedTuple):
    """A column of a table, as BigQuery describes it."""

    name: str
    type: str
    mode: str


def storable(batch: pa.RecordBatch, origin: bool = False) -> pa.RecordBatch:
    """Return a batch in the Arrow types that BigQuery takes.

    Args:
        batch: The rows. A list that is missing becomes an empty one, which is what BigQuery
            makes of it.
        origin: Whether to keep the origin columns.

    Returns:
        Columns of int64, float64, bool, string, binary, date32, timestamp[us] with or
        without a zone, decimal128, and lists of these.

    Raises:
        RunError: If there is no such type for a column, or a value does not fit it.

    >>> storable(pa.record_batch({"x": pa.array([1.5], pa.float32())})).schema.field("x").type
    DataType(double)
    """
    names = [name for name in batch.schema.names if origin or name not in ORIGIN]
    columns = [_storable(batch.column(name), name) for name in names]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _storable(column: pa.Array, name: str) -> pa.Array:
    type_ = column.type
    if isinstance(column, pa.ExtensionArray):
        return _storable(column.storage, name)
    if pa.types.is_dictionary(type_):
        return _storable(column.cast(type_.value_type), name)
    listed = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    if listed or pa.types.is_fixed_size_list(type_):
        return _storable_lists(column, name)
    if pa.types.is_float16(type_):
        column = column.cast(pa.float32())
    try:
        return column.cast(_storable_type(type_, name))
    except pa.ArrowInvalid as error:
        raise RunError(
            f'column "{name}" of type {type_} holds a value that BigQuery cannot store ({error}); '
            "convert the column"
        ) from None


def _storable_lists(column: pa.Array, name: str) -> pa.Array:
    lists = column.cast(pa.list_(column.type.value_type))
    items = _storable(lists.flatten(), name)
    if items.null_count or pa.types.is_list(items.type):
        what = "a missing item" if items.null_count else "a list of lists"
        raise RunError(
            f'column "{name}" holds {what}, which BigQuery cannot store; convert the column'
        )
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], ends.type), ends]).cast(pa.int32())
    return pa.ListArray.from_arrays(offsets, items)


def _storable_type(type_: pa.DataType, name: str) -> pa.DataType:
    is_ = pa.types
    if is_.is_integer(type_):
        return pa.int64()
    if is_.is_floating(type_):
        return pa.float64()
    if is_.is_timestamp(type_):
        return pa.timestamp("us", tz=None if type_.tz is None else "UTC")
    if is_.is_date(type_):
        return pa.date32()
    if is_.is_boolean(type_):
        return pa.bool_()
    if is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_):
        return pa.string()
    if is_.is_binary(type_) or is_.is_large_binary(type_) or is_.is_binary_view(type_):
        return pa.binary()
    if is_.is_decimal128(type_) and type_.scale <= 9 and type_.precision - type_.scale <= 29:
        return pa.decimal128(38, 9)
    raise RunError(
        f'column "{name}" has type {type_}, which BigQuery cannot store; drop or convert the column'
    )


_TYPES = {
    pa.int64(): "INTEGER",
    pa.float64(): "FLOAT",
    pa.bool_(): "BOOLEAN",
    pa.string(): "STRING",
    pa.binary(): "BYTES",
    pa.date32(): "DATE",
    pa.timestamp("us"): "DATETIME",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP",
    pa.decimal128(38, 9): "NUMERIC",
}


def table_columns(schema: pa.Schema) -> list[Column]:
    """Return the columns of a table that holds batches of a schema that is `storable`.

    >>> table_columns(pa.schema([("n", pa.int64()), ("t", pa.list_(pa.string()))]))
    [Column(name='n', type='INTEGER', mode='NULLABLE'), Column(name='t', type='STRING', mode='REPEATED')]
    """  # noqa: E501
    columns = []
    for field in schema:
        listed = pa.types.is_list(field.type)
        type_ = field.type.value_type if listed else field.type
        columns.append(Column(field.name, _TYPES[type_], "REPEATED" if listed else "NULLABLE"))
    return columns


def difference(wanted: Sequence[Column], found: Sequence[Column]) -> str:
    """Say how a table's columns differ from those to be written; "" if they do not.

    A column that the table requires may be written: BigQuery refuses what is missing.
    """
    old = {column.name: column for column in found}
    new = {column.name: column for column in wanted}
    said = []
    for name, column in new.items():
        there = old.get(name)
        if there is None:
            said.append(f'column "{name}" is not in the table')
        elif _kind(there) != _kind(column):
            said.append(
                f'column "{name}" is {" ".join(_kind(there))} in the table and '
                f"{' '.join(_kind(column))} in the rows"
            )
    said += [f'column "{name}" is not in the rows' for name in old if name not in new]
    return "; ".join(said)


def _kind(column: Column) -> tuple[str, ...]:
    type_ = _SAME.get(column.type.upper(), column.type.upper())
    return ("repeated", type_) if column.mode.upper() == "REPEATED" else (type_,)


def serialized_slices(batch: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    """Yield a batch in slices that a request can hold: how many rows, and them as Arrow IPC.

    Raises:
        RunError: If one row alone is too large.
    """
    step = max(1, batch.num_rows * _REQUEST_BYTES // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        buffer = part.serialize()
        if buffer.size <= _MOST_REQUEST_BYTES:
            yield part.num_rows, buffer.to_pybytes()
        elif part.num_rows > 1:
            # Some rows are much larger than the others.
            half = part.num_rows // 2
            yield from serialized_slices(part.slice(0, half))
            yield from serialized_slices(part.slice(half))
        else:
            raise RunError(
                f"a row has {buffer.size:,} bytes; BigQuery takes {_MOST_REQUEST_BYTES:,}; drop "
                "its largest column"
            )
