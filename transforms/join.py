"""JoinAsOf: add to each row what was known of its key at its time, never anything later."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import (
    Feature,
    Schema,
    arrow_schema,
    arrow_type,
    column_names,
    is_list,
    is_required,
    make_feature,
    string_domain,
)
from skewless.transforms.durations import Duration, microseconds
from skewless.transforms.join_rows import (
    JoinPlan,
    check_names,
    check_same_type,
    in_order,
    join_rows,
    usable_rows,
)
from skewless.transforms.rows import Count, Outcome, Rejected, Rows, each_batch
from skewless.transforms.shuffle import (
    check_columns,
    check_keys,
    check_times,
    gather,
    partition_batch,
    partitions_for,
    take_batches,
)

__all__ = ["JoinAsOf"]

_STEP = "JoinAsOf"
# A right side of up to so many bytes in memory goes to all workers, as engines of SQL do it.
_BROADCAST_BYTES = 32 << 20
_LEFT_BYTES = 128 << 20
# Which side rows are of that meet in a part.
_LEFT, _RIGHT = 0, 1


@dataclasses.dataclass(eq=False)
class JoinAsOf(beam.PTransform):  # type: ignore[misc]
    """Add to each row the columns of the latest right row at or before its time.

    The right row has the same values in the columns `by`; one that is later than the row
    is never taken. Every left row is kept: without a match, the added columns are missing.
    Of right rows at the same time, the last by file and offset counts. A right row without
    a key or a time is rejected.

    Args:
        right: Where the right rows come from: a source such as `ReadCsv`, or any PTransform
            from the pipeline's root that has a `schema` (and maybe `event_time`, `input_name`).
        by: Columns that are equal on both sides.
        on: The left column of times; where None, the one called like `right_on`.
        right_on: The right column of times; where None, the right side's event time.
        columns: Right columns to add; where None, all but `by` and `right_on`.
        prefix: What the names of added columns begin with.
        tolerance: How old a right row may be, as in `"6h"`, or a timedelta; units are us,
            ms, s, m, h, d, w.
        partitions: In how many parts the rows are brought together. The right rows of one part
            are in memory at once. By default a recipe takes as many as the sizes of both sides
            ask for, and at least 16.
        broadcast: Whether each worker holds all right rows instead, and no left row moves. By
            default so where the right side takes up to 32 MB; it suits some millions of rows.

    Raises:
        RecipeError: If an argument is wrong.
    """

    right: Any
    _: dataclasses.KW_ONLY
    by: Sequence[str]
    on: str | None = None
    right_on: str | None = None
    columns: Sequence[str] | None = None
    prefix: str = ""
    tolerance: Duration | None = None
    partitions: int | None = None
    broadcast: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.by, str) or not self.by:
            raise RecipeError(
                f'JoinAsOf: by={self.by!r}; expected a list of columns, as in by=["id"]'
            )
        if isinstance(self.columns, str):
            raise RecipeError(f'JoinAsOf: columns="{self.columns}"; expected a list of columns')
        self.by = tuple(self.by)
        self.columns = None if self.columns is None else tuple(self.columns)
        if self.tolerance is not None:
            oldest = microseconds(self.tolerance, "JoinAsOf: tolerance")
            self.tolerance = datetime.timedelta(microseconds=oldest)
        if self.partitions is not None and self.partitions < 1:
            raise RecipeError(f"JoinAsOf: partitions={self.partitions}; expected at least 1")
        if self.partitions is not None and self.broadcast:
            raise RecipeError(
                f"JoinAsOf: partitions={self.partitions} with broadcast=True, which brings no rows "
                "together; leave one of them out"
            )

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema` with the added columns, which are all optional."""
        plan, right = self._plan(), self._right_schema()
        check_keys(plan.by, schema, self._where("by"))
        check_times(plan.on, schema, self._where("on"))
        for name in plan.by:
            check_same_type(name, _type(schema, name), _type(right, name))
        check_names(plan, column_names(schema))
        joined = Schema()
        joined.CopyFrom(schema)
        joined.feature.extend(
            _joined_feature(right, name, as_name) for name, as_name, _ in plan.added
        )
        return joined

    def expand(self, left: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Bring rows of equal keys together, or the right ones to all, and join them."""
        plan = self._plan()
        # From PBegin: `pipeline | step` would tie the step to this one pipeline.
        source = beam.pvalue.PBegin(left.pipeline) | "Right" >> self.right
        right = source if isinstance(source, Rows) else Rows(source)
        usable = each_batch(right.rows, functools.partial(usable_rows, plan=plan), _STEP)
        step = self.sized(None)
        if step.broadcast:
            everywhere = beam.pvalue.AsIter(usable.rows)
            joined = left | "JoinBatches" >> beam.ParDo(_JoinBatches(plan), everywhere)
        else:
            joined = step._join_partitions(left, usable.rows, plan)
        rejected = self._named(right.rejected + usable.rejected, "NameRejected")
        return Rows(joined, rejected, self._named(right.counts + usable.counts, "NameCounts"))

    def sized(self, left: int | None) -> JoinAsOf:
        """Return the step with what was left open decided: by how large both sides are.

        Args:
            left: Bytes of the left rows in memory; None if nobody knows.
        """
        if self.broadcast or self.partitions is not None:
            return self
        right = self.right.estimate_size() if hasattr(self.right, "estimate_size") else None
        if self.broadcast is None and right is not None and right <= _BROADCAST_BYTES:
            return dataclasses.replace(self, broadcast=True)
        return dataclasses.replace(self, partitions=partitions_for((left or 0) + (right or 0)))

    def _join_partitions(
        self,
        left: beam.PCollection[pa.RecordBatch],
        right: beam.PCollection[pa.RecordBatch],
        plan: JoinPlan,
    ) -> beam.PCollection[pa.RecordBatch]:
        sides = (
            _by_partition(left, "PartitionLeft", _LEFT, plan.by, self.partitions),
            _by_partition(right, "PartitionRight", _RIGHT, plan.by, self.partitions),
        )
        # CoGroupByKey would hold all rows of a part; of the left ones a few are enough.
        together = sides | "BothSides" >> beam.Flatten() | "GroupPartitions" >> beam.GroupByKey()
        return together | "JoinPartitions" >> beam.ParDo(_JoinPartitions(plan))

    def join_batch(self, left: pa.RecordBatch, right: pa.RecordBatch | None) -> pa.RecordBatch:
        """Return rows with the columns added, all right rows that may match being at hand.

        Args:
            left: Rows; they come back in their order of origin.
            right: Rows that `usable_right` kept, as `in_order` gives them; None for none.
        """
        return join_rows(left, right, self._plan())

    def usable_right(self, right: pa.RecordBatch) -> Outcome:
        """Keep the right rows that have a key and a time, and of them the columns needed."""
        return usable_rows(right, self._plan())

    def _named(self, pcolls: tuple[Any, ...], label: str) -> tuple[Any, ...]:
        """Say of which input rejected rows and counts are, where they do not say it."""
        return tuple(
            pcoll | f"{label}{n}" >> beam.Map(_name_input, self._input_name())
            for n, pcoll in enumerate(pcolls)
        )

    def _where(self, argument: str) -> str:
        return f"JoinAsOf({argument}=...) of {self._input_name()}"

    def _input_name(self) -> str:
        return str(getattr(self.right, "input_name", "") or "right")

    def _right_schema(self) -> Schema:
        """Return the schema of the rows that the right side gives."""
        source = self.right
        # A source's schema may be a path, and hold columns that it is not asked to read.
        if hasattr(source, "raw_schema"):
            return source.raw_schema()
        schema = getattr(source, "schema", None)
        if schema is None:
            raise RecipeError(
                f"JoinAsOf: the columns of {self._input_name()} are not known; "
                "give it an attribute `schema`, or read it with ReadCsv(..., schema=schema)"
            )
        return schema

    def _plan(self) -> JoinPlan:
        """Name every column, from the arguments and the right side's schema."""
        schema = self._right_schema()
        right_on = self.right_on or getattr(self.right, "event_time", None)
        if right_on is None:
            raise RecipeError(
                f"JoinAsOf: {self._input_name()} has no column of times; give it event_time=, "
                "or right_on= to JoinAsOf"
            )
        check_times(right_on, schema, self._where("right_on"))
        check_keys(self.by, schema, self._where("by"))
        left_out = {*self.by, right_on}
        names = self.columns
        if names is None:
            names = [name for name in column_names(schema) if name not in left_out]
        check_columns(names, column_names(schema), self._where("columns"))
        oldest = self.tolerance
        return JoinPlan(
            by=tuple(self.by),
            on=self.on or right_on,
            right_on=right_on,
            added=tuple((name, self.prefix + name, _type(schema, name)) for name in names),
            tolerance=None if oldest is None else microseconds(oldest, "tolerance"),
        )


def _by_partition(
    batches: beam.PCollection[pa.RecordBatch],
    label: str,
    side: int,
    by: Sequence[str],
    partitions: int | None,
) -> beam.PCollection[tuple[int, tuple[int, pa.RecordBatch]]]:
    sent = beam.FlatMap(_sent, side, by, partitions)
    return batches | label >> sent.with_output_types(tuple[int, tuple[int, pa.RecordBatch]])


def _sent(
    batch: pa.RecordBatch, side: int, by: Sequence[str], partitions: int
) -> Iterator[tuple[int, tuple[int, pa.RecordBatch]]]:
    """Yield the rows for each partition, with the side that they are of."""
    for number, rows in partition_batch(batch, by, partitions):
        yield number, (side, rows)


@beam.typehints.with_output_types(pa.RecordBatch)
class _JoinPartitions(beam.DoFn):  # type: ignore[misc]
    """Joins left rows with all right rows of their part, some at a time."""

    def __init__(self, plan: JoinPlan) -> None:
        self._plan = plan

    def process(
        self, part: tuple[int, Iterable[tuple[int, pa.RecordBatch]]]
    ) -> Iterator[pa.RecordBatch]:
        # Beam lets a group be gone through twice.
        right = in_order([rows for side, rows in part[1] if side == _RIGHT])
        lefts = (rows for side, rows in part[1] if side == _LEFT)
        for left in gather(lefts, _LEFT_BYTES):
            joined = join_rows(left, right, self._plan)
            yield from take_batches(joined, np.arange(joined.num_rows))


@beam.typehints.with_output_types(pa.RecordBatch)
class _JoinBatches(beam.DoFn):  # type: ignore[misc]
    """Joins each batch with all right rows, which a worker brings together once."""

    def __init__(self, plan: JoinPlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._right: pa.RecordBatch | None = None
        self._is_held = False

    def process(
        self, left: pa.RecordBatch, right: Iterable[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        # In a batch a side input never changes, and a DoFn is of one pipeline alone.
        if not self._is_held:
            self._right, self._is_held = in_order(list(right)), True
        yield join_rows(left, self._right, self._plan)

    def teardown(self) -> None:
        self._right = None


def _name_input(item: Count | Rejected, name: str) -> Count | Rejected:
    return item if item.input else item._replace(input=name)


def _type(schema: Schema, name: str) -> pa.DataType:
    return arrow_schema(schema).field(name).type


def _joined_feature(schema: Schema, name: str, as_name: str) -> Feature:
    """Return the right column `name` as an optional feature called `as_name`."""
    feature = next(f for f in schema.feature if f.name == name)
    joined: Any = Feature()
    joined.CopyFrom(feature)
    joined.name = as_name
    joined.ClearField("presence")
    domain = string_domain(schema, feature)
    if domain is not None:
        joined.string_domain.value[:] = domain
    if not is_list(feature):
        optional = make_feature(as_name, arrow_type(feature), required=False)
        joined.value_count.CopyFrom(optional.value_count)
        if is_required(feature):
            joined.annotation.MergeFrom(optional.annotation)
    return joined
