"""Put repaired rows in the place of those that were rejected."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from skewless.transforms.rows import FILE, OFFSET, Outcome, Rejected, Rows, each_batch

__all__ = ["ReplaceRows", "without_rows"]

Place = tuple[str, int]


@dataclasses.dataclass(eq=False)
class ReplaceRows(beam.PTransform):  # type: ignore[misc]
    """Read a source with some of its rows replaced by repaired ones.

    A row is known by its file and offset. It counts as read once, as before; what becomes
    of the repaired row is up to the steps that follow.

    Args:
        source: `ReadCsv`, `ReadJsonLines` or `ReadParquet`, with its schema.
        repaired: Rejected rows whose payload a person has repaired.
    """

    source: Any
    repaired: tuple[Rejected, ...]

    def expand(self, begin: beam.pvalue.PBegin) -> Rows:
        """Read, take the old rows out, put the repaired ones in."""
        places = frozenset((row.file, row.offset) for row in self.repaired)
        kept, still_bad, _ = self.source.read_rejected(
            list(self.repaired), self.source.raw_schema()
        )
        rows = begin | "Read" >> self.source
        old = each_batch(rows.rows, functools.partial(_drop, places), "DropReplaced")
        new = begin | "CreateRepaired" >> beam.Create([kept] if kept.num_rows else [])
        rejected = rows.rejected | "FlattenRejected" >> beam.Flatten()
        return Rows(
            (old.rows, new) | "AddRepaired" >> beam.Flatten(),
            (
                rejected | "DropOldRejected" >> beam.Filter(_is_elsewhere, places=places),
                begin | "CreateStillRejected" >> beam.Create(still_bad),
            ),
            rows.counts,
        )


def without_rows(batch: pa.RecordBatch, places: Collection[Place]) -> pa.RecordBatch:
    """Return `batch` without the rows that came from one of `places`."""
    offsets = pa.array([offset for _, offset in places], pa.int64())
    near = pc.is_in(batch.column(OFFSET), value_set=offsets).to_pylist()
    if not any(near):
        return batch
    files = batch.column(FILE).to_pylist()
    at = batch.column(OFFSET).to_pylist()
    keep = [not (n and (f, o) in places) for n, f, o in zip(near, files, at, strict=True)]
    return batch.filter(pa.array(keep))


def _drop(places: Collection[Place], batch: pa.RecordBatch) -> Outcome:
    return Outcome(without_rows(batch, places), [], {})


def _is_elsewhere(row: Rejected, places: Collection[Place]) -> bool:
    return (row.file, row.offset) not in places
