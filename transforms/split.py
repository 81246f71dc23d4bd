"""SplitByTime and SplitByHash: every row into exactly one of train, eval and test."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.rows import Count, Rejected, reject_rows
from skewless.transforms.shuffle import (
    check_keys,
    check_times,
    hash_rows,
    time_values,
)

__all__ = ["SPLITS", "SplitByHash", "SplitByTime", "Splits", "assign_by_hash", "assign_by_time"]

SPLITS = ("train", "eval", "test")
_NO_TIME = -1

Assignment = npt.NDArray[np.int8]
Time = str | datetime.date | datetime.datetime


class Splits(NamedTuple):
    """The rows of each split, and what the split itself rejected and counted."""

    train: beam.PCollection[pa.RecordBatch]
    eval: beam.PCollection[pa.RecordBatch]
    test: beam.PCollection[pa.RecordBatch]
    rejected: tuple[beam.PCollection[Rejected], ...] = ()
    counts: tuple[beam.PCollection[Count], ...] = ()


def assign_by_time(batch: pa.RecordBatch, on: str, train_until: int, eval_until: int) -> Assignment:
    """Say to which split each row belongs by its time.

    Args:
        batch: Rows.
        on: The column of times.
        train_until: Train ends before this, in microseconds since 1970 UTC.
        eval_until: Eval ends before this, likewise.

    Returns:
        An array of shape [rows], int8: an index into `SPLITS`, -1 where there is no time.

    Raises:
        RecipeError: If `on` does not exist or holds no times.
    """
    times = time_values(batch, on, "SplitByTime")
    bounds = np.array([train_until, eval_until])
    known = pc.fill_null(times, 0).to_numpy(zero_copy_only=False)
    split: Assignment = np.searchsorted(bounds, known, side="right").astype(np.int8)
    split[times.is_null().to_numpy(zero_copy_only=False)] = _NO_TIME
    return split


def assign_by_hash(
    batch: pa.RecordBatch, by: Sequence[str], train: float, eval: float, salt: str = ""
) -> Assignment:
    """Say to which split each row belongs by the hash of its key.

    Args:
        batch: Rows.
        by: Key columns.
        train: Part of all keys that is train, between 0 and 1.
        eval: Part that is eval; the rest is test.
        salt: Another salt gives an independent split.

    Returns:
        An array of shape [rows], int8: an index into `SPLITS`.

    Raises:
        RecipeError: If a column does not exist or cannot be a key.
    """
    # The upper 53 bits are a float64 in [0, 1) exactly.
    points = (hash_rows(batch, by, salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    split: Assignment = np.searchsorted([train, train + eval], points, "right").astype(np.int8)
    return split


@dataclasses.dataclass(eq=False)
class SplitByTime(beam.PTransform):  # type: ignore[misc]
    """Train on the past, evaluate on what came after it, test on what came last.

    Train is every row before `train_until`, eval from there to before `eval_until`, test
    the rest. A row without a time is rejected.

    Args:
        train_until: First moment that is not train: an ISO 8601 text, a date or a datetime;
            UTC where it names no zone.
        eval_until: First moment that is not eval, after `train_until`.
        on: The column of times; in a recipe, the source's event time where None.

    Raises:
        RecipeError: If an argument is not a time, or the two are not in order.

    >>> SplitByTime("2013-10-01", "2013-11-15").eval_until.isoformat()
    '2013-11-15T00:00:00+00:00'
    """

    train_until: Time
    eval_until: Time
    _: dataclasses.KW_ONLY
    on: str | None = None

    def __post_init__(self) -> None:
        train_until = _utc(self.train_until, "train_until")
        eval_until = _utc(self.eval_until, "eval_until")
        if train_until >= eval_until:
            raise RecipeError(
                f"SplitByTime: train_until={train_until.isoformat()} is not before "
                f"eval_until={eval_until.isoformat()}; put the earlier one first"
            )
        self.train_until, self.eval_until = train_until, eval_until

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema`, in which the column `on` must exist and hold times."""
        check_times(self._on(), schema, "SplitByTime")
        return schema

    def assign(self, batch: pa.RecordBatch) -> Assignment:
        """Return for each row an index into `SPLITS`, int8; -1 where there is no time."""
        return self._assigner()(batch)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Splits:
        """Send the rows of every batch to their splits."""
        return _split(batches, self._assigner(), "SplitByTime", self._on())

    def _on(self) -> str:
        if self.on is None:
            raise RecipeError(
                "SplitByTime: no column of times is named; give on=, or event_time= to the source"
            )
        return self.on

    def _assigner(self) -> Callable[[pa.RecordBatch], Assignment]:
        return functools.partial(
            assign_by_time,
            on=self._on(),
            train_until=_microseconds(self.train_until),
            eval_until=_microseconds(self.eval_until),
        )


@dataclasses.dataclass(eq=False)
class SplitByHash(beam.PTransform):  # type: ignore[misc]
    """Split rows at random by their key: rows of one key are always in the same split.

    The hash is `skewless.transforms.shuffle.hash_rows`: the same in every run, on every
    machine, and for the same value read from any kind of file. What a key is assigned to
    does not depend on the other rows, so new data leaves old keys where they are.

    Args:
        by: Key columns; their order matters.
        train: Part of all keys that is train, between 0 and 1.
        eval: Part that is eval; the rest is test.
        salt: Another salt gives an independent split.

    Raises:
        RecipeError: If an argument is wrong.

    >>> SplitByHash(by=["tailnum"], train=0.9, eval=0.05).by
    ('tailnum',)
    """

    by: Sequence[str]
    _: dataclasses.KW_ONLY
    train: float = 0.8
    eval: float = 0.1
    salt: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.by, str) or not self.by:
            raise RecipeError(
                f'SplitByHash: by={self.by!r}; expected a list of columns, as in by=["id"]'
            )
        self.by = tuple(self.by)
        # A sum of decimals may be off by a rounding.
        if not (self.train >= 0 and self.eval >= 0 and self.train + self.eval <= 1 + 1e-9):
            raise RecipeError(
                f"SplitByHash: train={self.train} and eval={self.eval}; "
                "expected parts between 0 and 1 that add up to at most 1"
            )

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema`, in which the key columns must exist."""
        check_keys(self.by, schema, f"SplitByHash(by={list(self.by)})")
        return schema

    def assign(self, batch: pa.RecordBatch) -> Assignment:
        """Return for each row an index into `SPLITS`, int8."""
        return self._assigner()(batch)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Splits:
        """Send the rows of every batch to their splits."""
        return _split(batches, self._assigner(), "SplitByHash", "")

    def _assigner(self) -> Callable[[pa.RecordBatch], Assignment]:
        return functools.partial(
            assign_by_hash, by=self.by, train=self.train, eval=self.eval, salt=self.salt
        )


def _utc(time: Time, name: str) -> datetime.datetime:
    moment = time
    if isinstance(moment, str):
        try:
            moment = datetime.datetime.fromisoformat(moment)
        except ValueError:
            raise RecipeError(
                f'SplitByTime: {name}="{time}"; expected an ISO 8601 time, as in "2013-10-01"'
            ) from None
    if isinstance(moment, datetime.date) and not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.combine(moment, datetime.time())
    if not isinstance(moment, datetime.datetime):
        raise RecipeError(f"SplitByTime: {name}={time!r}; expected a text, a date or a datetime")
    if moment.tzinfo is None:
        return moment.replace(tzinfo=datetime.UTC)
    return moment.astimezone(datetime.UTC)


def _microseconds(time: Any) -> int:
    since = time - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return int(since // datetime.timedelta(microseconds=1))


def _split(
    batches: beam.PCollection[pa.RecordBatch],
    assign: Callable[[pa.RecordBatch], Assignment],
    step: str,
    column: str,
) -> Splits:
    outputs = batches | "AssignSplits" >> beam.ParDo(
        _SendToSplits(assign, step, column)
    ).with_outputs(*SPLITS, "rejected")
    return Splits(outputs.train, outputs.eval, outputs.test, (outputs.rejected,), ())


# Without its type, a split would be pickled rather than coded as Arrow IPC.
@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(
    pa.RecordBatch, rejected=Any, **dict.fromkeys(SPLITS, pa.RecordBatch)
)
class _SendToSplits(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self, assign: Callable[[pa.RecordBatch], Assignment], step: str, column: str
    ) -> None:
        self._assign = assign
        self._step = step
        self._column = column

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        assignment = self._assign(batch)
        for index, split in enumerate(SPLITS):
            rows = batch.filter(pa.array(assignment == index))
            if rows.num_rows:
                yield beam.pvalue.TaggedOutput(split, rows)
        lost = batch.filter(pa.array(assignment == _NO_TIME))
        for rejected in reject_rows(lost, self._step, self._column, "expected a time"):
            yield beam.pvalue.TaggedOutput("rejected", rejected)
