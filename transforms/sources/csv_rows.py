"""Blocks of CSV text as typed rows: all columns at once, cell by cell where that fails."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from skewless.errors import DataError
from skewless.schema import Feature, Schema, arrow_schema, arrow_type
from skewless.transforms.cells import Cells, cast_column, is_flag, parse_text
from skewless.transforms.outcomes import assemble
from skewless.transforms.parse import STEP, is_too_deep
from skewless.transforms.rows import Outcome, Rejected, with_origin
from skewless.transforms.sources.lines import BOM, Bounds, Quoting, row_bounds

__all__ = ["CsvDialect"]


@dataclasses.dataclass(frozen=True)
class CsvDialect:
    """How rows of CSV are written, and the parser of such rows.

    Args:
        delimiter: One character.
        quote_char: One character, or none.
        null_values: Texts that stand for a missing number or timestamp.
        strings_can_be_null: Whether they stand for a missing string, too.
    """

    delimiter: str
    quote_char: str
    null_values: tuple[str, ...]
    strings_can_be_null: bool

    @property
    def quoting(self) -> Quoting | None:
        """What decides whether a newline is quoted; None without quoting."""
        return Quoting(self.delimiter, self.quote_char) if self.quote_char else None

    def parse(
        self, block: bytes, schema: Schema, header: Sequence[str], file: str, offset: int
    ) -> Iterator[Outcome]:
        """Parse a block of whole rows.

        A quote that is never closed costs its line, not all that follows.

        Args:
            block: Text that begins where a row begins.
            schema: The raw columns.
            header: The names of the columns of the text.
            file: Where the block comes from.
            offset: Where it begins in the file, in bytes.

        Yields:
            The rows and what was rejected, in order; nothing for an empty block.
        """
        while block:
            bounds = row_bounds(block, self.quoting)
            if bounds.starts.size:
                whole = block[: bounds.unclosed]
                yield self._parse_rows(whole, bounds, schema, header, file, offset)
            if bounds.unclosed is None:
                return
            line = block[bounds.unclosed :].splitlines(keepends=True)[0]
            after = bounds.unclosed + len(line)
            at, reason = offset + bounds.unclosed, "expected a closing quote"
            unclosed = Rejected(STEP, file, at, "", "", reason, line.rstrip(b"\r\n"))
            yield Outcome(_no_rows(schema, file), [unclosed], {"read": 1})
            block, offset = block[after:], offset + after

    def guess(self, block: bytes, header: Sequence[str]) -> pa.RecordBatch:
        """Return a block in the types that Arrow sees in it, and as text where it sees none."""
        encoding = "utf-8" if _is_utf8(block) else "latin-1"
        batch = self._read_csv(block, header, [], encoding=encoding, strings_can_be_null=True)
        hexadecimal = self._may_have_hexadecimal(block)
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
            encoding=encoding,
            column_types=dict.fromkeys(unsure, pa.string()),
            include_columns=unsure,
            strings_can_be_null=True,
        )
        for name in unsure:
            batch = batch.set_column(batch.schema.get_field_index(name), name, texts[name])
        return batch

    def replay(
        self,
        rejected: Sequence[Rejected],
        schema: Schema,
        header_of: Callable[[str], Sequence[str]],
    ) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`.

        Args:
            rejected: The rows; a payload is a JSON object of cells, or a raw line.
            schema: The raw columns.
            header_of: Returns the names of a file's columns; asked for raw lines only.

        Returns:
            The rows, and those still bad.
        """
        rows: list[dict[str, bytes | None]] = []
        at, again = [], []
        for i, row in enumerate(rejected):
            try:
                cells = _cells_of_json(row.payload)
                if cells is None:
                    cells = self._cells_of_line(row.payload, header_of(row.file))
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

    def split(self, line: bytes) -> list[str]:
        """Return the cells of one row; bytes that are not UTF-8 become surrogates.

        Raises:
            ValueError: If it is no row.
        """
        if row_bounds(line, self.quoting).unclosed is not None:
            raise ValueError("expected a closing quote")
        reader = csv.reader(
            io.StringIO(line.decode("utf-8", "surrogateescape"), newline=""),
            delimiter=self.delimiter,
            quotechar=self.quote_char or None,
            quoting=csv.QUOTE_MINIMAL if self.quote_char else csv.QUOTE_NONE,
        )
        try:
            return next(reader, [])
        except csv.Error as error:
            raise ValueError(f"expected a row of CSV ({error})") from None

    def _cells_of_line(self, line: bytes, header: Sequence[str]) -> dict[str, bytes | None]:
        cells = [cell.encode("utf-8", "surrogateescape") for cell in self.split(line)]
        if len(cells) != len(header):
            raise ValueError(f"expected {len(header)} columns, found {len(cells)}")
        return dict(zip(header, cells, strict=True))

    def _parse_rows(
        self,
        block: bytes,
        bounds: Bounds,
        schema: Schema,
        header: Sequence[str],
        file: str,
        offset: int,
    ) -> Outcome:
        """Parse a block of whole rows: typed, and only where that fails as text."""
        wrong: list[pa_csv.InvalidRow] = []
        columns = self._typed(block, header, schema, wrong)
        texts: pa.RecordBatch | None = None
        if columns is None:
            wrong.clear()
            texts = self._texts(block, bounds, header, wrong)
            columns = {f.name: self._parse_column(texts[f.name], f) for f in schema.feature}
        at = [row.number - 1 for row in wrong]
        if len(bounds.starts) != len(next(iter(columns.values())).values) + len(at):
            raise DataError(
                f"{file}: the rows near byte {offset} do not have clear ends; "
                "look for stray quotes or carriage returns there"
            )
        miscounted = [
            Rejected(
                STEP,
                file,
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
            file,
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
        if self._may_have_hexadecimal(block) or not _is_utf8(block):
            return None
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

    def _texts(
        self,
        block: bytes,
        bounds: Bounds,
        header: Sequence[str],
        wrong: list[pa_csv.InvalidRow],
    ) -> pa.RecordBatch:
        """Read all cells as bytes."""
        as_binary = dict.fromkeys(header, pa.binary())
        if _is_utf8(block):
            return self._read_csv(block, header, wrong, column_types=as_binary)
        # Arrow fails to report a row of the wrong width that is not UTF-8. So such rows are
        # found where every byte is a character, and then left out.
        self._read_csv(block, header, wrong, encoding="latin-1", column_types=as_binary)
        whole = np.delete(np.arange(len(bounds.starts)), [row.number - 1 for row in wrong])
        rows = b"".join(block[bounds.starts[i] : bounds.ends[i]] for i in whole)
        return self._read_csv(rows or b"\n", header, [], column_types=as_binary)

    def _parse_column(self, cells: pa.Array, feature: Feature) -> Cells:
        return parse_text(cells, feature, self.null_values, self.strings_can_be_null)

    def _may_have_hexadecimal(self, block: bytes) -> bool:
        """Say whether a cell may begin like 0x10, which Arrow takes for 16."""
        if b"0x" not in block and b"0X" not in block:
            return False
        data = np.frombuffer(block, np.uint8)
        at = np.flatnonzero((data == ord("x")) | (data == ord("X")))
        at = at[(at > 0) & (data[at - 1] == ord("0"))] - 1
        begins = f"{self.delimiter}{self.quote_char}- \t\r\n".encode()
        return bool((at == 0).any() or np.isin(data[at - 1], list(begins)).any())

    def _read_csv(
        self,
        block: bytes,
        header: Sequence[str],
        wrong: list[pa_csv.InvalidRow],
        *,
        encoding: str = "utf-8",
        strings_can_be_null: bool = False,
        **convert: Any,
    ) -> pa.RecordBatch:
        """Read a block as one batch, noting the rows with a wrong number of columns."""

        def skip(row: pa_csv.InvalidRow) -> str:
            wrong.append(row)
            return "skip"

        if encoding == "utf-8" and block.startswith(BOM):
            block = BOM + block  # Arrow drops the first, but this one is not the file's
        table = pa_csv.read_csv(
            pa.BufferReader(block),
            pa_csv.ReadOptions(
                use_threads=False,
                block_size=2 * len(block) + 1,  # one block, also of latin-1 made UTF-8
                column_names=list(header),
                encoding=encoding,
            ),
            pa_csv.ParseOptions(
                delimiter=self.delimiter,
                quote_char=self.quote_char or False,
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


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _any_infinite(values: pa.Array) -> bool:
    return bool(pc.any(pc.is_inf(values)).as_py())


def _no_rows(schema: Schema, path: str) -> pa.RecordBatch:
    empty = pa.RecordBatch.from_pylist([], arrow_schema(schema))
    return with_origin(empty, path, pa.array([], pa.int64()))


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
    if is_too_deep(payload):
        return None
    try:
        row = json.loads(payload.decode(), parse_float=str, parse_int=str, parse_constant=str)
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
