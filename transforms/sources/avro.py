"""Avro files as batches of typed rows: decoded whole blocks at a time, never row by row."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.outcomes import cast_rows
from skewless.transforms.parse import STEP, parse_json_rows, replay_json
from skewless.transforms.rows import Outcome, Rejected, as_text
from skewless.transforms.sources.avro_records import record_as_json
from skewless.transforms.sources.files import FileSource, Piece, is_compressed, open_file

__all__ = ["ReadAvro"]

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_CHUNK_BYTES = 4 << 20
_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 << 20
# A row's offset is where its block begins and, in the last 20 bits, its number there.
_PLACE_BITS = 20
# What Polars reads; of the others fastavro knows some.
_FAST_CODECS = ("null", "deflate", "snappy")


@dataclasses.dataclass(eq=False)
class ReadAvro(FileSource):
    """Read Avro object container files, block by block, cast to the schema's types.

    Blocks are decoded by Polars where it is installed (`skewless[avro]`) and knows the types,
    else by fastavro, which is some ten times as slow. A row with a value that its type
    cannot hold is rejected; of a block that is damaged, every row from the damage on. The
    offset of a row is the byte at which its block begins, times 2**20, plus its number
    in the block.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.
        range_bytes: How much of a file one worker reads.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong, or the files lack a column of the schema.
        DataError: If a file is missing, or is not Avro, or its blocks do not follow each other.
    """

    range_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.range_bytes < 1:
            raise RecipeError(f"{self.where} range_bytes={self.range_bytes}: expected at least 1")

    is_packed = True

    def file_format(self) -> AvroFormat:
        """Return how these files are read."""
        return AvroFormat(self.range_bytes)


# --- Blocks ---------------------------------------------------------------------------


class _Header(NamedTuple):
    """What a file begins with: its bytes, and what they say."""

    raw: bytes
    schema: dict[str, Any]
    codec: str

    @property
    def sync(self) -> bytes:
        return self.raw[-_SYNC_BYTES:]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field["name"] for field in self.schema["fields"])


class _Block(NamedTuple):
    """A block of rows: where it begins, how many there are, and its bytes with the frame."""

    offset: int
    rows: int
    raw: bytes


def _read_header(file: BinaryIO, path: str) -> _Header:
    """Read the header of an open file; the format is https://avro.apache.org/docs/1.12.0/specification/."""
    data, want = b"", 1 << 16
    while True:
        chunk = file.read(want)
        data += chunk
        if data[:4] != _MAGIC:
            raise DataError(
                f'{path}: is no Avro file: it begins with {data[:4]!r}, not b"Obj\\x01"'
            )
        try:
            meta, end = _read_map(data, len(_MAGIC))
            break
        except IndexError:
            if not chunk:
                raise DataError(f"{path}: the header is cut short; write the file again") from None
    while len(data) < end + _SYNC_BYTES and (chunk := file.read(want)):
        data += chunk
    try:
        schema = json.loads(meta["avro.schema"])
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: its header holds no Avro schema ({error})") from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise DataError(f"{path}: expected records, but its values are of type {schema!r:.100}")
    codec = meta.get("avro.codec", b"null").decode()
    return _Header(data[: end + _SYNC_BYTES], schema, codec)


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    """Return a number written as zigzag varint, and where it ends."""
    shift = number = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at


def _read_map(data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """Return a map of bytes, and where it ends."""
    found: dict[str, bytes] = {}
    while True:
        count, at = _read_long(data, at)
        if count == 0:
            return found, at
        if count < 0:
            _, at = _read_long(data, at)
        for _ in range(abs(count)):
            key, at = _read_bytes(data, at)
            found[key.decode()], at = _read_bytes(data, at)


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _read_long(data, at)
    if at + size > len(data):
        raise IndexError
    return data[at : at + size], at + size


def _blocks(
    file: BinaryIO, header: _Header, path: str, start: int, stop: int | None
) -> Iterator[_Block]:
    """Yield the blocks of an open file from one that begins at `start`.

    Raises:
        DataError: If a block does not end where it should.
    """
    file.seek(start)
    data, at = b"", start
    while stop is None or at < stop:
        frame = _frame(data)
        while frame is None or frame[1] > len(data):
            missing = _CHUNK_BYTES if frame is None else max(frame[1] - len(data), _CHUNK_BYTES)
            chunk = file.read(missing)
            if not chunk:
                if not data:
                    return
                raise DataError(
                    f"{path}: the block at byte {at} is cut short; the file is not whole, "
                    "write it again"
                )
            data += chunk
            frame = _frame(data)
        rows, end = frame
        if rows < 0 or data[end - _SYNC_BYTES : end] != header.sync:
            raise DataError(
                f"{path}: the block at byte {at} does not end with the file's marker; the file "
                "is damaged, write it again"
            )
        yield _Block(at, rows, data[:end])
        data, at = data[end:], at + end


def _frame(data: bytes) -> tuple[int, int] | None:
    """Return how many rows a block has, and where it ends; None if that is not there yet."""
    try:
        rows, at = _read_long(data, 0)
        size, at = _read_long(data, at)
    except IndexError:
        return None
    return (rows, at + size + _SYNC_BYTES) if size >= 0 else (-1, at + _SYNC_BYTES)


# --- Rows -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AvroFormat:
    """How Avro files are cut and cast."""

    range_bytes: int

    def header(self, path: str) -> tuple[str, ...]:
        """Return the names of the fields."""
        with open_file(path) as file:
            return _read_header(file, path).names

    def pieces(self, path: str, size: int) -> Iterator[Piece]:
        """Yield byte ranges that begin where a block begins."""
        with open_file(path) as file:
            header = _read_header(file, path)
            start = len(header.raw)
            ends = 0 if is_compressed(path) else size
            for target in range(start + self.range_bytes, ends, self.range_bytes):
                stop = _after_marker(file, header.sync, max(target, start))
                if stop is not None and start < stop < size:
                    yield Piece(path, start, stop, header.names)
                    start = stop
        yield Piece(path, start, None, header.names)

    def _parts(self, piece: Piece) -> Iterator[tuple[_Header, list[_Block]]]:
        """Yield some blocks at once, of about 65,536 rows."""
        with open_file(piece.path) as file:
            header = _read_header(file, piece.path)
            waiting: list[_Block] = []
            for block in _blocks(file, header, piece.path, piece.start, piece.stop):
                waiting.append(block)
                rows, held = sum(b.rows for b in waiting), sum(len(b.raw) for b in waiting)
                if rows >= _BATCH_ROWS or held >= _BATCH_BYTES:
                    yield header, waiting
                    waiting = []
            if waiting:
                yield header, waiting

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, about 65,536 at once."""
        names = column_names(schema)
        for header, blocks in self._parts(piece):
            table = _decode(header, blocks, names)
            if table is None:
                for block in blocks:
                    yield _row_by_row(header, block, schema, piece.path)
                continue
            offsets = np.concatenate([_offsets(block) for block in blocks])
            yield cast_rows(table, schema, piece.path, offsets)

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the file's own types."""
        for header, blocks in self._parts(piece):
            table = _decode(header, blocks, list(header.names))
            if table is None:
                for block in blocks:
                    yield _as_columns(_records(header, block)[0], header.names)
                continue
            columns = [
                column.cast(pa.large_binary()) if pa.types.is_large_string(column.type) else column
                for column in table.columns
            ]
            yield pa.RecordBatch.from_arrays(columns, names=table.schema.names)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)


def _after_marker(file: BinaryIO, sync: bytes, target: int) -> int | None:
    """Return where the first block begins whose marker before it is at `target` or later."""
    file.seek(target)
    data, at = b"", target
    while chunk := file.read(_CHUNK_BYTES):
        data += chunk
        found = data.find(sync)
        if found >= 0:
            return at + found + _SYNC_BYTES
        at, data = at + max(len(data) - _SYNC_BYTES, 0), data[-_SYNC_BYTES:]
    return None


def _offsets(block: _Block) -> Any:
    return (block.offset << _PLACE_BITS) + np.arange(block.rows, dtype=np.int64)


def _decode(header: _Header, blocks: Sequence[_Block], names: list[str]) -> pa.RecordBatch | None:
    """Decode blocks at once; None where that needs a slower look."""
    if header.codec not in _FAST_CODECS or importlib.util.find_spec("polars") is None:
        return None
    import polars

    data = io.BytesIO(header.raw + b"".join(block.raw for block in blocks))
    try:
        frame = polars.read_avro(data, columns=names)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException):
        return None  # damage, or a type that it does not know
    if frame.height != sum(block.rows for block in blocks):
        return None
    table = frame.to_arrow(compat_level=polars.CompatLevel.oldest()).combine_chunks()
    return table.to_batches()[0].select(names) if frame.height else None


def _records(header: _Header, block: _Block) -> tuple[list[dict[str, Any]], str]:
    """Decode a block row by row; also return what is wrong where there are rows that are bad."""
    import fastavro  # comes with Beam

    found: list[dict[str, Any]] = []
    try:
        for record in fastavro.reader(io.BytesIO(header.raw + block.raw)):
            found.append(cast("dict[str, Any]", record))
    except Exception as error:  # fastavro raises anything, by how bytes are wrong
        return found, f"{type(error).__name__}: {error}"
    return found, "" if len(found) == block.rows else f"it has {len(found)} rows"


def _row_by_row(header: _Header, block: _Block, schema: Schema, path: str) -> Outcome:
    records, wrong = _records(header, block)
    names, offsets = column_names(schema), _offsets(block)
    records = records[: block.rows]
    lines, places, lost = [], [], []
    for record, place in zip(records, offsets.tolist(), strict=False):
        try:
            lines.append(record_as_json(record, names))
            places.append(place)
        except ValueError as error:
            reason = f"expected UTF-8 text ({error})"
            lost.append(Rejected(STEP, path, place, "", "", reason, b""))
    for place in offsets[len(records) :].tolist():
        reason = (
            f"the block at byte {block.offset} cannot be decoded from its row "
            f"{len(records)} on: {wrong}; write the payload as a JSON object"
        )
        lost.append(Rejected(STEP, path, place, "", "", reason, b""))
    outcome = parse_json_rows(lines, schema, path, places)
    return Outcome(outcome.kept, [*lost, *outcome.rejected], {"read": block.rows})


def _as_columns(records: Sequence[dict[str, Any]], names: Sequence[str]) -> pa.RecordBatch:
    columns = [_as_column([record.get(name) for record in records]) for name in names]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def _as_column(values: list[Any]) -> pa.Array:
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError):
        return pa.array([None if v is None else as_text(v) for v in values], pa.string())
    return column.cast(pa.binary()) if pa.types.is_string(column.type) else column
