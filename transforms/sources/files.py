"""Files as batches of typed rows: match, plan the pieces, spread them, read them.

What differs between formats is a `FileFormat`; what a user writes is a `FileSource`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, Protocol

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from skewless import progress
from skewless.errors import DataError, RecipeError, no_such_column
from skewless.schema import Schema, arrow_schema, column_names, drop_columns, parse_schema
from skewless.transforms.parse import restore_origin
from skewless.transforms.rows import Count, Outcome, Rejected, Rows

__all__ = [
    "FileFormat",
    "FileSource",
    "Patterns",
    "Piece",
    "first_file",
    "is_compressed",
    "match_pieces",
    "open_file",
    "require_columns",
]

Patterns = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_MAX_ROWS = 65_536


class Piece(NamedTuple):
    """A part of a file that one worker reads.

    Attributes:
        path: The file.
        start: First byte (line formats: where a line begins) or row group.
        stop: The byte or row group to stop before; None for the end of the file.
        header: The names of the file's columns, where the format has a header.
    """

    path: str
    start: int
    stop: int | None
    header: tuple[str, ...] = ()


class FileFormat(Protocol):
    """How one format is planned and read. Picklable; opens files only when called."""

    def header(self, path: str) -> tuple[str, ...]:
        """Return the names of the file's columns; empty where each row has its own.

        Raises:
            DataError: If the file is empty or is not of this format.
        """

    def pieces(self, path: str, size: int) -> Iterator[Piece]:
        """Yield the pieces of a file of `size` bytes, none of which cuts a row."""

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, typed by `schema`, block by block."""

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a piece in types of their own, for schema inference.

        A string column holds cells as the format writes them, whose type is to be found
        out; every other type, binary too, is what the column is.
        """

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""


@dataclasses.dataclass(eq=False)
class FileSource(beam.PTransform):  # type: ignore[misc]
    """What all sources of files have in common.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.

    Raises:
        RecipeError: If there is no pattern, no schema, or a column that does not exist.
        DataError: If a pattern matches no file, or the first file cannot be used.
    """

    pattern: Patterns
    _: dataclasses.KW_ONLY
    schema: Schema | str | os.PathLike[str] | None = None
    columns: Sequence[str] | None = None
    event_time: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__init__()
        one = isinstance(self.pattern, (str, os.PathLike))
        patterns = [self.pattern] if one else list(self.pattern)  # type: ignore[arg-type]
        self.patterns: tuple[str, ...] = tuple(os.fspath(p) for p in patterns)  # type: ignore[arg-type]
        if not self.patterns or not all(self.patterns):
            raise RecipeError(f"{type(self).__name__}: give at least one path or glob")
        if self.columns is not None:
            if isinstance(self.columns, str):
                raise RecipeError(
                    f'{type(self).__name__}(columns="{self.columns}"): expected a list of '
                    f'names; write columns=["{self.columns}"]'
                )
            self.columns = tuple(self.columns)

    @property
    def input_name(self) -> str:
        """The input's name in the ledger, e.g. `flights` for `data/flights.csv.gz`."""
        return self.name or pathlib.PurePosixPath(self.patterns[0]).name.split(".")[0]

    def file_format(self) -> FileFormat:
        """Return how these files are read."""
        raise NotImplementedError

    def raw_schema(self) -> Schema:
        """Return the schema of the columns to read, in the schema's order.

        Raises:
            RecipeError: If there is none, or it lacks one of the columns asked for.
        """
        where = f'{type(self).__name__}("{self.patterns[0]}")'
        schema = self.schema
        if schema is None:
            raise RecipeError(
                f"{where}: has no schema; give schema=, or infer it with infer_schema(source)"
            )
        if isinstance(schema, (str, os.PathLike)):
            with open_file(os.fspath(schema)) as file:
                schema = parse_schema(file.read().decode(), os.fspath(schema))
        names = column_names(schema)
        if self.columns is not None:
            require_columns(self.columns, names, f"{where} columns=")
            schema = drop_columns(schema, set(names) - set(self.columns))
        types = arrow_schema(schema)
        if self.event_time is not None:
            require_columns([self.event_time], types.names, f"{where} event_time=")
            if not pa.types.is_timestamp(types.field(self.event_time).type):
                raise RecipeError(
                    f'{where} event_time="{self.event_time}": the column has type '
                    f"{types.field(self.event_time).type}; expected a timestamp"
                )
        return schema

    def read_rejected(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse rows that a person repaired, by the rules they were rejected by.

        Args:
            rejected: The rows; a payload is a JSON object of the columns, or a raw line.
            schema: The raw columns.

        Returns:
            The rows with the file and offset they first had; what is still bad is
            rejected again, with the same file, offset and payload.
        """
        return restore_origin(self.file_format().replay(rejected, schema), rejected)

    def expand(self, pbegin: Any) -> Rows:
        """Match, plan, spread and read the files."""
        schema, file_format = self.raw_schema(), self.file_format()
        _check_header(file_format, first_file(self.patterns), schema)
        outputs = match_pieces(
            pbegin, self.patterns, file_format, schema
        ) | "ReadPieces" >> beam.ParDo(_ReadPieces(file_format, schema)).with_outputs(
            "rejected", "counts", main="rows"
        )
        return Rows(outputs.rows, (outputs.rejected,), (outputs.counts,))


def require_columns(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Check that all columns exist.

    Raises:
        RecipeError: If one does not; the message names the nearest.
    """
    for column in wanted:
        if column not in known:
            raise no_such_column(column, known, where)


def open_file(path: str) -> BinaryIO:
    """Open a file on any Beam file system, decompressed by the ending of its name.

    Raises:
        DataError: If it cannot be opened.
    """
    try:
        return FileSystems.open(path)  # type: ignore[no-any-return]
    except (OSError, BeamIOError) as error:
        raise DataError(f"{path}: cannot be opened ({error}); check the path") from error


def is_compressed(path: str) -> bool:
    """Say whether the file is compressed as a whole, and so cannot be split."""
    kind = CompressionTypes.detect_compression_type(path)
    return bool(kind != CompressionTypes.UNCOMPRESSED)


def first_file(patterns: Sequence[str]) -> str:
    """Return the path of the first file, by name.

    Raises:
        DataError: If one of the patterns matches nothing.
    """
    return min(path for pattern in patterns for path, _ in _match(pattern))


def _match(pattern: str) -> list[tuple[str, int]]:
    try:
        found = FileSystems.match([pattern])[0].metadata_list
    except (OSError, BeamIOError, ValueError) as error:
        raise DataError(f'"{pattern}": cannot be listed ({error}); check the path') from error
    if not found:
        raise DataError(f'"{pattern}": no such file; check the path or glob')
    return [(metadata.path, metadata.size_in_bytes) for metadata in found]


def _check_header(file_format: FileFormat, path: str, schema: Schema | None) -> None:
    header = file_format.header(path)
    if header and schema is not None:
        require_columns(column_names(schema), header, path)


def match_pieces(
    pbegin: Any, patterns: Sequence[str], file_format: FileFormat, schema: Schema | None = None
) -> beam.PCollection[Piece]:
    """Return the pieces of all files, spread over the workers.

    Args:
        pbegin: The beginning of the pipeline.
        patterns: Paths and globs.
        file_format: How the files are planned.
        schema: The columns that every file must have, if known.

    Returns:
        The pieces. A file is read once, also where several patterns match it.
    """
    return (
        pbegin
        | "Patterns" >> beam.Create(list(patterns))
        | "MatchFiles" >> beam.FlatMap(_match)
        | "DropRepeatedFiles" >> beam.Distinct()
        | "PlanPieces" >> beam.ParDo(_PlanPieces(file_format, schema))
        | "Spread" >> beam.Reshuffle()
    )


class _PlanPieces(beam.DoFn):  # type: ignore[misc]
    def __init__(self, file_format: FileFormat, schema: Schema | None) -> None:
        self._format = file_format
        self._schema = schema

    def process(self, file: tuple[str, int]) -> Iterator[Piece]:
        path, size = file
        _check_header(self._format, path, self._schema)
        yield from self._format.pieces(path, size)


@beam.typehints.with_output_types(pa.RecordBatch)
class _ReadPieces(beam.DoFn):  # type: ignore[misc]
    def __init__(self, file_format: FileFormat, schema: Schema) -> None:
        self._format = file_format
        self._schema = schema

    def process(self, piece: Piece) -> Iterator[Any]:
        read = 0
        for kept, rejected, counts in _one_ahead(self._format.read(piece, self._schema)):
            read += counts["read"]
            progress.add("rows_read", counts["read"])
            yield from _in_batches(kept)
            for row in rejected:
                yield beam.pvalue.TaggedOutput("rejected", row)
        if read:
            yield beam.pvalue.TaggedOutput("counts", Count("", "Read", "read", read))


def _one_ahead(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes, the next of which is being read while one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, outcomes, None)
        while (outcome := following.result()) is not None:
            following = reader.submit(next, outcomes, None)
            yield outcome


def _in_batches(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the batch, in even slices if it has very many rows."""
    parts = -(-batch.num_rows // _MAX_ROWS)
    edges = [batch.num_rows * i // max(parts, 1) for i in range(parts + 1)]
    for start, stop in itertools.pairwise(edges):
        yield batch.slice(start, stop - start)
