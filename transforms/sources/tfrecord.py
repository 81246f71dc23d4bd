"""TFRecord files of tf.train.Example as batches of typed rows."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from skewless.errors import DataError
from skewless.schema import Feature, Schema, arrow_type, is_list
from skewless.transforms.cells import Cells, cast_column
from skewless.transforms.outcomes import assemble
from skewless.transforms.parse import STEP, replay_json
from skewless.transforms.rows import Outcome, Rejected, as_text, python_rows
from skewless.transforms.sources.files import FileSource, Piece, open_file

__all__ = ["ReadTFRecord", "Record", "read_records"]

_LENGTH = struct.Struct("<QI")
_HEAD, _TAIL = _LENGTH.size, 4
_BATCH_ROWS = 65_536
_BATCH_BYTES = 32 << 20
_CHUNK_BYTES = 8 << 20
# No record that anybody writes is longer; a length beyond it is damage.
_LONGEST = 1 << 31
_EXPECTED = "expected a tf.train.Example with one kind of value in each feature"


@dataclasses.dataclass(eq=False)
class ReadTFRecord(FileSource):
    """Read TFRecord files of tf.train.Example, plain or gzipped.

    A feature of one value is a cell, one of none, or left out, is missing. Whole numbers are
    taken for numbers and times, texts for times in ISO 8601 where the schema says so. A
    record that is no Example, and a value that its type cannot hold, is a rejected row.
    The offset of a row is the byte of the (decompressed) file at which its record begins.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong.
        DataError: If a file is missing, is no TFRecord file, or is damaged.
    """

    def file_format(self) -> TFRecordFormat:
        """Return how these files are read."""
        return TFRecordFormat()


# --- Records --------------------------------------------------------------------------


class Record(NamedTuple):
    """A record: the byte at which it begins, and what it holds."""

    offset: int
    data: bytes


def read_records(file: BinaryIO, path: str) -> Iterator[Record]:
    """Yield the records of an open file.

    The format is https://www.tensorflow.org/tutorials/load_data/tfrecord.

    Args:
        file: The file, decompressed.
        path: What it is called in an error.

    Raises:
        DataError: If a checksum is wrong, or the last record is cut short.
    """
    rest, at = b"", 0
    while chunk := file.read(_CHUNK_BYTES):
        rest += chunk
        used = 0
        for begin, end in _whole_records(rest, at, path):
            yield Record(at + begin, rest[begin + _HEAD : end - _TAIL])
            used = end
        rest, at = rest[used:], at + used
    if rest:
        raise DataError(
            f"{path}: the record at byte {at} is cut short; the file is not whole, write it again"
        )


def _whole_records(data: bytes, at: int, path: str) -> Iterator[tuple[int, int]]:
    """Yield where each whole record of `data` begins and ends, checked."""
    begin = 0
    while begin + _HEAD <= len(data):
        length, checksum = _LENGTH.unpack_from(data, begin)
        if length > _LONGEST or checksum != _masked(data[begin : begin + 8]):
            raise DataError(
                f"{path}: there is no record at byte {at + begin}: the checksum of its length "
                "is wrong; the file is damaged, or is no TFRecord file"
            )
        end = begin + _HEAD + length + _TAIL
        if end > len(data):
            return
        body = data[begin + _HEAD : end - _TAIL]
        if int.from_bytes(data[end - _TAIL : end], "little") != _masked(body):
            raise DataError(
                f"{path}: the record at byte {at + begin} is damaged: its checksum is wrong; "
                "write the file again"
            )
        yield begin, end
        begin = end


def _masked(data: bytes) -> int:
    checksum = int(google_crc32c.value(data))
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


# --- Rows -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TFRecordFormat:
    """How files of tf.train.Example are parsed."""

    def header(self, path: str) -> tuple[str, ...]:
        """Return no names: each record has its own. The first record is looked at."""
        with open_file(path) as file:
            next(read_records(file, path), None)
        return ()

    def pieces(self, path: str, size: int) -> Iterator[Piece]:  # noqa: ARG002
        """Yield the file: where a record begins is known only to who has read those before."""
        yield Piece(path, 0, None)

    def _batches(self, piece: Piece) -> Iterator[tuple[list[int], list[bytes]]]:
        """Yield offsets and contents of some thousand records at once."""
        offsets: list[int] = []
        records: list[bytes] = []
        held = 0
        with open_file(piece.path) as file:
            for offset, data in read_records(file, piece.path):
                offsets.append(offset)
                records.append(data)
                held += len(data)
                if len(records) == _BATCH_ROWS or held >= _BATCH_BYTES:
                    yield offsets, records
                    offsets, records, held = [], [], 0
        if records:
            yield offsets, records

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, at most 65,536 at once."""
        for offsets, records in self._batches(piece):
            for at, batch, bad in _decoded(records, schema):
                places = np.asarray(offsets[at.start : at.stop])
                lost = [
                    Rejected(STEP, piece.path, offsets[i], "", "", _EXPECTED, records[i])
                    for i in bad
                ]
                if batch is None:
                    nothing = pa.RecordBatch.from_pylist([], pa.schema([]))
                    batch, places = nothing, places[:0]
                outcome = _typed(batch, schema, piece.path, places)
                read = outcome.counts["read"] + len(lost)
                yield Outcome(outcome.kept, [*lost, *outcome.rejected], {"read": read})

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the types of tf.train.Example, features of one value as cells."""
        for _, records in self._batches(piece):
            for _, batch, _ in _decoded(records, None):
                if batch is not None:
                    columns = [_plain(column) for column in batch.columns]
                    yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)


_Decoded = tuple[range, pa.RecordBatch | None, list[int]]


def _decoded(records: Sequence[bytes], schema: Schema | None) -> Iterator[_Decoded]:
    """Decode records; where one of them spoils a batch, the halves of it.

    Yields:
        Which records they are, their features as lists, or None and the record that is bad.
    """
    waiting = [range(len(records))]
    while waiting:
        at = waiting.pop()
        some = list(records[at.start : at.stop])
        try:
            # With the types of a schema the decoder leaves out what is not wanted.
            yield at, _decoder(_wanted(schema)).DecodeBatch(some), []
            continue
        except (RuntimeError, ValueError):
            pass
        try:
            yield at, _decoder(b"").DecodeBatch(some), []
        except (RuntimeError, ValueError):
            if len(at) == 1:
                yield at, None, [at.start]
                continue
            half = at.start + len(at) // 2
            waiting += [range(half, at.stop), range(at.start, half)]


@functools.lru_cache(maxsize=8)
def _decoder(serialized: bytes) -> ExamplesToRecordBatchDecoder:
    return ExamplesToRecordBatchDecoder(serialized or None)


def _wanted(schema: Schema | None) -> bytes:
    """Return the names and kinds of the columns, for the decoder."""
    if schema is None:
        return b""
    kinds = schema_pb2.Schema()
    for feature in schema.feature:
        kinds.feature.add(name=feature.name, type=feature.type)
    return bytes(kinds.SerializeToString(deterministic=True))


def _typed(
    batch: pa.RecordBatch, schema: Schema, path: str, offsets: npt.NDArray[np.int64]
) -> Outcome:
    """Return decoded features as rows of the schema's types."""
    names = set(batch.schema.names)
    found = {
        feature.name: batch.column(feature.name)
        if feature.name in names
        else pa.nulls(len(offsets), pa.large_list(pa.null()))
        for feature in schema.feature
    }

    def row(at: int) -> dict[str, Any]:
        one = pa.RecordBatch.from_arrays([c.slice(at, 1) for c in found.values()], list(found))
        return {name: _unlisted(value) for name, value in python_rows(one)[0].items()}

    return assemble(
        {feature.name: _cells(found[feature.name], feature, path) for feature in schema.feature},
        schema,
        path,
        offsets,
        lambda i: json.dumps(row(i), default=as_text).encode(),
        lambda name, i: as_text(row(i)[name]),
    )


def _unlisted(value: Any) -> Any:
    if isinstance(value, list) and len(value) <= 1:
        return value[0] if value else None
    return value


def _cells(column: pa.Array, feature: Feature, path: str) -> Cells:
    """Return a feature as a column; bad is more than one value where one is expected."""
    if pa.types.is_null(column.type):
        column = column.cast(pa.large_list(pa.null()))
    column = _with_text(column, feature)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if not _is_of_kind(column.type.value_type, feature):
        return Cells(pa.nulls(len(column), arrow_type(feature)), lengths > 0)
    if is_list(feature):
        return cast_column(column, feature, path)
    many = lengths > 1
    if not len(lengths) or (lengths == 1).all():
        values = column.flatten()
    else:
        firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        at = pa.array(firsts, pa.int64(), mask=lengths == 0)
        values = column.flatten().take(at)
    cells = cast_column(values, feature, path)
    return Cells(cells.values, cells.bad | many)


def _is_of_kind(given: pa.DataType, feature: Feature) -> bool:
    """Say whether a kind of value can be the feature's: records are written one by one."""
    type_ = arrow_type(Feature(type=feature.type, time_domain=feature.time_domain))
    if pa.types.is_null(given):
        return True
    if pa.types.is_timestamp(type_):
        return not pa.types.is_floating(given)
    number = pa.types.is_integer(given) or pa.types.is_floating(given)
    return bool(number != (feature.type == schema_pb2.BYTES))


def _with_text(column: pa.Array, feature: Feature) -> pa.Array:
    """Return bytes as text where they may be times or numbers; what is not UTF-8 as missing."""
    item = column.type.value_type
    binary = pa.types.is_large_binary(item) or pa.types.is_binary(item)
    if feature.type == schema_pb2.BYTES or not binary:
        return column
    values = column.values
    try:
        values = values.cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = [value and value.decode("utf-8", "replace") for value in values.to_pylist()]
        values = pa.array(texts, pa.large_string())
    return type(column).from_arrays(column.offsets, values)


def _plain(column: pa.Array) -> pa.Array:
    """Return a feature of at most one value a row as cells."""
    if pa.types.is_null(column.type):
        return column
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if lengths.max(initial=0) > 1:
        return column
    at = itertools.accumulate(lengths.tolist(), initial=0)
    places = [place if length else None for place, length in zip(at, lengths, strict=False)]
    return column.flatten().take(pa.array(places, pa.int64()))
