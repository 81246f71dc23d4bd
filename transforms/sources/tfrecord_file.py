"""The records of a TFRecord file, some thousand at once, each checked.

The format is https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import google_crc32c
import numpy as np
import numpy.typing as npt
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from isal import igzip

from skewless.errors import DataError
from skewless.transforms.sources.files import open_file

__all__ = ["Records", "open_records", "read_records"]

_LENGTH = struct.Struct("<Q")
# The bytes before what a record holds, its length and a checksum of that; and after it.
_HEAD, _TAIL = 12, 4
_CHUNK_BYTES = 4 << 20

Edges = npt.NDArray[np.int64]


class Records(NamedTuple):
    """Some records: the byte at which each begins, and what it holds."""

    offsets: list[int]
    contents: list[bytes]


@contextlib.contextmanager
def open_records(path: str) -> Iterator[BinaryIO]:
    """Open a file of records, decompressed.

    gzip is left to ISA-L, which is several times as fast as what Beam does it with.

    Raises:
        DataError: If it cannot be opened.
    """
    if not path.endswith(".gz"):
        with open_file(path) as file:
            yield file
        return
    try:
        raw = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except (OSError, BeamIOError) as error:
        raise DataError(f"{path}: cannot be opened ({error}); check the path") from error
    with raw, igzip.GzipFile(fileobj=raw) as file:  # type: ignore[no-untyped-call]
        yield cast("BinaryIO", file)


def read_records(
    file: BinaryIO,
    path: str,
    most_rows: int = 32_768,
    most_bytes: int = 32 << 20,
    chunk_bytes: int = _CHUNK_BYTES,
) -> Iterator[Records]:
    """Yield the records of an open file, some thousand at once.

    Args:
        file: The file, decompressed.
        path: What it is called in an error.
        most_rows: How many records at once.
        most_bytes: How many bytes of them at once, about.
        chunk_bytes: How much of the file is read at once.

    Raises:
        DataError: If a checksum is wrong, or the last record is cut short.
    """
    rest, at = b"", 0
    waiting = Records([], [])
    held = 0
    while chunk := _chunk(file, path, chunk_bytes):
        rest += chunk
        found, used = _whole_records(rest, at, path)
        rest, at = rest[used:], at + used
        for start in range(0, len(found.contents), most_rows):
            part = slice(start, start + most_rows)
            if len(waiting.contents) + len(found.contents[part]) > most_rows or held > most_bytes:
                yield waiting
                waiting, held = Records([], []), 0
            waiting.offsets.extend(found.offsets[part])
            waiting.contents.extend(found.contents[part])
            held += sum(map(len, found.contents[part]))
    if rest:
        raise DataError(
            f"{path}: the record at byte {at} is cut short; the file is not whole, write it again"
        )
    if waiting.contents:
        yield waiting


def _chunk(file: BinaryIO, path: str, size: int) -> bytes:
    try:
        return file.read(size)
    except (EOFError, zlib.error, igzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: cannot be decompressed ({error}); the file is cut short or damaged, write it "
            "again"
        ) from None


def _whole_records(data: bytes, at: int, path: str) -> tuple[Records, int]:
    """Return the whole records of `data`, and where they end.

    What can wait is done to all at once: this loop only hops from one to the next.
    """
    begins: list[int] = []
    begin, size, unpack, frame = 0, len(data), _LENGTH.unpack_from, _HEAD + _TAIL
    while begin + _HEAD <= size:
        (length,) = unpack(data, begin)
        end = begin + length + frame
        if end > size:
            # A wrong length would have us read to the end of the file for its record.
            _check_lengths(data, np.array([begin]), at, path)
            break
        begins.append(begin)
        begin = end
    # It makes nonsense of all that follows, too; but it is the first that is wrong.
    edges = np.array([*begins, begin], np.int64)
    _check_lengths(data, edges[:-1], at, path)
    starts, ends = edges[:-1] + _HEAD, edges[1:] - _TAIL
    contents = [data[i:j] for i, j in zip(starts.tolist(), ends.tolist(), strict=True)]
    checksums = np.fromiter(map(google_crc32c.value, contents), np.uint32, len(contents))
    _check(_masked(checksums) == _uint32(data, ends), edges, at, path, "is damaged: its checksum")
    return Records((edges[:-1] + at).tolist(), contents), begin


def _check_lengths(data: bytes, begins: Edges, at: int, path: str) -> None:
    """Check the lengths of records, each of 8 bytes, all records side by side."""
    raw = np.frombuffer(data, np.uint8)
    checksums = np.full(len(begins), 0xFFFFFFFF, np.uint32)
    for place in range(_LENGTH.size):
        index = (checksums ^ raw[begins + place]) & np.uint32(0xFF)
        checksums = _TABLE[index] ^ (checksums >> np.uint32(8))
    good = _masked(~checksums) == _uint32(data, begins + _LENGTH.size)
    _check(good, begins, at, path, "cannot be one: the checksum of its length")


def _check(good: Any, begins: Edges, at: int, path: str, what: str) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        raise DataError(
            f"{path}: the record at byte {at + int(begins[bad[0]])} {what} is wrong; the file is "
            "damaged, or is no TFRecord file: write it again"
        )


def _uint32(data: bytes, places: Edges) -> Any:
    """Return the numbers of four bytes at some places."""
    raw = np.frombuffer(data, np.uint8)
    four = np.stack([raw[places + i] for i in range(4)], axis=-1)
    return np.ascontiguousarray(four).view("<u4").reshape(-1)


def _masked(checksums: Any) -> Any:
    """Return checksums masked as the format wants them."""
    rotated = (checksums >> np.uint32(15)) | (checksums << np.uint32(17))
    return rotated + np.uint32(0xA282EAD8)


def _crc32c_table() -> Any:
    """Return what a byte does to a checksum: of CRC-32C, by its reversed polynomial."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_TABLE = _crc32c_table()
