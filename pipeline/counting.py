"""What a pipeline counted and rejected, written where whoever started it finds it."""

from __future__ import annotations

import json

import apache_beam as beam

from skewless.storage import AnyPath
from skewless.transforms.aggregate.late import LATE
from skewless.transforms.rows import Count, Rejected
from skewless.transforms.sinks.rejected import WriteRejected
from skewless.transforms.sinks.summary import WriteSummary

__all__ = ["read_counts", "write_counts"]

_FILE = "counts.json"


def write_counts(
    rejected: tuple[beam.PCollection[Rejected], ...],
    counts: tuple[beam.PCollection[Count], ...],
    rejected_to: AnyPath,
    folder: AnyPath,
) -> None:
    """Wire the writing of rejected rows, and of how many there are of each kind.

    Args:
        rejected: The rejected rows of all steps.
        counts: The counts of all steps.
        rejected_to: Where the rejected rows go.
        folder: Where `read_counts` finds the numbers.
    """
    counted = counts | "AllCounts" >> beam.Flatten() | "CountEntry" >> beam.Map(_entry)
    lost = (
        rejected
        | "AllRejected" >> beam.Flatten()
        | WriteRejected(str(rejected_to))
        | "RejectedEntry" >> beam.Map(_rejected_entry)
    )
    _ = (
        (counted, lost)
        | "AllEntries" >> beam.Flatten()
        | "Sum" >> beam.CombinePerKey(sum)
        | "Counts" >> WriteSummary(str(folder / _FILE))
    )


def read_counts(folder: AnyPath, main: str) -> list[tuple[str, str, str, int]]:
    """Return the (input, kind, step, rows) tuples that were written.

    Args:
        folder: Where they are.
        main: What the main input is called.
    """
    return [
        (name or main, kind, step, n)
        for (name, kind, step), n in json.loads((folder / _FILE).read_text())
    ]


def _entry(count: Count) -> tuple[tuple[str, str, str], int]:
    return (count.input, count.kind, count.step), count.n


def _rejected_entry(row: Rejected) -> tuple[tuple[str, str, str], int]:
    return (row.input, "late" if row.step == LATE else "rejected", row.step), 1
