"""Parquet files as batches of typed rows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skewless.errors import DataError
from skewless.schema import Schema, column_names
from skewless.transforms.outcomes import cast_rows
from skewless.transforms.parse import replay_json
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.files import FileSource, Piece, open_file
from skewless.transforms.sources.source import Typed

__all__ = ["ReadParquet"]

_BATCH_ROWS = 65_536
_BATCH_BYTES = 64 << 20


@dataclasses.dataclass(eq=False)
class ReadParquet(FileSource):
    """Read Parquet files, row group by row group, cast to the schema's types.

    A row with a value that its type cannot hold is rejected. The offset of a row is its
    number in the file.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong, or the files lack a column of the schema.
        DataError: If a file is missing, or is not Parquet.
    """

    is_packed = True

    def file_format(self) -> ParquetFormat:
        """Return how these files are read."""
        return ParquetFormat()


@dataclasses.dataclass(frozen=True)
class ParquetFormat:
    """How Parquet files are cut and cast."""

    def header(self, path: str) -> tuple[str, ...]:
        """Return the names of the columns."""
        with _open(path) as file:
            return tuple(file.schema_arrow.names)

    def pieces(self, path: str, size: int) -> Iterator[Piece]:  # noqa: ARG002
        """Yield the row groups, of small ones several together."""
        with _open(path) as file:
            start = rows = held = 0
            for group in range(file.num_row_groups):
                found = file.metadata.row_group(group)
                grown, grown_bytes = rows + found.num_rows, held + found.total_byte_size
                if rows and (grown > _BATCH_ROWS or grown_bytes > _BATCH_BYTES):
                    yield Piece(path, start, group)
                    start, grown, grown_bytes = group, found.num_rows, found.total_byte_size
                rows, held = grown, grown_bytes
            if start < file.num_row_groups:
                yield Piece(path, start, file.num_row_groups)

    def types(self, path: str) -> pa.Schema:
        """Return the columns of a file in types of their own."""
        with _open(path) as file:
            return file.schema_arrow

    def typed(self, piece: Piece, columns: Sequence[str]) -> Iterator[Typed]:
        """Yield columns of the row groups in types of their own, at most 65,536 rows at once."""
        for first, batch in _batches(piece, list(columns)):
            yield Typed(batch, np.arange(first, first + batch.num_rows))

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of the row groups, at most 65,536 at once."""
        for batch, offsets in self.typed(piece, column_names(schema)):
            yield cast_rows(batch, schema, piece.path, offsets)

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the file's own types."""
        for _, batch in _batches(piece, None):
            texts = [f.name for f in batch.schema if _is_text(f.type)]
            for name in texts:
                at = batch.schema.get_field_index(name)
                batch = batch.set_column(at, name, batch[name].cast(pa.binary()))
            yield batch

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)


@contextlib.contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    with open_file(path) as handle:
        try:
            file = pq.ParquetFile(handle)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a Parquet file, or cut short ({error})") from None
        yield file


def _batches(piece: Piece, columns: list[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches and the number in the file of the first row of each."""
    with _open(piece.path) as file:
        groups = range(piece.start, piece.stop if piece.stop is not None else file.num_row_groups)
        first = sum(file.metadata.row_group(i).num_rows for i in range(piece.start))
        for batch in _read(file, list(groups), columns):
            yield first, batch
            first += batch.num_rows


def _read(
    file: pq.ParquetFile, groups: list[int], columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    if len(groups) == 1:
        yield from file.iter_batches(
            _BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False
        )
        return
    # Several are small. Their batches would be, too: a batch does not go beyond a row group.
    table = file.read_row_groups(groups, columns=columns, use_threads=False)
    yield from table.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
