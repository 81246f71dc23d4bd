"""What a pipeline that may never end has written so far, seen from outside."""

from __future__ import annotations

import pathlib
import pickle
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.transforms.rows import Count, Rejected, Rows


def write(element: Any, directory: pathlib.Path) -> None:
    """Write an element to a file of its own, whole or not at all."""
    path = directory / uuid.uuid4().hex
    path.write_bytes(pickle.dumps(element))
    path.rename(path.with_suffix(".pickle"))


def written(directory: pathlib.Path) -> list[Any]:
    return [pickle.loads(path.read_bytes()) for path in directory.glob("*.pickle")]


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


class _Keep(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def process(self, element: Any, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        if isinstance(element, pa.RecordBatch):
            element = element.to_pylist()
        write((element, timestamp.micros), self._directory)


class Kept:
    """Rows, what was rejected, and what was counted."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._folders = [directory / name for name in ("rows", "rejected", "counts")]
        for folder in self._folders:
            folder.mkdir(exist_ok=True, parents=True)

    def keep(self, rows: Rows) -> None:
        kinds = (rows.rows,), rows.rejected, rows.counts
        for folder, collections in zip(self._folders, kinds, strict=True):
            for i, collection in enumerate(collections):
                _ = collection | f"keep {folder.name} {i}" >> beam.ParDo(_Keep(folder))

    def batches(self) -> list[tuple[list[dict[str, Any]], int]]:
        """Return the rows of each batch, and the batch's time."""
        return written(self._folders[0])

    def rows(self) -> list[dict[str, Any]]:
        return [row for batch, _ in self.batches() for row in batch]

    def numbers(self) -> set[int]:
        return {row["n"] for row in self.rows()}

    def rejected(self) -> list[Rejected]:
        return [row for row, _ in written(self._folders[1])]

    def counts(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for count, _ in written(self._folders[2]):
            assert isinstance(count, Count)
            found[count.kind] += count.n
        return found

    def adds_up(self) -> bool:
        counts = self.counts()
        known = len(self.rows()) + len(self.rejected()) + counts["duplicate"]
        return counts["read"] == known
