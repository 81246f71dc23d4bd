"""TFRecord files: frame and checksum many records at once, compress, write.

The format is https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import struct
import zlib
from typing import Any, BinaryIO, Self

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from isal import isal_zlib

from skewless.errors import RecipeError
from skewless.transforms.sinks.pieces import (
    Bytes,
    buffer_of,
    by_size,
    join_pieces,
    lengths_of,
    one_for_all,
)
from skewless.transforms.sinks.tf_example import each_example_chunk

__all__ = ["TFRecordFile", "TFRecordOptions", "frame_records"]

_ISAL_LEVELS = 3
_ZLIB_LEVELS = 9
_GZIP_BITS = 31  # zlib's own way to ask for gzip's header; without a name or a time


@dataclasses.dataclass(frozen=True)
class TFRecordOptions:
    """How TFRecord files are compressed, in the words of `tf.io.TFRecordOptions`.

    Args:
        compression_type: `GZIP`, or the empty string for none.
        compression_level: Of gzip: 1 to 3 are ISA-L's, several times as fast as zlib's,
            which are 4 (fast) to 9 (small).

    Raises:
        RecipeError: If an argument is wrong.

    >>> TFRecordOptions().suffix
    '.tfrecord.gz'
    """

    compression_type: str = "GZIP"
    compression_level: int = 1

    def __post_init__(self) -> None:
        if self.compression_type not in ("GZIP", ""):
            raise RecipeError(
                f'TFRecordOptions(compression_type="{self.compression_type}"): expected "GZIP", '
                'or "" for no compression'
            )
        if self.compression_level not in range(1, _ZLIB_LEVELS + 1):
            raise RecipeError(
                f"TFRecordOptions(compression_level={self.compression_level}): expected 1 "
                f"(fast) to {_ZLIB_LEVELS} (small)"
            )

    @property
    def suffix(self) -> str:
        """How the names of such files end; Beam and people go by it."""
        return ".tfrecord.gz" if self.compression_type else ".tfrecord"


class TFRecordFile:
    """Writes batches of features to an open file, as records of tf.train.Example.

    The bytes depend on the batches and the options alone (and, in gzip, on the versions of
    the libraries), so the same features are the same file. A batch is written in a thread
    while the caller makes the next one; no more than one is waiting. Leaving a `with`
    closes the file of records, unless by an exception.

    Args:
        file: Open for writing; whoever opened it closes it.
        options: How to compress.

    Attributes:
        bytes: The size of the file, when closed; until then without the last batch.
    """

    def __init__(self, file: BinaryIO, options: TFRecordOptions) -> None:
        self.bytes = 0
        self._file = file
        self._compressor = _compressor(options)
        # Half of this work releases the GIL, and a graph that makes features all of its own:
        # side by side on two cores, they take a fifth less time.
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future[int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        self._pool.shutdown()

    def write(self, features: pa.RecordBatch) -> None:
        """Write one record for each row; see `encode_examples` for the types.

        Raises:
            RecipeError: If a column of this batch or the one before cannot be a feature.
            OSError: If the file cannot be written.
        """
        self._finish_batch()
        self._writing = self._pool.submit(self._write, features)

    def close(self) -> None:
        """Write what is left, and raise what `write` would. Until then the file is not whole."""
        self._finish_batch()
        self.bytes += self._put(self._compressor.flush())
        self._pool.shutdown()

    def _finish_batch(self) -> None:
        # Counted here, not in the thread: `bytes` is the same whichever of them is faster.
        if self._writing is not None:
            self.bytes += self._writing.result()
            self._writing = None

    def _write(self, features: pa.RecordBatch) -> int:
        return sum(
            self._put(self._compressor.compress(frame_records(records)))
            for records in each_example_chunk(features)
        )

    def _put(self, data: bytes | memoryview) -> int:
        self._file.write(data)
        return len(data)


class _Plain:
    """What compresses nothing."""

    def compress(self, data: Bytes) -> memoryview:
        return data.data

    def flush(self) -> bytes:
        return b""


def _compressor(options: TFRecordOptions) -> Any:
    if not options.compression_type:
        return _Plain()
    library = isal_zlib if options.compression_level <= _ISAL_LEVELS else zlib
    return library.compressobj(options.compression_level, zlib.DEFLATED, _GZIP_BITS)


def frame_records(records: pa.LargeBinaryArray) -> Bytes:
    """Return records as a TFRecord file has them: length, checksum, bytes, checksum.

    Args:
        records: The records, none of them null.

    Returns:
        The bytes of the file for these records.

    >>> len(frame_records(pa.array([b"one", b"two"], pa.large_binary())))
    38
    """
    heads = by_size(one_for_all(lengths_of(records)), _record_head)
    # A call for each record, and still not what takes the time: gzip takes twice as long.
    strings = records.to_numpy(zero_copy_only=False)
    checksums = np.fromiter(map(google_crc32c.value, strings), "<u4", len(strings))
    tails = _masked(checksums).view(np.uint8).reshape(len(strings), 4)
    return buffer_of(join_pieces([heads, records, tails], len(records)))


def _record_head(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + _masked(np.array([google_crc32c.value(length)], "<u4")).tobytes()


def _masked(checksums: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return checksums rotated and moved, so that one of data that holds some is sound."""
    rotated = checksums >> np.uint32(15) | checksums << np.uint32(17)
    return rotated + np.uint32(0xA282EAD8)
