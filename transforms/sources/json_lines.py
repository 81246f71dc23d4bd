"""JSON Lines files as batches of typed rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.parse import (
    json_object,
    json_text,
    parse_json_rows,
    replay_json,
    typed_json_is_safe,
)
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.files import FileSource, Piece, is_compressed
from skewless.transforms.sources.lines import read_blocks, row_bounds, row_starts_after, skip_bom

__all__ = ["ReadJsonLines", "untyped_json"]


@dataclasses.dataclass(eq=False)
class ReadJsonLines(FileSource):
    """Read JSON Lines files, plain or compressed: one object a line.

    Numbers are written as numbers, timestamps as ISO 8601 text or integers in the schema's
    unit. A field left out or null is missing; fields not in the schema are ignored.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.
        block_bytes: How much text is parsed at once; a block is one batch of rows.
        range_bytes: How much of a plain file one worker reads.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong.
        DataError: If a file is missing or empty.
    """

    block_bytes: int = 8 << 20
    range_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument in ("block_bytes", "range_bytes"):
            if getattr(self, argument) < 1:
                raise RecipeError(
                    f"ReadJsonLines({argument}={getattr(self, argument)}): expected at least 1"
                )

    def file_format(self) -> JsonLinesFormat:
        """Return how these files are read."""
        return JsonLinesFormat(self.block_bytes, self.range_bytes)


@dataclasses.dataclass(frozen=True)
class JsonLinesFormat:
    """How files of JSON objects are cut and parsed."""

    block_bytes: int
    range_bytes: int

    def header(self, path: str) -> tuple[str, ...]:
        """Return no names: each line has its own."""
        skip_bom(path)
        return ()

    def pieces(self, path: str, size: int) -> Iterator[Piece]:
        """Yield byte ranges that begin where a line begins."""
        start = skip_bom(path)
        targets = range(self.range_bytes, 0 if is_compressed(path) else size, self.range_bytes)
        for stop in row_starts_after(path, iter(targets)):
            if stop > start:
                yield Piece(path, start, stop)
                start = stop
        if start < size or not targets:
            yield Piece(path, start, None)

    def blocks(self, piece: Piece) -> Iterator[tuple[list[bytes], list[int]]]:
        """Yield the lines of each block and their offsets in the file."""
        for offset, block in read_blocks(
            piece.path, piece.start, piece.stop, self.block_bytes, None
        ):
            bounds = row_bounds(block, None)
            edges = zip(bounds.starts.tolist(), bounds.ends.tolist(), strict=True)
            yield [block[a:b] for a, b in edges], (bounds.starts + offset).tolist()

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, block by block."""
        for lines, offsets in self.blocks(piece):
            yield parse_json_rows(lines, schema, piece.path, offsets)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the types of JSON; a column of several types as JSON text."""
        for lines, _ in self.blocks(piece):
            stripped = [line for line in map(bytes.strip, lines) if line]
            if stripped:
                yield untyped_json(stripped)


def untyped_json(lines: list[bytes]) -> pa.RecordBatch:
    """Return objects in the types of JSON, strings in quotes; what is no object is left out."""
    text = b"\n".join(lines)
    if typed_json_is_safe(lines):
        try:
            table = pa_json.read_json(
                pa.BufferReader(text),
                pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            )
            table.validate(full=True)  # Arrow misreads lists of nothing but null
            if table.num_rows == len(lines):
                columns = [_as_written(column.combine_chunks()) for column in table.columns]
                return pa.RecordBatch.from_arrays(columns, names=table.column_names)
        except pa.ArrowInvalid:
            pass  # a bad line, or a field of several types
    rows = []
    for line in lines:
        try:
            rows.append(json_object(line))
        except ValueError:
            continue  # rejected when it is read; it says nothing about types
    names = [name for name in dict.fromkeys(itertools.chain(*rows)) if json_text(name) == name]
    columns = [_column([row.get(name) for row in rows]) for name in names]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _column(values: list[Any]) -> pa.Array:
    try:
        return _as_written(pa.array(values))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())


def _as_written(column: pa.Array) -> pa.Array:
    """Return strings in the quotes they have in JSON, so that "12" is no number."""
    if pa.types.is_string(column.type):
        return pc.binary_join_element_wise('"', column, '"', "")
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        return column.cast(pa.list_(pa.binary()))
    return column
