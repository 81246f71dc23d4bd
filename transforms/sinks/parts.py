"""Write batches of rows as parts: files that a bundle opens, fills up to a size, and closes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
import pyarrow as pa

from skewless.storage import path_of
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.files import named_errors

__all__ = ["OpenPart", "Part", "PartFile", "WriteParts"]


class Part(NamedTuple):
    """A written file: its path, how many rows it holds, and the origin of its first row."""

    path: str
    rows: int
    first: tuple[str, int]


class PartFile(Protocol):
    """How the rows of a part are written in one format."""

    def write(self, batch: pa.RecordBatch) -> int:
        """Write rows; return how many bytes they count."""

    def close(self) -> None:
        """Write what comes last."""


# Given the open file and the first rows of the part.
OpenPart = Callable[[Any, pa.RecordBatch], PartFile]


class _Part:
    """A part while it is written."""

    def __init__(
        self, directory: str, suffix: str, open_part: OpenPart, batch: pa.RecordBatch
    ) -> None:
        folder = path_of(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{uuid.uuid4().hex}{suffix}"
        self._file = self._path.open("wb")
        self.bytes = 0
        self._rows = 0
        self._first = _origin(batch)
        self._writer = open_part(self._file, batch)

    def write(self, batch: pa.RecordBatch) -> None:
        self.bytes += self._writer.write(batch)
        self._rows += batch.num_rows

    def close(self) -> Part:
        self._writer.close()
        self._file.close()
        return Part(str(self._path), self._rows, self._first)


class WriteParts(beam.DoFn):  # type: ignore[misc]
    """Write each bundle's batches to its own parts; yield each `Part`.

    Args:
        directory: Where the parts go, on any Beam file system.
        part_bytes: A part is closed when its rows count so many bytes.
        suffix: How the names of the files end.
        open_part: How a part is written.
    """

    def __init__(self, directory: str, part_bytes: int, suffix: str, open_part: OpenPart) -> None:
        self._directory = directory
        self._part_bytes = part_bytes
        self._suffix = suffix
        self._open_part = open_part

    def start_bundle(self) -> None:
        """Begin without a part."""
        self._part: _Part | None = None

    def process(self, batch: pa.RecordBatch) -> Iterator[Part]:
        """Write a batch; yield the part if that fills it."""
        with named_errors(self._directory):
            if self._part is None:
                self._part = _Part(self._directory, self._suffix, self._open_part, batch)
            self._part.write(batch)
            if self._part.bytes >= self._part_bytes:
                part, self._part = self._part, None
                yield part.close()

    def finish_bundle(self) -> Iterator[Any]:
        """Yield the last part."""
        if self._part is not None:
            with named_errors(self._directory):
                yield beam.utils.windowed_value.WindowedValue(
                    self._part.close(), beam.window.MIN_TIMESTAMP, [beam.window.GlobalWindow()]
                )


def _origin(batch: pa.RecordBatch) -> tuple[str, int]:
    if FILE not in batch.schema.names:
        return "", -1
    return batch.column(FILE)[0].as_py() or "", batch.column(OFFSET)[0].as_py() or 0
