"""Events that came too late to have been known: a property of the event alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from skewless.transforms.aggregate.tiles import TilePlan, times_of
from skewless.transforms.rows import Outcome, Rejected, Rows, each_batch, reject_rows

__all__ = ["LATE", "LateRows", "is_late", "late_rows"]

LATE = "Late"


def late_rows(
    batch: pa.RecordBatch, plans: Sequence[TilePlan]
) -> tuple[pa.RecordBatch, list[Rejected]]:
    """Return the rows that are not late, and the late ones: rejected at the step `Late`.

    A row is late for a plan with `lateness` if it arrived longer than that after the end of
    the tile in which it was known. That is a property of the row alone.
    """
    rejected: list[Rejected] = []
    for plan in plans:
        late = is_late(batch, plan)
        if plan.lateness is not None and pc.any(late).as_py():
            reason = (
                f"arrived more than {plan.lateness / 1e6:g} s after the end of its tile of "
                f"{plan.tile / 1e6:g} s"
            )
            rejected += reject_rows(batch.filter(late), LATE, str(plan.arrived_at), reason)
            batch = batch.filter(pc.invert(late))
    return batch, rejected


@dataclasses.dataclass(eq=False)
class LateRows(beam.PTransform):  # type: ignore[misc]
    """Keep the rows that are not late for any aggregate; the others are rejected.

    Args:
        plans: The aggregates.
    """

    plans: Sequence[TilePlan]

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Look at every batch."""
        return each_batch(batches, functools.partial(_without_late, plans=self.plans), LATE)


def _without_late(batch: pa.RecordBatch, plans: Sequence[TilePlan]) -> Outcome:
    return Outcome(*late_rows(batch, plans), {})


def is_late(batch: pa.RecordBatch, plan: TilePlan) -> pa.Array:
    """Return which rows are late for a plan."""
    if plan.lateness is None or plan.arrived_at is None:
        return pa.repeat(False, batch.num_rows)
    where = f'Aggregate "{plan.name}"'
    known = times_of(plan.known_at, batch, f"{where} known_at=")
    arrived = times_of(plan.arrived_at, batch, f"{where} arrived_at=")
    ends = (known.fill_null(0).to_numpy(zero_copy_only=False) // plan.tile + 1) * plan.tile
    limits = pa.array(ends + plan.lateness)
    return pc.greater(pc.if_else(known.is_valid(), arrived, None), limits).fill_null(False)
