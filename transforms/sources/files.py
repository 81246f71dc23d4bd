"""Files as batches of typed rows: match, plan the pieces, spread them, read them.

What differs between formats is a `FileFormat`; what a user writes is a `FileSource`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.rows import Rows
from skewless.transforms.sources.patterns import Spans, find_files, has_span, without_spans
from skewless.transforms.sources.source import BatchSource, Reader, require_columns
from skewless.transforms.sources.watch import StampRows, WatchFiles

__all__ = [
    "FileFormat",
    "FileSource",
    "Patterns",
    "Piece",
    "first_file",
    "is_compressed",
    "open_file",
]

# What a byte of a file becomes in memory: the flights' CSV 1.8 bytes, as gzip 6.7, as Parquet
# 9.7 (snappy) and 10.5 (zstd).
_TEXT = 2
_PACKED = 10

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
        pattern: A path or glob, or several, on any Beam file system. `{SPAN}` in it stands for
            a number, `{YYYY}`, `{MM}` and `{DD}` for a day, `{VERSION}` for the version of
            such a span, of which the last is read.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.
        spans: Which spans: `RollingRange(7)`, or `StaticRange("2013-01-01", "2013-01-31")`; by
            default all that there are.
        watch_seconds: Makes it a stream: of files as they arrive, looked for so often, in
            micro-batches with event time.
        stop_after_seconds: How long to look for files in all; by default for ever.
        batch_seconds: The event time that a micro-batch may span.

    Raises:
        RecipeError: If an argument is wrong, or there is no schema, or a column that does not
            exist.
        DataError: If a pattern matches no file, or the first file cannot be used.
    """

    pattern: Patterns
    _: dataclasses.KW_ONLY
    spans: Spans | None = None
    watch_seconds: float | None = None
    stop_after_seconds: float | None = None
    batch_seconds: float = 60.0

    is_packed: ClassVar[bool] = False
    """Whether files of this format are compressed within."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one = isinstance(self.pattern, (str, os.PathLike))
        patterns = [self.pattern] if one else list(self.pattern)  # type: ignore[arg-type]
        self.patterns: tuple[str, ...] = tuple(os.fspath(p) for p in patterns)  # type: ignore[arg-type]
        if not self.patterns or not all(self.patterns):
            raise RecipeError(f"{type(self).__name__}: give at least one path or glob")
        with_spans = [has_span(pattern) for pattern in self.patterns]
        if self.spans is not None and not all(with_spans):
            raise RecipeError(
                f"{self.where} spans={self.spans}: the pattern says no spans; write "
                "{SPAN}, or {YYYY}, {MM} and {DD}, into it"
            )
        if self.stop_after_seconds is not None and self.watch_seconds is None:
            raise RecipeError(
                f"{self.where} stop_after_seconds={self.stop_after_seconds}: is for streams; "
                "give watch_seconds=, too"
            )
        for argument in ("watch_seconds", "stop_after_seconds", "batch_seconds"):
            value = getattr(self, argument)
            if value is not None and value <= 0:
                raise RecipeError(f"{self.where} {argument}={value}: expected more than 0")

    @property
    def input_name(self) -> str:
        """The input's name in the ledger, e.g. `flights` for `data/flights.csv.gz`."""
        stem = pathlib.PurePosixPath(without_spans(self.patterns[0])).name.split(".")[0]
        return self.name or stem.strip("-_ ") or "files"

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
        return self.file_format().header(first_file(self.patterns, self.spans))

    def check_columns(self, schema: Schema) -> None:
        """Check that the first file has the columns of `schema`; the others are, as read."""
        _check_header(self.file_format(), first_file(self.patterns, self.spans), schema)

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[Piece]:
        """Return the pieces of all files; a file that several patterns match is read once."""
        if self.watch_seconds is not None:
            raise RecipeError(
                f"{self.where} watch_seconds={self.watch_seconds}: has no end, and this reads a "
                "batch; leave it out"
            )
        return (
            pbegin
            | "Patterns" >> beam.Create(list(self.patterns))
            | "MatchFiles" >> beam.FlatMap(_match, spans=self.spans)
            | "DropRepeatedFiles" >> beam.Distinct()
            | "PlanPieces" >> beam.ParDo(_PlanPieces(self.file_format(), schema))
            | "Spread" >> beam.Reshuffle()
        )

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return the files with their sizes and digests."""
        files = {file for pattern in self.patterns for file in _match(pattern, self.spans)}
        return [
            {"path": path, "size": size, "digest": _digest(path)} for path, size in sorted(files)
        ]

    def estimate_size(self) -> int:
        """Return about how many bytes the rows of the files take in memory."""
        files = {file for pattern in self.patterns for file in _match(pattern, self.spans)}
        return sum(
            size * (_PACKED if self.is_packed or is_compressed(path) else _TEXT)
            for path, size in files
        )

    def expand(self, pbegin: Any) -> Rows:
        """Read the files that there are; with `watch_seconds`, those that arrive."""
        if self.watch_seconds is None:
            return super().expand(pbegin)
        schema, times = self.raw_schema(), (self.watch_seconds, self.stop_after_seconds)
        pieces = (
            pbegin
            | "WatchFiles" >> WatchFiles(self.patterns, self.spans, *times)
            | "SizeFiles" >> beam.Map(_sized)
            | "PlanPieces" >> beam.ParDo(_PlanPieces(self.file_format(), schema))
            | "Spread" >> beam.Reshuffle()
        )
        read = self.read_pieces(pieces, schema)
        stamped = read.rows | StampRows(self.event_time, self.batch_seconds)
        return read._replace(rows=stamped)


def _sized(path: str) -> tuple[str, int]:
    return _match(path)[0]


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


def first_file(patterns: Sequence[str], spans: Spans | None = None) -> str:
    """Return the path of the first file, by name.

    Raises:
        DataError: If one of the patterns matches nothing.
    """
    return min(path for pattern in patterns for path, _ in _match(pattern, spans))


def _match(pattern: str, spans: Spans | None = None) -> list[tuple[str, int]]:
    found = find_files(pattern, spans)
    if not found:
        of = "" if spans is None else f" of {spans}"
        raise DataError(f'"{pattern}": no such file{of}; check the path or glob')
    # Plain tuples: Beam groups by them, and has a deterministic coder for these.
    return [(file.path, file.size) for file in found]


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
