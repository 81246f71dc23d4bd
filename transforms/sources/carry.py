"""Read rows with columns besides those of the schema, as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.outcomes import cast_rows
from skewless.transforms.parse import json_object, json_text, parse_json_rows
from skewless.transforms.rows import CARRIED, OFFSET, Outcome, Rejected, Rows
from skewless.transforms.sources.files import FileSource, first_file
from skewless.transforms.sources.json_lines import JsonLinesFormat
from skewless.transforms.sources.parquet import ParquetFormat
from skewless.transforms.sources.source import BatchSource, Reader, TypedReader

__all__ = ["Carry", "can_carry"]


def can_carry(source: BatchSource) -> bool:
    """Say whether `Carry` knows a source's rows."""
    return isinstance(source.reader(), TypedReader | JsonLinesFormat)


@dataclasses.dataclass(eq=False)
class Carry(beam.PTransform):  # type: ignore[misc]
    """Read a source, and beside the columns of its schema others of its rows as they are.

    They are in a struct, the column `_carried`: of Parquet and BigQuery in types of their own,
    and so may be columns of the schema; of JSON Lines as text, what is no string as JSON. None
    of them rejects a row, and what is rejected has them in its payload.

    Args:
        source: The source, with its schema.
        columns: The names of what is carried.

    Returns:
        What the source returns.

    Raises:
        RecipeError: If the source is of another kind.
        DataError: If a column of a file cannot be of the type that it has in the first file.
    """

    source: BatchSource
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__init__()
        if not can_carry(self.source):
            raise RecipeError(
                f"{self.source.where}: only columns of the schema can be read of it; expected "
                "Parquet, BigQuery or JSON Lines"
            )

    def expand(self, pbegin: Any) -> Rows:
        """Plan, spread and read the pieces."""
        source = self.source
        schema = source.raw_schema()
        source.check_columns(schema)
        if isinstance(source, FileSource):
            pieces = source.plan(pbegin, schema)
        else:
            wanted = tuple(dict.fromkeys([*column_names(schema), *self.columns]))
            pieces = dataclasses.replace(source, schema=None, columns=wanted).plan(pbegin)
        return source.read_pieces(pieces, schema, self._reader())

    def _reader(self) -> Reader:
        reader, types = self.source.reader(), None
        if isinstance(reader, JsonLinesFormat):
            return _CarryText(reader, self.columns)
        if isinstance(reader, ParquetFormat) and isinstance(self.source, FileSource):
            # Files may differ, and what is written of them is one table.
            known = reader.types(first_file(self.source.patterns, self.source.spans))
            types = {name: _plain(known.field(name).type) for name in self.columns}
        assert isinstance(reader, TypedReader)
        return _CarryTyped(reader, self.columns, types)


def _plain(type_: pa.DataType) -> pa.DataType:
    """Return the type of the values: dictionaries differ from batch to batch."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


@dataclasses.dataclass(frozen=True)
class _Carrier:
    """What readers that carry have in common."""

    reader: Any
    columns: tuple[str, ...]

    def untyped(self, piece: Any) -> Iterator[pa.RecordBatch]:
        return self.reader.untyped(piece)  # type: ignore[no-any-return]

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        return self.reader.replay(rejected, schema)  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class _CarryTyped(_Carrier):
    types: Mapping[str, pa.DataType] | None

    def read(self, piece: Any, schema: Schema) -> Iterator[Outcome]:
        wanted = list(dict.fromkeys([*column_names(schema), *self.columns]))
        for batch, offsets in self.reader.typed(piece, wanted):
            outcome = cast_rows(batch, schema, piece[0], offsets)
            # Offsets rise, so that those of the rows that are kept say which they are.
            at = np.searchsorted(offsets, outcome.kept.column(OFFSET).to_numpy())
            carried = [self._column(batch, name, piece[0]) for name in self.columns]
            if len(at) < len(offsets):
                carried = [column.take(pa.array(at)) for column in carried]
            yield _with_carried(outcome, self.columns, carried)

    def _column(self, batch: pa.RecordBatch, name: str, place: str) -> pa.Array:
        if name not in batch.schema.names:
            return pa.nulls(batch.num_rows, None if self.types is None else self.types[name])
        column = batch.column(name)
        type_ = _plain(column.type) if self.types is None else self.types[name]
        try:
            return column.cast(type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f'{place}: column "{name}" is {column.type}, and {type_} in the first file; make '
                "them the same, or leave the column out"
            ) from None


@dataclasses.dataclass(frozen=True)
class _CarryText(_Carrier):
    def read(self, piece: Any, schema: Schema) -> Iterator[Outcome]:
        for lines, offsets in self.reader.blocks(piece):
            outcome = parse_json_rows(lines, schema, piece.path, offsets)
            at = np.searchsorted(offsets, outcome.kept.column(OFFSET).to_numpy())
            rows = [json_object(lines[row]) for row in at.tolist()]
            carried = [
                pa.array([_text(row.get(name)) for row in rows], pa.string())
                for name in self.columns
            ]
            yield _with_carried(outcome, self.columns, carried)


def _text(value: Any) -> str | None:
    return None if value is None else json_text(value)


def _with_carried(outcome: Outcome, names: Sequence[str], columns: Sequence[pa.Array]) -> Outcome:
    struct = pa.StructArray.from_arrays(columns, names=list(names))
    return outcome._replace(kept=outcome.kept.append_column(CARRIED, struct))
