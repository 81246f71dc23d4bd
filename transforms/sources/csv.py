"""CSV files as batches of typed rows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from skewless.errors import DataError, RecipeError
from skewless.schema import Feature, Schema, arrow_schema, arrow_type, is_list
from skewless.transforms.cells import Cells, cast_column, is_flag, parse_text
from skewless.transforms.parse import STEP, assemble
from skewless.transforms.rows import Outcome, Rejected, with_origin
from skewless.transforms.sources.files import FileSource, Piece, is_compressed
from skewless.transforms.sources.lines import (
    Bounds,
    Quoting,
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
            names=None if self.column_names is None else tuple(self.column_names),
            quoting=Quoting(self.delimiter, self.quote_char),
            null_values=tuple(self.null_values),
            strings_can_be_null=self.strings_can_be_null,
            newlines_in_values=self.newlines_in_values if self.quote_char else False,
            block_bytes=self.block_bytes,
            range_bytes=self.range_bytes,
        )


@dataclasses.dataclass(frozen=True)
class CsvFormat:
    """The CSV dialect, and how files of it are cut and parsed."""

    names: tuple[str, ...] | None
    quoting: Quoting
    null_values: tuple[str, ...]
    strings_can_be_null: bool
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
        for offset, block in read_blocks(path, start, None, 1 << 16, self.quoting):
            bounds = row_bounds(block, self.quoting)
            if bounds.starts.size:
                first, end = int(bounds.starts[0]), int(bounds.ends[0])
                names = _parse_header(path, block[first:end], self.quoting)
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

    def _may_quote_newlines(self, path: str, start: int) -> bool:
        """Say whether some newline in the file is quoted, looking through it if unknown."""
        if self.newlines_in_values is not None:
            return self.newlines_in_values
        quote = self.quoting.quote_char.encode()
        for _, block in read_blocks(path, start, None, self.block_bytes, None):
            if quote in block:
                bounds = row_bounds(block, self.quoting)
                lines = row_bounds(block, None)
                if bounds.unclosed is not None or len(bounds.starts) != len(lines.starts):
                    return True
        return False

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, block by block."""
        quoting = None if self.newlines_in_values is False else self.quoting
        for offset, block in read_blocks(
            piece.path, piece.start, piece.stop, self.block_bytes, quoting
        ):
            yield from self._parse(block, offset, piece, schema)

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow understands them, and what it does not as text."""
        quoting = None if self.newlines_in_values is False else self.quoting
        for _, block in read_blocks(piece.path, piece.start, piece.stop, self.block_bytes, quoting):
            yield self._guess(block, piece.header)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        headers: dict[str, tuple[str, ...]] = {}
        rows: list[dict[str, bytes | None]] = []
        at, again = [], []
        for i, row in enumerate(rejected):
            try:
                cells = _cells_of_json(row.payload)
                if cells is None:
                    if row.file not in headers:
                        headers[row.file] = self._header(row.file)[0]
                    cells = _cells_of_line(row.payload, headers[row.file], self.quoting)
            except ValueError as error:
                again.append(Rejected(STEP, "", i, "", "", str(error), row.payload))
                continue
            rows.append(cells)
            at.append(i)
        columns = {
            f.name: self._parse_column(pa.array([row.get(f.name) for row in rows], pa.binary()), f)
            for f in schema.feature
        }
        outcome = assemble(
            columns,
            schema,
            "",
            np.asarray(at, np.int64),
            lambda i: rejected[at[i]].payload,
            lambda name, i: _readable(rows[i].get(name)),
        )
        counts = {"read": len(rejected)}
        return Outcome(outcome.kept, again + outcome.rejected, counts)

    def _parse_column(self, cells: pa.Array, feature: Feature) -> Cells:
        return parse_text(cells, feature, self.null_values, self.strings_can_be_null)

    def _parse(self, block: bytes, offset: int, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Parse a block; a quote that is never closed costs its line, not all that follows."""
        while block:
            bounds = row_bounds(block, self.quoting)
            if bounds.starts.size:
                whole = block[: bounds.unclosed]
                yield self._parse_rows(whole, bounds, offset, piece, schema)
            if bounds.unclosed is None:
                return
            line = block[bounds.unclosed :].splitlines(keepends=True)[0]
            after = bounds.unclosed + len(line)
            at, reason = offset + bounds.unclosed, "expected a closing quote"
            unclosed = Rejected(STEP, piece.path, at, "", "", reason, line.rstrip(b"\r\n"))
            yield Outcome(_no_rows(schema, piece.path), [unclosed], {"read": 1})
            block, offset = block[after:], offset + after

    def _parse_rows(
        self, block: bytes, bounds: Bounds, offset: int, piece: Piece, schema: Schema
    ) -> Outcome:
        """Parse a block of whole rows: typed, and only where that fails as text."""
        wrong: list[pa_csv.InvalidRow] = []
        columns = self._typed(block, piece.header, schema, wrong)
        texts: pa.RecordBatch | None = None
        if columns is None:
            wrong.clear()
            as_binary = dict.fromkeys(piece.header, pa.binary())
            texts = self._read_csv(block, piece.header, wrong, column_types=as_binary)
            columns = {f.name: self._parse_column(texts[f.name], f) for f in schema.feature}
        at = [row.number - 1 for row in wrong]
        if len(bounds.starts) != len(next(iter(columns.values())).values) + len(at):
            raise DataError(
                f"{piece.path}: the rows near byte {offset} do not have clear ends; "
                "look for stray quotes or carriage returns there"
            )
        miscounted = [
            Rejected(
                STEP,
                piece.path,
                offset + int(bounds.starts[i]),
                "",
                "",
                f"expected {row.expected_columns} columns, found {row.actual_columns}",
                block[bounds.starts[i] : bounds.ends[i]].rstrip(b"\r\n"),
            )
            for i, row in zip(at, wrong, strict=True)
        ]
        outcome = assemble(
            columns,
            schema,
            piece.path,
            np.delete(bounds.starts, at) + offset,
            lambda i: _payload(texts, i),
            lambda name, i: _readable(texts[name][i].as_py()) if texts else "",
        )
        return Outcome(outcome.kept, miscounted + outcome.rejected, {"read": len(bounds.starts)})

    def _typed(
        self,
        block: bytes,
        header: Sequence[str],
        schema: Schema,
        wrong: list[pa_csv.InvalidRow],
    ) -> dict[str, Cells] | None:
        """Parse all columns at once; None where a cell needs to be looked at by itself."""
        if b"0x" in block or b"0X" in block:
            return None  # Arrow takes 0x10 for 16
        types = {f.name: _read_type(f) for f in schema.feature}
        try:
            batch = self._read_csv(
                block, header, wrong, column_types=types, include_columns=list(types)
            )
        except pa.ArrowInvalid:
            return None
        columns = {}
        for feature in schema.feature:
            column = batch[feature.name]
            if pa.types.is_string(column.type):
                cells = self._parse_column(column, feature)
            else:
                cells = cast_column(column, feature)
                if pa.types.is_floating(column.type) and _any_infinite(cells.values):
                    return None  # 1e400 and inf look the same now
            if cells.bad.any():
                return None
            columns[feature.name] = cells
        return columns

    def _guess(self, block: bytes, header: Sequence[str]) -> pa.RecordBatch:
        batch = self._read_csv(block, header, [], strings_can_be_null=True)
        hexadecimal = b"0x" in block or b"0X" in block
        unsure = [
            field.name
            for field in batch.schema
            if not (
                pa.types.is_null(field.type)
                or pa.types.is_boolean(field.type)
                or (pa.types.is_integer(field.type) and not hexadecimal)
                or pa.types.is_timestamp(field.type)
                or pa.types.is_date(field.type)
            )
        ]
        if not unsure:
            return batch
        texts = self._read_csv(
            block,
            header,
            [],
            column_types=dict.fromkeys(unsure, pa.string()),
            include_columns=unsure,
            check_utf8=False,
        )
        for name in unsure:
            batch = batch.set_column(batch.schema.get_field_index(name), name, texts[name])
        return batch

    def _read_csv(
        self,
        block: bytes,
        header: Sequence[str],
        wrong: list[pa_csv.InvalidRow],
        *,
        strings_can_be_null: bool = False,
        **convert: Any,
    ) -> pa.RecordBatch:
        """Read a block as one batch, noting the rows with a wrong number of columns."""

        def skip(row: pa_csv.InvalidRow) -> str:
            wrong.append(row)
            return "skip"

        table = pa_csv.read_csv(
            pa.BufferReader(block),
            pa_csv.ReadOptions(
                use_threads=False, block_size=len(block) + 1, column_names=list(header)
            ),
            pa_csv.ParseOptions(
                delimiter=self.quoting.delimiter,
                quote_char=self.quoting.quote_char or False,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            pa_csv.ConvertOptions(
                null_values=self.null_values, strings_can_be_null=strings_can_be_null, **convert
            ),
        )
        return pa.RecordBatch.from_arrays(
            [_whole(column) for column in table.columns], names=table.column_names
        )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _read_type(feature: Feature) -> pa.DataType:
    """Return the type to parse a column as; timestamps are left to `parse_timestamps`."""
    type_ = arrow_type(feature)
    if pa.types.is_timestamp(type_):
        return pa.string()
    if is_flag(feature):
        return pa.bool_()
    return pa.float64() if pa.types.is_floating(type_) else type_


def _any_infinite(values: pa.Array) -> bool:
    return bool(pc.any(pc.is_inf(values)).as_py())


def _no_rows(schema: Schema, path: str) -> pa.RecordBatch:
    empty = pa.RecordBatch.from_pylist([], arrow_schema(schema))
    return with_origin(empty, path, pa.array([], pa.int64()))


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _split_line(line: bytes, quoting: Quoting) -> list[str]:
    """Split one row; bytes that are not UTF-8 become surrogates."""
    text = line.decode("utf-8", "surrogateescape")
    quoted = csv.QUOTE_MINIMAL if quoting.quote_char else csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=quoting.delimiter,
        quotechar=quoting.quote_char or None,
        quoting=quoted,
    )
    try:
        return next(reader, [])
    except csv.Error as error:
        raise ValueError(f"expected a row of CSV ({error})") from None


def _parse_header(path: str, line: bytes, quoting: Quoting) -> tuple[str, ...]:
    try:
        names = _split_line(line, quoting)
        line.decode()
    except ValueError as error:
        raise DataError(f"{path}: the header cannot be read: {error}") from None
    if repeated := _repeated(names):
        raise DataError(
            f'{path}: the header names column "{repeated}" twice; rename one of the two'
        )
    return tuple(names)


def _payload(texts: pa.RecordBatch | None, row: int) -> bytes:
    """Return a row as a JSON object of its cells, of all columns of the file."""
    cells = texts.slice(row, 1).to_pylist()[0] if texts else {}
    # Surrogates stand for bytes that are not UTF-8; JSON escapes them, and back.
    return json.dumps(
        {k: None if v is None else v.decode("utf-8", "surrogateescape") for k, v in cells.items()}
    ).encode()


def _readable(cell: bytes | None) -> str:
    return (cell or b"").decode("utf-8", "backslashreplace")


def _cells_of_json(payload: bytes) -> dict[str, bytes | None] | None:
    """Return the cells of a JSON object as text; None if the payload is none."""
    try:
        row = json.loads(payload, parse_float=str, parse_int=str, parse_constant=str)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    return {
        name: None
        if value is None
        else (value if isinstance(value, str) else json.dumps(value)).encode(
            "utf-8", "surrogateescape"
        )
        for name, value in row.items()
    }


def _cells_of_line(line: bytes, header: Sequence[str], quoting: Quoting) -> dict[str, bytes | None]:
    if row_bounds(line, quoting).unclosed is not None:
        raise ValueError("expected a closing quote")
    cells = _split_line(line, quoting)
    if len(cells) != len(header):
        raise ValueError(f"expected {len(header)} columns, found {len(cells)}")
    return {
        name: cell.encode("utf-8", "surrogateescape")
        for name, cell in zip(header, cells, strict=True)
    }
