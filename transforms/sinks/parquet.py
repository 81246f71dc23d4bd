"""Write batches of rows as Parquet parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from skewless.transforms.sinks.parts import Part, WriteParts

__all__ = ["Part", "WriteParquet"]

PART_BYTES = 32 << 20


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
        return batches | "Write" >> beam.ParDo(
            WriteParts(self.directory, self.part_bytes, ".parquet", _ParquetPart)
        )


class _ParquetPart:
    def __init__(self, file: Any, batch: pa.RecordBatch) -> None:
        # zstd level 1 halves the files of Snappy at about the same speed.
        self._writer = pq.ParquetWriter(file, batch.schema, compression="zstd", compression_level=1)

    def write(self, batch: pa.RecordBatch) -> int:
        self._writer.write_batch(batch)
        return int(batch.nbytes)

    def close(self) -> None:
        self._writer.close()
