"""Deduplicate: of the rows with the same key, keep one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.rows import Count, Rows
from skewless.transforms.shuffle import (
    PARTITIONS,
    check_keys,
    concat,
    key_codes,
    key_values,
    partition_batch,
    row_order,
    take_batches,
)

__all__ = ["Deduplicate", "distinct_of", "distinct_rows"]

Keep = Literal["first", "last"]
_STEP = "Deduplicate"
_HELD_BYTES = 128 << 20


def distinct_rows(
    batch: pa.RecordBatch, by: Sequence[str], keep: Keep = "first"
) -> npt.NDArray[np.int64]:
    """Return the indices of one row for each key, in the rows' order of origin.

    Args:
        batch: All rows of the keys in it.
        by: Key columns; a missing value equals a missing value.
        keep: Whether the first or the last row of a key is kept, in order of origin.

    Returns:
        An array of shape [distinct keys], int64.
    """
    order = row_order(batch)
    codes = key_codes([key_values(batch.column(name)) for name in by])[order]
    if keep == "first":
        positions = np.unique(codes, return_index=True)[1]
    else:
        positions = len(codes) - 1 - np.unique(codes[::-1], return_index=True)[1]
    return order[np.sort(positions)]


def distinct_of(
    batches: Iterable[pa.RecordBatch], by: Sequence[str], keep: Keep, most: int = _HELD_BYTES
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64], int]:
    """Find one row for each key of several batches.

    Args:
        batches: At least one; they are looked at once, in any order.
        by: As in `distinct_rows`.
        keep: As in `distinct_rows`.
        most: Bytes of rows to hold before repeated ones are dropped, so that a key with very
            many rows takes no more memory than one with few.

    Returns:
        Rows, the indices of those to keep as `distinct_rows` gives them, and how many others
        there were in all.
    """
    held: list[pa.RecordBatch] = []
    seen, size, limit = 0, 0, most
    for batch in batches:
        held.append(batch)
        seen += batch.num_rows
        size += batch.nbytes
        if size >= limit:
            rows = concat(held)
            held = [rows.take(pa.array(distinct_rows(rows, by, keep)))]
            size = held[0].nbytes
            # Twice what had to stay: however many rows there are, each is sorted a few times.
            limit = max(most, 2 * size)
    rows = concat(held)
    kept = distinct_rows(rows, by, keep)
    return rows, kept, seen - len(kept)


@dataclasses.dataclass(eq=False)
class Deduplicate(beam.PTransform):  # type: ignore[misc]
    """Keep one of the rows that have the same values in the columns `by`.

    Which one is kept does not depend on the runner or on how the input is cut into files'
    ranges: it is the first (or last) by file and offset, and for rows that carry no origin
    the first by what they hold. Others are counted as `duplicate`.

    Args:
        by: Key columns; a missing value equals a missing value.
        keep: `first` or `last`.
        partitions: In how many parts the rows are brought together. The distinct rows of one
            part are in memory at once. By default a recipe takes as many as the size of its
            source asks for, and at least 16.

    Raises:
        RecipeError: If an argument is wrong.

    >>> Deduplicate(by=["carrier", "flight"]).by
    ('carrier', 'flight')
    """

    by: Sequence[str]
    _: dataclasses.KW_ONLY
    keep: Keep = "first"
    partitions: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.by, str) or not self.by:
            raise RecipeError(
                f'Deduplicate: by={self.by!r}; expected a list of columns, as in by=["id"]'
            )
        self.by = tuple(self.by)
        if self.keep not in ("first", "last"):
            raise RecipeError(f'Deduplicate: keep={self.keep!r}; expected "first" or "last"')
        if self.partitions is not None and self.partitions < 1:
            raise RecipeError(f"Deduplicate: partitions={self.partitions}; expected at least 1")

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema`, in which the key columns must exist."""
        check_keys(self.by, schema, f"Deduplicate(by={list(self.by)})")
        return schema

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Bring rows of equal keys together and keep one of each."""
        outputs = (
            batches
            | "PartitionByKey"
            >> beam.FlatMap(
                partition_batch, self.by, self.partitions or PARTITIONS
            ).with_output_types(tuple[int, pa.RecordBatch])
            | "GroupPartitions" >> beam.GroupByKey()
            | "KeepDistinct"
            >> beam.ParDo(_KeepDistinct(self.by, self.keep)).with_outputs("counts", main="rows")
        )
        return Rows(outputs.rows, (), (outputs.counts,))


@beam.typehints.with_input_types(tuple[int, Iterable[pa.RecordBatch]])
@beam.typehints.with_output_types(pa.RecordBatch)
class _KeepDistinct(beam.DoFn):  # type: ignore[misc]
    def __init__(self, by: Sequence[str], keep: Keep) -> None:
        self._by = by
        self._keep: Keep = keep

    def process(self, partition: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Any]:
        rows, kept, duplicates = distinct_of(partition[1], self._by, self._keep)
        yield from take_batches(rows, kept)
        if duplicates:
            yield beam.pvalue.TaggedOutput("counts", Count("", _STEP, "duplicate", duplicates))
