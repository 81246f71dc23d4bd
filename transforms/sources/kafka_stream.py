"""Kafka's topics as a stream: a native source, without Java, on Beam's `UnboundedSource`.

An element of the source is a whole micro-batch, parsed already: its reader needs the event
times for the watermark, and an element a message would cost more than the message.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import coders
from apache_beam.io.unbounded_source import (
    CheckpointMark,
    ReadFromUnboundedSource,
    UnboundedReader,
    UnboundedSource,
)
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from skewless import progress
from skewless.schema import Schema
from skewless.transforms.kafka_client import KafkaCluster, KafkaConsumer, Partition, place_of
from skewless.transforms.rows import OFFSET, Count, Rejected, Rows
from skewless.transforms.sources.kafka_positions import KafkaPiece
from skewless.transforms.sources.kafka_rows import MessageParser
from skewless.transforms.sources.messages import Message, split_by_time

__all__ = ["FollowKafka", "KafkaMark", "KafkaStream", "MicroBatch", "StreamReader"]

# How long a reader waits for more messages once it has one, so that a trickle makes batches.
_GATHER_SECONDS = 0.1
_POLL_SECONDS = 0.5
_BUNDLE_SECONDS = 2.0


class MicroBatch(NamedTuple):
    """Messages of some partitions, parsed.

    Attributes:
        parts: Rows, with the earliest of their times in microseconds since 1970.
        rejected: Messages that are no such rows.
        read: How many messages these were.
    """

    parts: list[tuple[pa.RecordBatch, int]]
    rejected: list[Rejected]
    read: int


@dataclasses.dataclass(eq=False)
class FollowKafka(beam.PTransform):  # type: ignore[misc]
    """Read a stream of micro-batches as `Rows`."""

    stream: KafkaStream

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> Rows:
        """Read, and give rows, rejected rows and counts."""
        outputs = (
            pbegin
            | "Read"
            >> ReadFromUnboundedSource(
                self.stream,
                poll_interval=_POLL_SECONDS,
                max_records_per_bundle=100,
                max_read_time_seconds=_BUNDLE_SECONDS,
            )
            | "Unpack" >> beam.ParDo(_Unpack()).with_outputs("rejected", "counts", main="rows")
        )
        return Rows(outputs.rows, (outputs.rejected,), (outputs.counts,))


@beam.typehints.with_output_types(pa.RecordBatch)
class _Unpack(beam.DoFn):  # type: ignore[misc]
    def process(self, batch: MicroBatch) -> Iterator[Any]:
        progress.add("rows_read", batch.read)
        for rows, micros in batch.parts:
            yield TimestampedValue(rows, Timestamp(micros=micros))
        for row in batch.rejected:
            yield beam.pvalue.TaggedOutput("rejected", row)
        yield beam.pvalue.TaggedOutput("counts", Count("", "Read", "read", batch.read))


# --- Committing -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class KafkaMark(CheckpointMark):  # type: ignore[misc]
    """Where to go on from: the next offset of each partition.

    The runner finalizes it when the rows before it are committed, and not earlier.
    """

    following: tuple[tuple[Partition, int], ...]
    cluster: KafkaCluster
    group: str | None

    def finalize_checkpoint(self) -> None:
        """Commit the offsets to the consumer group, if there is one."""
        if self.group is not None:
            _committer(self.cluster, self.group).commit(dict(self.following))


class _Committer:
    """Commits for a group, from whichever thread; says nothing twice."""

    def __init__(self, cluster: KafkaCluster, group: str) -> None:
        self._consumer = cluster.consumer(group)
        self._lock = threading.Lock()
        self._said: dict[Partition, int] = {}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        with self._lock:
            news = {p: offset for p, offset in offsets.items() if self._said.get(p) != offset}
            if news:
                self._consumer.commit(news)
                self._said.update(news)


_committers: dict[tuple[KafkaCluster, str], _Committer] = {}
_committers_lock = threading.Lock()


def _committer(cluster: KafkaCluster, group: str) -> _Committer:
    """Return this process's committer: marks outlive the reader that made them."""
    with _committers_lock:
        key = (cluster, group)
        if key not in _committers:
            _committers[key] = _Committer(cluster, group)
        return _committers[key]


# --- Reading --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class KafkaStream(UnboundedSource):  # type: ignore[misc]
    """Partitions to follow, and how to parse them; one with a `stop` ends there."""

    pieces: tuple[KafkaPiece, ...]
    cluster: KafkaCluster
    group: str | None
    schema: Schema
    parser: MessageParser
    batch_rows: int
    batch_seconds: float
    disorder_seconds: float
    idle_seconds: float

    def split(self, desired_num_splits: int, options: Any = None) -> list[KafkaStream]:  # noqa: ARG002
        """Spread the partitions over at most so many sources."""
        parts = max(min(desired_num_splits, len(self.pieces)), 1)
        return [dataclasses.replace(self, pieces=self.pieces[part::parts]) for part in range(parts)]

    def create_reader(self, options: Any, checkpoint_mark: KafkaMark | None) -> StreamReader:  # noqa: ARG002
        """Return a reader that goes on from the mark."""
        return StreamReader(self, checkpoint_mark)

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        """Return how marks are written down."""
        return coders.PickleCoder()


class StreamReader(UnboundedReader):  # type: ignore[misc]
    """Reads partitions, one micro-batch after the other."""

    def __init__(self, stream: KafkaStream, mark: KafkaMark | None) -> None:
        self._stream = stream
        self._following = {(piece.topic, piece.partition): piece.start for piece in stream.pieces}
        self._stops = {(piece.topic, piece.partition): piece.stop for piece in stream.pieces}
        if mark is not None:
            self._following.update(mark.following)
        self._watermarks = {
            place_of(*place): _Watermark(stream.disorder_seconds, stream.idle_seconds)
            for place in self._following
        }
        self._consumer: KafkaConsumer | None = None
        self._current = MicroBatch([], [], 0)
        self._time = MIN_TIMESTAMP.micros

    def start(self) -> bool:
        """Connect; messages come later."""
        self._consumer = self._stream.cluster.consumer(self._stream.group)
        self._consumer.assign(self._following)
        return self.advance()

    def advance(self) -> bool:
        """Take the messages that have come since, if any have."""
        assert self._consumer is not None
        most = self._stream.batch_rows
        messages, ends = self._consumer.fetch(most, 0)
        if messages and len(messages) < most:
            more, later = self._consumer.fetch(most - len(messages), _GATHER_SECONDS)
            messages, ends = messages + more, {**ends, **later}
        by_place: dict[Partition, list[Message]] = {}
        for message in messages:
            place = str(message.topic()), int(message.partition() or 0)
            by_place.setdefault(place, []).append(self._stream.parser.message(message))
        for place, found in by_place.items():
            self._following[place] = found[-1].offset + 1
        for place, offset in ends.items():
            self._following[place] = max(self._following[place], offset)
            self._watermarks[place_of(*place)].at_end()
        self._current = self._parse(
            [m for place, found in by_place.items() for m in self._before_stop(place, found)]
        )
        return self._current.read > 0

    def _before_stop(self, place: Partition, messages: list[Message]) -> list[Message]:
        stop = self._stops[place]
        return [m for m in messages if stop is None or m.offset < stop]

    def _parse(self, messages: list[Message]) -> MicroBatch:
        """Parse each partition's messages, and learn from their times."""
        by_source: dict[str, list[Message]] = {}
        for message in messages:
            by_source.setdefault(message.source, []).append(message)
        parts, rejected, times = [], [], []
        for source, found in by_source.items():
            rows, bad, micros = self._parse_partition(found)
            self._watermarks[source].saw(int(micros.max()))
            times.append(int(micros.min()))
            parts += rows
            rejected += bad
        self._time = min(times, default=MIN_TIMESTAMP.micros)
        return MicroBatch(parts, rejected, len(messages))

    def _parse_partition(
        self, messages: list[Message]
    ) -> tuple[list[tuple[pa.RecordBatch, int]], list[Rejected], np.ndarray[Any, Any]]:
        stream = self._stream
        event_time = stream.parser.event_time
        kept, rejected, _ = stream.parser.parse(messages, stream.schema)
        now = round(time.time() * 1e6)
        given = np.array([now if m.event_time is None else m.event_time for m in messages])
        if not kept.num_rows:
            return [], rejected, given
        if event_time is None:
            offsets = np.array([message.offset for message in messages])
            times = given[np.searchsorted(offsets, kept.column(OFFSET).to_numpy())]
        else:
            column = kept.column(event_time).cast(pa.timestamp("us", tz="UTC"))
            times = column.cast(pa.int64()).fill_null(now).to_numpy()
        times = np.clip(times, MIN_TIMESTAMP.micros, MAX_TIMESTAMP.micros)
        return list(split_by_time(kept, times, stream.batch_seconds)), rejected, times

    def get_current(self) -> MicroBatch:
        """Return the micro-batch."""
        return self._current

    def get_current_timestamp(self) -> Timestamp:
        """Return the earliest event time of the micro-batch."""
        return Timestamp(micros=self._time)

    def get_watermark(self) -> Timestamp:
        """Return the least of the partitions' watermarks; the end of time when all ended."""
        waiting = [
            self._watermarks[place_of(*place)].micros()
            for place, stop in self._stops.items()
            if stop is None or self._following[place] < stop
        ]
        if not waiting:
            return MAX_TIMESTAMP
        return Timestamp(micros=max(min(waiting), MIN_TIMESTAMP.micros))

    def get_checkpoint_mark(self) -> KafkaMark:
        """Return the offsets after what was given out."""
        return KafkaMark(
            tuple(sorted(self._following.items())), self._stream.cluster, self._stream.group
        )

    def close(self) -> None:
        """Close the connections."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


class _Watermark:
    """What times a partition's next messages have, at the least: a guess from the last ones."""

    def __init__(self, disorder_seconds: float, idle_seconds: float) -> None:
        self._disorder = round(disorder_seconds * 1e6)
        self._idle = idle_seconds
        self._latest = MIN_TIMESTAMP.micros
        self._ended: float | None = None

    def saw(self, micros: int) -> None:
        """Learn of a message's time; one in the future is as good as now."""
        self._latest = max(self._latest, min(micros, round(time.time() * 1e6)))
        if self._ended is not None:
            self._ended = time.monotonic()

    def at_end(self) -> None:
        """Learn that there are no more messages for now."""
        self._ended = time.monotonic()

    def micros(self) -> int:
        """Return the watermark; it never goes back."""
        if self._ended is not None and time.monotonic() >= self._ended + self._idle:
            self._latest = max(self._latest, round(time.time() * 1e6))
        return int(self._latest - self._disorder)
