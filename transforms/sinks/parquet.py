"""Write batches of rows as Parquet parts."""

from __future__ import annotations

import dataclasses
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from skewless.errors import RunError
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.files import write_error

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
        directory: Where the parts go, under names nobody should rely on.
        part_bytes: A part is closed when it holds this many bytes of Arrow memory.

    Returns:
        A PCollection of `Part`.
    """

    directory: str
    part_bytes: int = PART_BYTES

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Part]:
        """Write each bundle's batches to its own parts."""
        return batches | "Write" >> beam.ParDo(_WriteParquet(self.directory, self.part_bytes))


class _WriteParquet(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: str, part_bytes: int) -> None:
        self._directory = pathlib.Path(directory)
        self._part_bytes = part_bytes
        self._writer: pq.ParquetWriter | None = None

    def process(self, batch: pa.RecordBatch) -> Iterator[Part]:
        try:
            if self._writer is None:
                self._open(batch)
            self._writer.write_batch(batch)
            self._rows += batch.num_rows
            self._bytes += batch.nbytes
            if self._bytes >= self._part_bytes:
                yield self._close()
        except OSError as error:
            raise write_error(self._path, error) from error

    def finish_bundle(self) -> Iterator[Any]:
        if self._writer is not None:
            try:
                part = self._close()
            except OSError as error:
                raise write_error(self._path, error) from error
            yield beam.utils.windowed_value.WindowedValue(
                part, beam.window.MIN_TIMESTAMP, [beam.window.GlobalWindow()]
            )

    def _open(self, batch: pa.RecordBatch) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._path = self._directory / f"{uuid.uuid4().hex}.parquet"
        self._rows = self._bytes = 0
        self._first = _origin(batch)
        # zstd level 1 halves the files of Snappy at about the same speed.
        self._writer = pq.ParquetWriter(
            self._path, batch.schema, compression="zstd", compression_level=1
        )

    def _close(self) -> Part:
        writer, self._writer = self._writer, None
        if writer is None:
            raise RunError(f"cannot write {self._path}: the part is closed already")
        writer.close()
        return Part(str(self._path), self._rows, self._first)


def _origin(batch: pa.RecordBatch) -> tuple[str, int]:
    if FILE not in batch.schema.names:
        return "", -1
    return batch.column(FILE)[0].as_py() or "", batch.column(OFFSET)[0].as_py() or 0
