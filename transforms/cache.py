"""Rows on disk between two readings, as Arrow IPC: what a runner would keep in memory."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from skewless.storage import path_of

__all__ = ["CacheRows", "read_cache"]

# What one worker reads at once; nothing but a name is held of the others.
_FILE_BYTES = 64 << 20
# Small batches are put together up to these: each costs every reader some work a column.
_BATCH_ROWS, _BATCH_BYTES = 65_536, 16 << 20


@dataclasses.dataclass(eq=False)
class CacheRows(beam.PTransform):  # type: ignore[misc]
    """Write batches to Arrow IPC files and give their paths, spread over the workers.

    The files are not deleted: whoever reads them knows when it is for the last time.

    Args:
        directory: Where, on any Beam file system.
    """

    directory: str

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Write what each bundle holds."""
        paths = rows | "WriteCache" >> beam.ParDo(_WriteCache(self.directory))
        return paths | "SpreadCache" >> beam.Reshuffle()


def read_cache(path: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file of the cache."""
    with FileSystems.open(path) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(str)
class _WriteCache(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: str) -> None:
        self._directory = directory

    def setup(self) -> None:
        path_of(self._directory).mkdir(parents=True, exist_ok=True)

    def start_bundle(self) -> None:
        self._waiting: list[pa.RecordBatch] = []
        self._rows, self._bytes, self._written = 0, 0, 0
        self._path = ""
        self._file: Any = None
        self._writer: Any = None

    def process(self, batch: pa.RecordBatch) -> Iterator[str]:
        # A filter may leave none; and of no rows some graphs cannot even tell the greatest.
        if not batch.num_rows:
            return
        size = batch.nbytes
        if self._rows + batch.num_rows > _BATCH_ROWS or self._bytes + size > _BATCH_BYTES:
            self._write()
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += size
        if self._written + self._bytes >= _FILE_BYTES:
            yield self._close()

    def finish_bundle(self) -> Iterator[Any]:
        if self._written or self._waiting:
            yield beam.transforms.window.GlobalWindows.windowed_value(self._close())

    def _write(self) -> None:
        """Write what waits as one batch."""
        if not self._waiting:
            return
        batch = pa.concat_batches(self._waiting)
        if self._writer is None:
            # A name of its own for each try: a retried bundle leaves nothing half done
            # behind that anybody reads.
            self._path = FileSystems.join(self._directory, f"rows-{uuid.uuid4().hex}.arrow")
            self._file = FileSystems.create(self._path)
            self._writer = pa.ipc.new_stream(self._file, batch.schema)
        self._writer.write_batch(batch)
        self._written += self._bytes
        self._waiting, self._rows, self._bytes = [], 0, 0

    def _close(self) -> str:
        self._write()
        self._writer.close()
        self._file.close()
        path = self._path
        self.start_bundle()
        return path
