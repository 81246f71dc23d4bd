"""New files as they arrive: a stream of files, each read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder
from apache_beam.io.watch import PollResult, Watch, after_total_of, never
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from skewless.transforms.sources.messages import row_times, split_by_time
from skewless.transforms.sources.patterns import Spans, find_files

__all__ = ["StampRows", "WatchFiles"]


@dataclasses.dataclass(eq=False)
class WatchFiles(beam.PTransform):  # type: ignore[misc]
    """Look for files again and again, and give the paths of those that were not there before.

    A file counts as one for its path: it must appear whole, by being renamed, say, and stay
    as it is.

    Args:
        patterns: Paths and globs, as for `find_files`.
        spans: Which spans.
        watch_seconds: The time from one look to the next.
        stop_after_seconds: How long to look in all; None for ever.

    Returns:
        An unbounded PCollection of paths, at the time of the look that found them.
    """

    patterns: Sequence[str]
    spans: Spans | None
    watch_seconds: float
    stop_after_seconds: float | None = None

    def expand(self, pbegin: Any) -> beam.PCollection[str]:
        """Poll by Beam's own `Watch`, whose checkpoints know what was seen."""
        stop = self.stop_after_seconds
        watch = Watch(
            _Look(self.spans),
            poll_interval=self.watch_seconds,
            termination=never() if stop is None else after_total_of(stop),
            output_coder=StrUtf8Coder(),
        )
        return (
            pbegin
            | "Patterns" >> beam.Create(list(self.patterns))
            | "Watch" >> watch
            | "Paths" >> beam.Values().with_output_types(str)
        )


@dataclasses.dataclass(frozen=True)
class _Look:
    spans: Spans | None

    def __call__(self, pattern: str) -> PollResult[str]:
        now = Timestamp.now()
        paths = sorted(file.path for file in find_files(pattern, self.spans))
        return PollResult(tuple(TimestampedValue(path, now) for path in paths))


@dataclasses.dataclass(eq=False)
class StampRows(beam.PTransform):  # type: ignore[misc]
    """Make micro-batches of batches: none spans two aligned intervals of event time.

    Args:
        event_time: The timestamp column that says when a row happened; without one a batch
            stays whole, at the time of its element.
        batch_seconds: The length of the intervals.

    Returns:
        The batches, each at the earliest of its rows' times.
    """

    event_time: str | None
    batch_seconds: float

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Split every batch."""
        return batches | "StampRows" >> beam.ParDo(_StampRows(self.event_time, self.batch_seconds))


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class _StampRows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, event_time: str | None, batch_seconds: float) -> None:
        self._event_time = event_time
        self._batch_seconds = batch_seconds

    def process(
        self, batch: pa.RecordBatch, timestamp: Timestamp = beam.DoFn.TimestampParam
    ) -> Iterator[TimestampedValue]:
        if not batch.num_rows:
            return
        if self._event_time is None:
            yield TimestampedValue(batch, timestamp)
            return
        times = row_times(batch, self._event_time, [timestamp.micros] * batch.num_rows)
        for part, first in split_by_time(batch, times, self._batch_seconds):
            yield TimestampedValue(part, Timestamp(micros=first))
