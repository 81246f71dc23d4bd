"""CSV files as batches of typed rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, is_list
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.csv_rows import CsvDialect
from skewless.transforms.sources.files import FileSource, Piece, is_compressed
from skewless.transforms.sources.lines import (
    read_blocks,
    row_bounds,
    row_starts_after,
    skip_bom,
)

__all__ = ["NULL_VALUES", "ReadCsv"]

NULL_VALUES = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")


@dataclasses.dataclass(eq=False)
class ReadCsv(FileSource):
    """Read CSV files: plain or compressed, with a header or with names given.

    A row that does not parse is rejected with its file, byte offset, column and reason.
    Columns are matched by name, so that files may order them differently.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.
        column_names: The names of the columns, where the files have no header.
        delimiter: What separates the fields.
        quote_char: What fields are quoted with; empty for files without quoting.
        null_values: Texts that stand for a missing number or timestamp.
        strings_can_be_null: Whether they stand for a missing string, too.
        newlines_in_values: Whether a quoted field may hold a newline. By default a file
            longer than `range_bytes` is looked through once to find out; one that has such
            fields is read by one worker.
        block_bytes: How much text is parsed at once; a block is one batch of rows.
        range_bytes: How much of a plain file one worker reads.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong, or the files lack a column of the schema.
        DataError: If a file is missing or empty, or its header names a column twice.

    >>> ReadCsv("data/flights.csv.gz", event_time="time_hour").input_name
    'flights'
    """

    column_names: Sequence[str] | None = None
    delimiter: str = ","
    quote_char: str = '"'
    null_values: Sequence[str] = NULL_VALUES
    strings_can_be_null: bool = False
    newlines_in_values: bool | None = None
    block_bytes: int = 8 << 20
    range_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.null_values, str):
            raise RecipeError(
                f'ReadCsv(null_values="{self.null_values}"): expected a list, '
                f'as in ["{self.null_values}"]'
            )
        self.null_values = tuple(self.null_values)
        if self.column_names is not None:
            self.column_names = tuple(self.column_names)
            if repeated := _repeated(self.column_names):
                raise RecipeError(f'ReadCsv: column_names has "{repeated}" twice; rename one')
        for argument, low in (("delimiter", 1), ("quote_char", 0)):
            value = getattr(self, argument)
            if not low <= len(value.encode()) <= 1:
                raise RecipeError(f'ReadCsv({argument}="{value}"): expected one ASCII character')
        for argument in ("block_bytes", "range_bytes"):
            if getattr(self, argument) < 1:
                raise RecipeError(
                    f"ReadCsv({argument}={getattr(self, argument)}): expected at least 1"
                )

    def raw_schema(self) -> Schema:
        """Return the schema of the columns to read, none of which may be a list."""
        schema = super().raw_schema()
        for feature in schema.feature:
            if is_list(feature):
                raise RecipeError(
                    f'{self.patterns[0]}: column "{feature.name}" is a list, which CSV cannot '
                    "hold; correct the schema, or read JSON Lines or Parquet"
                )
        return schema

    def file_format(self) -> CsvFormat:
        """Return how these files are read."""
        return CsvFormat(
            dialect=CsvDialect(
                self.delimiter, self.quote_char, tuple(self.null_values), self.strings_can_be_null
            ),
            names=None if self.column_names is None else tuple(self.column_names),
            newlines_in_values=self.newlines_in_values,
            block_bytes=self.block_bytes,
            range_bytes=self.range_bytes,
        )


@dataclasses.dataclass(frozen=True)
class CsvFormat:
    """How files of a CSV dialect are cut into pieces and blocks."""

    dialect: CsvDialect
    names: tuple[str, ...] | None
    newlines_in_values: bool | None
    block_bytes: int
    range_bytes: int

    def header(self, path: str) -> tuple[str, ...]:
        """Return the names of the columns, given or from the first row of the file."""
        return self._header(path)[0]

    def _header(self, path: str) -> tuple[tuple[str, ...], int]:
        """Return the names and the byte at which the data begins."""
        start = skip_bom(path)
        if self.names is not None:
            return self.names, start
        for offset, block in read_blocks(path, start, None, 1 << 16, self.dialect.quoting):
            bounds = row_bounds(block, self.dialect.quoting)
            if bounds.starts.size:
                first, end = int(bounds.starts[0]), int(bounds.ends[0])
                names = self._parse_header(path, block[first:end])
                return names, offset + end
        raise DataError(f"{path}: file is empty; expected a header")

    def pieces(self, path: str, size: int) -> Iterator[Piece]:
        """Yield byte ranges that begin where a row begins; one if the file must not be cut."""
        names, start = self._header(path)
        if size <= self.range_bytes or is_compressed(path) or self._may_quote_newlines(path, start):
            yield Piece(path, start, None, names)
            return
        targets = range(self.range_bytes, size, self.range_bytes)
        for stop in row_starts_after(path, iter(targets)):
            if stop > start:
                yield Piece(path, start, stop, names)
                start = stop
        if start < size:
            yield Piece(path, start, None, names)

    def _parse_header(self, path: str, line: bytes) -> tuple[str, ...]:
        try:
            line.decode()
            names = self.dialect.split(line)
        except ValueError as error:
            raise DataError(f"{path}: the header cannot be read: {error}") from None
        if repeated := _repeated(names):
            raise DataError(
                f'{path}: the header names column "{repeated}" twice; rename one of the two'
            )
        return tuple(names)

    def _may_quote_newlines(self, path: str, start: int) -> bool:
        """Say whether some newline in the file is quoted, looking through it if unknown."""
        if self.newlines_in_values is not None or not self.dialect.quoting:
            return bool(self.newlines_in_values and self.dialect.quoting)
        quote = self.dialect.quote_char.encode()
        for _, block in read_blocks(path, start, None, self.block_bytes, None):
            if quote in block:
                bounds = row_bounds(block, self.dialect.quoting)
                lines = row_bounds(block, None)
                if bounds.unclosed is not None or len(bounds.starts) != len(lines.starts):
                    return True
        return False

    def _blocks(self, piece: Piece) -> Iterator[tuple[int, bytes]]:
        quoting = None if self.newlines_in_values is False else self.dialect.quoting
        return read_blocks(piece.path, piece.start, piece.stop, self.block_bytes, quoting)

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, block by block."""
        for offset, block in self._blocks(piece):
            yield from self.dialect.parse(block, schema, piece.header, piece.path, offset)

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow understands them, and what it does not as text."""
        nothing = pa.nulls(0)
        yield pa.RecordBatch.from_arrays([nothing] * len(piece.header), names=list(piece.header))
        for _, block in self._blocks(piece):
            yield self.dialect.guess(block, piece.header)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return self.dialect.replay(rejected, schema, functools.cache(self.header))


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
