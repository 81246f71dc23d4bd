"""Columns as databases give them, as cells of the raw columns' types."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.schema import Feature, arrow_type
from skewless.timestamps import parse_timestamps
from skewless.transforms.cells import (
    Cells,
    canonical,
    cast_column,
    parse_text,
    true_where,
)
from skewless.transforms.rows import python_rows
from skewless.transforms.sources.database_sql import quote

__all__ = ["DatabaseColumns", "SqliteColumns", "TypedColumns"]

_TYPE_NAME = b"ADBC:postgresql:typname"
_IS_PLAIN = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_decimal,
    pa.types.is_null,
)


class DatabaseColumns(Protocol):
    """How the columns of one kind of database are asked for, and read."""

    def select(self, names: Sequence[str]) -> str:
        """Return what follows SELECT for columns of q."""

    def cells(self, batch: pa.RecordBatch, feature: Feature, where: str) -> Cells:
        """Return a column of rows that were selected so.

        Raises:
            DataError: If the column can never have the feature's type.
        """

    def values(self, batch: pa.RecordBatch, names: Sequence[str], row: int) -> dict[str, Any]:
        """Return a row as Python values."""

    def readable(self, types: pa.Schema) -> list[str]:
        """Return the columns that a feature can hold."""

    def untyped(self, batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        """Return the rows for schema inference."""


# --- Databases whose columns have types -----------------------------------------------


@dataclasses.dataclass(frozen=True)
class TypedColumns:
    """Columns of PostgreSQL and DuckDB. What Arrow has no plain type for comes as text.

    Args:
        types: The columns that there are, as the driver gives them.
    """

    types: pa.Schema

    def select(self, names: Sequence[str]) -> str:
        """Return the columns, some of them cast to text."""
        return ", ".join(
            f"q.{quote(name)}"
            if _is_plain(self.types.field(name))
            else f"CAST(q.{quote(name)} AS VARCHAR) AS {quote(name)}"
            for name in names
        )

    def cells(self, batch: pa.RecordBatch, feature: Feature, where: str) -> Cells:
        """Cast a column to the feature's type; exact numbers from their text."""
        column = _usual(batch[feature.name])
        if _is_numeric(self.types.field(feature.name)) and feature.type != schema_pb2.BYTES:
            whole = pc.replace_substring_regex(column, r"\.0+$", "")
            return parse_text(whole, feature, ("NaN", "nan"))
        return cast_column(column, feature, where)

    def values(self, batch: pa.RecordBatch, names: Sequence[str], row: int) -> dict[str, Any]:
        """Return a row as Python values."""
        found = python_rows(batch.select(list(names)).slice(row, 1))[0]
        return {name: found[name] for name in names}

    def readable(self, types: pa.Schema) -> list[str]:
        """Return the columns that are no structures."""
        return [field.name for field in types if not _is_nested(field.type)]

    def untyped(self, batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        """Return the columns in types of their own: text, too, is what the column is."""
        columns = {}
        for name in names:
            column, field = _usual(batch[name]), self.types.field(name)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                columns[name] = column if _is_numeric(field) else column.cast(pa.large_binary())
            else:
                columns[name] = column
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _is_plain(field: pa.Field) -> bool:
    type_ = field.type
    if _TYPE_NAME in (field.metadata or {}):  # bytes that only PostgreSQL understands
        return False
    if pa.types.is_dictionary(type_):
        return _is_plain(pa.field(field.name, type_.value_type))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _is_plain(type_.value_field)
    return any(is_kind(type_) for is_kind in _IS_PLAIN)


def _is_numeric(field: pa.Field) -> bool:
    """Say whether a column is PostgreSQL's `numeric`, which the driver gives as text."""
    name = getattr(field.type, "type_name", None)
    return name == "numeric" or (field.metadata or {}).get(_TYPE_NAME) == b"numeric"


def _is_nested(type_: pa.DataType) -> bool:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return bool(pa.types.is_nested(type_.value_type))
    return bool(pa.types.is_nested(type_))


def _usual(column: pa.Array) -> pa.Array:
    """Return a column in the types that the rest of the road knows."""
    type_ = column.type
    if isinstance(type_, pa.BaseExtensionType):
        return _usual(column.storage)
    if pa.types.is_string_view(type_):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(type_):
        return column.cast(pa.large_binary())
    if pa.types.is_dictionary(type_):
        return _usual(column.cast(type_.value_type))
    if pa.types.is_list(type_) and pa.types.is_string_view(type_.value_type):
        return column.cast(pa.list_(pa.string()))
    return column


# --- SQLite, where each cell has a type of its own ------------------------------------

_INT, _REAL, _TEXT = "integer ", "real ", "text "  # no name of a column begins so, or so it shows


@dataclasses.dataclass(frozen=True)
class SqliteColumns:
    """Columns of SQLite: each as three, of its whole numbers, its reals, and its texts."""

    def select(self, names: Sequence[str]) -> str:
        """Return the three columns of each column."""
        return ", ".join(
            f"CASE typeof({column}) WHEN 'integer' THEN {column} END AS {quote(_INT + name)}, "
            f"CASE typeof({column}) WHEN 'real' THEN {column} END AS {quote(_REAL + name)}, "
            f"CASE WHEN typeof({column}) IN ('text', 'blob') THEN CAST({column} AS TEXT) END "
            f"AS {quote(_TEXT + name)}"
            for name, column in ((name, f"q.{quote(name)}") for name in names)
        )

    def first_row(self, names: Sequence[str]) -> str:
        """Return a row from which the driver, which guesses types, guesses the right ones."""
        return ", ".join(
            f"0 AS {quote(_INT + name)}, 0.0 AS {quote(_REAL + name)}, '' AS {quote(_TEXT + name)}"
            for name in names
        )

    def readable(self, types: pa.Schema) -> list[str]:
        """Return all columns."""
        return list(types.names)

    def cells(self, batch: pa.RecordBatch, feature: Feature, where: str) -> Cells:
        """Convert each cell by what it is; a number in a column of texts is bad."""
        ints, reals, texts = _kinds(batch, feature.name)
        type_ = arrow_type(feature)
        if feature.type == schema_pb2.BYTES:
            parsed = parse_text(texts, feature, ())
            bad = pc.or_(pc.is_valid(ints), pc.is_valid(reals))
            return Cells(parsed.values, parsed.bad | true_where(bad))
        if pa.types.is_timestamp(type_):
            counted, parsed = cast_column(ints, feature, where), _parse_times(texts, feature)
            bad = counted.bad | parsed.bad | true_where(pc.is_valid(reals))
            return Cells(pc.coalesce(counted.values, parsed.values), bad)
        parts = [
            cast_column(ints, feature, where),
            cast_column(reals, feature, where),
            parse_text(texts, feature, ("",)),
        ]
        bad = np.logical_or.reduce([part.bad for part in parts])
        return Cells(pc.coalesce(*(part.values for part in parts)), bad)

    def values(self, batch: pa.RecordBatch, names: Sequence[str], row: int) -> dict[str, Any]:
        """Return a row as Python values."""
        found = python_rows(batch.slice(row, 1))[0]
        prefixes = (_INT, _REAL, _TEXT)
        cells = {name: [found[prefix + name] for prefix in prefixes] for name in names}
        return {name: next((c for c in cells[name] if c is not None), None) for name in names}

    def untyped(self, batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        """Return numbers as numbers, texts as texts, and as cells to be parsed what is mixed."""
        return pa.RecordBatch.from_arrays(
            [_guess(*_kinds(batch, name)) for name in names], names=list(names)
        )


def _kinds(batch: pa.RecordBatch, name: str) -> tuple[pa.Array, pa.Array, pa.Array]:
    texts = batch[_TEXT + name].cast(pa.binary())  # it may be no UTF-8
    return batch[_INT + name], batch[_REAL + name], texts


def _parse_times(texts: pa.Array, feature: Feature) -> Cells:
    parsed = parse_text(texts, feature, ("",))
    return Cells(canonical(parsed.values, feature), parsed.bad)


def _guess(ints: pa.Array, reals: pa.Array, texts: pa.Array) -> pa.Array:
    rows = len(ints)
    if texts.null_count == rows:
        if reals.null_count == rows:
            return ints
        return pc.coalesce(reals, ints.cast(pa.float64()))
    if ints.null_count == rows and reals.null_count == rows:
        return texts if _some_no_time(texts) else texts.cast(pa.string())
    try:
        return pc.coalesce(texts.cast(pa.string()), ints.cast(pa.string()), reals.cast(pa.string()))
    except pa.ArrowInvalid:  # not UTF-8, so certainly text
        return texts


def _some_no_time(texts: pa.Array) -> bool:
    """Say whether not all texts are times, which SQLite has no type for."""
    try:
        known = texts.cast(pa.string())
    except pa.ArrowInvalid:
        return True
    times = parse_timestamps(known, "us")
    empty = pc.equal(pc.binary_length(known), 0)
    return bool(pc.any(pc.and_not(pc.and_(pc.is_valid(known), pc.is_null(times)), empty)).as_py())
