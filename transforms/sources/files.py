"""Files as batches of typed rows: match, plan the pieces, spread them, read them.

What differs between formats is a `FileFormat`; what a user writes is a `FileSource`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.sources.source import BatchSource, Reader, require_columns

__all__ = [
    "FileFormat",
    "FileSource",
    "Patterns",
    "Piece",
    "first_file",
    "is_compressed",
    "open_file",
]

Patterns = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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


class FileFormat(Reader, Protocol):
    """How one format is planned and read."""

    def header(self, path: str) -> tuple[str, ...]:
        """Return the names of the file's columns; empty where each row has its own.

        Raises:
            DataError: If the file is empty or is not of this format.
        """

    def pieces(self, path: str, size: int) -> Iterator[Piece]:
        """Yield the pieces of a file of `size` bytes, none of which cuts a row."""


@dataclasses.dataclass(eq=False)
class FileSource(BatchSource):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        one = isinstance(self.pattern, (str, os.PathLike))
        patterns = [self.pattern] if one else list(self.pattern)  # type: ignore[arg-type]
        self.patterns: tuple[str, ...] = tuple(os.fspath(p) for p in patterns)  # type: ignore[arg-type]
        if not self.patterns or not all(self.patterns):
            raise RecipeError(f"{type(self).__name__}: give at least one path or glob")

    @property
    def input_name(self) -> str:
        """The input's name in the ledger, e.g. `flights` for `data/flights.csv.gz`."""
        return self.name or pathlib.PurePosixPath(self.patterns[0]).name.split(".")[0]

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages: `ReadCsv("flights.csv")`."""
        return f'{type(self).__name__}("{self.patterns[0]}")'

    def file_format(self) -> FileFormat:
        """Return how these files are planned and read."""
        raise NotImplementedError

    def reader(self) -> FileFormat:
        """Return how the pieces are read."""
        return self.file_format()

    def available_columns(self) -> tuple[str, ...]:
        """Return the columns of the first file; empty where each row has its own."""
        return self.file_format().header(first_file(self.patterns))

    def check_columns(self, schema: Schema) -> None:
        """Check that the first file has the columns of `schema`; the others are, as read."""
        _check_header(self.file_format(), first_file(self.patterns), schema)

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[Piece]:
        """Return the pieces of all files; a file that several patterns match is read once."""
        return (
            pbegin
            | "Patterns" >> beam.Create(list(self.patterns))
            | "MatchFiles" >> beam.FlatMap(_match)
            | "DropRepeatedFiles" >> beam.Distinct()
            | "PlanPieces" >> beam.ParDo(_PlanPieces(self.file_format(), schema))
            | "Spread" >> beam.Reshuffle()
        )

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return the files with their sizes and digests."""
        files = {file for pattern in self.patterns for file in _match(pattern)}
        return [
            {"path": path, "size": size, "digest": _digest(path)} for path, size in sorted(files)
        ]


def _digest(path: str) -> str:
    """Return a checksum: Beam's local file system knows sizes only, remote ones know theirs."""
    local = pathlib.Path(path)
    if not local.exists():
        return str(FileSystems.checksum(path))
    with local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


class _PlanPieces(beam.DoFn):  # type: ignore[misc]
    def __init__(self, file_format: FileFormat, schema: Schema | None) -> None:
        self._format = file_format
        self._schema = schema

    def process(self, file: tuple[str, int]) -> Iterator[Piece]:
        path, size = file
        _check_header(self._format, path, self._schema)
        yield from self._format.pieces(path, size)
