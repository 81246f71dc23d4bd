"""Write batches of rows as Parquet parts."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from skewless.storage import path_of
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.files import named_errors

__all__ = ["Part", "WriteParquet"]

PART_BYTES = 32 << 20


class Part(NamedTuple):
    """A written file: its path, how many rows it holds, and the origin of its first row."""

    path: str
    rows: int
    first: tuple[str, int]


@dataclasses.dataclass(eq=False)
class WriteParquet(beam.PTransform):  # type: ignore[misc]
    """Write batches of rows, origin columns included, as Parquet parts sized by bytes.

    Args:
        directory: Where the parts go, on any Beam file system, under names nobody should rely
            on.
        part_bytes: A part is closed when it holds this many bytes of Arrow memory.

    Returns:
        A PCollection of `Part`.
    """

    directory: str
    part_bytes: int = PART_BYTES

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Part]:
        """Write each bundle's batches to its own parts."""
        return batches | "Write" >> beam.ParDo(_WriteParquet(self.directory, self.part_bytes))


class _OpenPart:
    """A part while it is written."""

    def __init__(self, directory: str, batch: pa.RecordBatch) -> None:
        folder = path_of(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid.uuid4().hex}.parquet"
        self._file = self.path.open("wb")
        self.bytes = 0
        self._rows = 0
        self._first = _origin(batch)
        # zstd level 1 halves the files of Snappy at about the same speed.
        self._writer = pq.ParquetWriter(
            self._file, batch.schema, compression="zstd", compression_level=1
        )

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        self.bytes += batch.nbytes

    def close(self) -> Part:
        self._writer.close()
        self._file.close()
        return Part(str(self.path), self._rows, self._first)


class _WriteParquet(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: str, part_bytes: int) -> None:
        self._directory = directory
        self._part_bytes = part_bytes

    def start_bundle(self) -> None:
        self._part: _OpenPart | None = None

    def process(self, batch: pa.RecordBatch) -> Iterator[Part]:
        with named_errors(self._directory):
            self._part = self._part or _OpenPart(self._directory, batch)
            self._part.write(batch)
            if self._part.bytes >= self._part_bytes:
                part, self._part = self._part, None
                yield part.close()

    def finish_bundle(self) -> Iterator[Any]:
        if self._part is not None:
            with named_errors(self._directory):
                yield beam.utils.windowed_value.WindowedValue(
                    self._part.close(), beam.window.MIN_TIMESTAMP, [beam.window.GlobalWindow()]
                )


def _origin(batch: pa.RecordBatch) -> tuple[str, int]:
    if FILE not in batch.schema.names:
        return "", -1
    return batch.column(FILE)[0].as_py() or "", batch.column(OFFSET)[0].as_py() or 0
