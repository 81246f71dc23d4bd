"""Write batches of rows as parts of JSON Lines."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.transforms.rows import as_text, python_rows
from skewless.transforms.sinks.parts import Part, WriteParts

__all__ = ["WriteJsonLines", "json_lines"]

_PART_BYTES = 128 << 20


@dataclasses.dataclass(eq=False)
class WriteJsonLines(beam.PTransform):  # type: ignore[misc]
    """Write batches of rows, origin columns included, as JSON Lines: one object a row.

    Args:
        directory: Where the parts go, on any Beam file system, under names nobody should rely
            on.
        part_bytes: A part is closed when it holds this many bytes.

    Returns:
        A PCollection of `Part`.
    """

    directory: str
    part_bytes: int = _PART_BYTES

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Part]:
        """Write each bundle's batches to its own parts."""
        return batches | "Write" >> beam.ParDo(
            WriteParts(self.directory, self.part_bytes, ".jsonl", _JsonLinesPart)
        )


def json_lines(batch: pa.RecordBatch) -> bytes:
    """Return rows as JSON objects, one a line; what is missing or no number is null.

    Times are ISO 8601 in UTC, bytes are text, and a float32 is written as short as it can be.

    >>> json_lines(pa.record_batch({"x": pa.array([0.1, None], pa.float32()), "s": ["a", "b"]}))
    b'{"x": 0.1, "s": "a"}\\n{"x": null, "s": "b"}\\n'
    """
    columns = [_shortest(column) for column in batch.columns]
    rows = python_rows(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
    return "".join(f"{_line(row)}\n" for row in rows).encode()


def _line(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, default=as_text, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(row), default=as_text, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """Return a value with null for the numbers that JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shortest(column: pa.Array) -> pa.Array:
    """Return a column of float32 as the float64 that is written with the same few digits."""
    if pa.types.is_float32(column.type):
        return column.cast(pa.string()).cast(pa.float64())
    if pa.types.is_list(column.type) and pa.types.is_float32(column.type.value_type):
        return column.cast(pa.list_(pa.string())).cast(pa.list_(pa.float64()))
    return column


class _JsonLinesPart:
    def __init__(self, file: Any, _: pa.RecordBatch) -> None:
        self._file = file

    def write(self, batch: pa.RecordBatch) -> int:
        lines = json_lines(batch)
        self._file.write(lines)
        return len(lines)

    def close(self) -> None:
        pass
