"""Kafka's topics as batches of typed rows: replayed between two positions, or as a stream."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.kafka_client import KafkaCluster
from skewless.transforms.rows import Rows
from skewless.transforms.sources.kafka_positions import (
    KafkaPiece,
    Position,
    cut,
    parse_position,
    resolve_ranges,
)
from skewless.transforms.sources.kafka_replay import ReplayReader
from skewless.transforms.sources.kafka_rows import MessageParser
from skewless.transforms.sources.kafka_stream import FollowKafka, KafkaStream
from skewless.transforms.sources.messages import payload_format
from skewless.transforms.sources.source import BatchSource

__all__ = ["ReadKafka"]

_START_WORDS = ("earliest", "latest", "committed")
_STOP_WORDS = ("latest",)


class _Pinned:
    """The offsets that the manifest names: what is read must be these and no others."""

    def __init__(self) -> None:
        self.pieces: list[KafkaPiece] | None = None

    def __repr__(self) -> str:
        return ""  # it is no part of a recipe's definition


@dataclasses.dataclass(eq=False)
class ReadKafka(BatchSource):
    """Read topics of Kafka: with `stop`, a batch of what lies before it; else a stream.

    A row's origin is exact: `_file` is `kafka:topic/partition`, `_offset` the offset. A
    payload that does not parse is a rejected row, and so is a tombstone. Partitions are
    those that there are when the pipeline is built.

    A stream's rows come in micro-batches, in the order of their partition, none of which
    spans two aligned intervals of `batch_seconds` of event time. Offsets are committed to
    the group when the runner has committed the rows; after a failure rows may come again,
    and never get lost: deduplicate by `_file` and `_offset`. A replay commits nothing.

    Args:
        topics: The topic, or several.
        bootstrap_servers: Some of the brokers: `host:port`, or several.
        group: The consumer group, for `start="committed"` and to commit offsets.
        start: `earliest`, `latest`, `committed` (earliest, for a group that has committed
            nothing), a time (the first message of that time or later), or offsets
            `{partition: offset}`, for several topics `{topic: {partition: offset}}`;
            partitions that these do not name are not read.
        stop: Where to stop before: `latest`, a time or offsets; by default never.
        payload: How the messages are written: `json` or `avro`.
        avro_schema: The Avro schema of the messages, as JSON text.
        header_columns: Columns with the headers that hold them, as text: `{"trace":
            "trace-id"}`.
        config: Further settings of librdkafka; no secrets.
        secrets: Settings by the environment variables that hold their values, looked up on
            the machine that connects: `{"sasl.password": "KAFKA_PASSWORD"}`.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened; where a message
            leaves it out, and for a stream without it, it is Kafka's timestamp.
        name: What the ledger calls this input; by default the first topic.
        timeout_seconds: How long brokers may be silent before that is an error; a stream
            that runs waits for them as long as it takes.
        piece_messages: How many offsets one worker of a replay reads at once.
        batch_rows: The most messages of a batch.
        batch_seconds: The event time that a batch of a stream may span.
        disorder_seconds: How much later than a newer message of its partition a message of
            a stream may come without being late.
        idle_seconds: After so long without messages a partition read to its end no longer
            holds the watermark back, which then follows the clock.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong, or confluent-kafka is not installed.
        DataError: If the brokers do not answer, or a topic or offset is not there.
    """

    topics: str | Sequence[str]
    _: dataclasses.KW_ONLY
    bootstrap_servers: str | Sequence[str]
    group: str | None = None
    start: Position = "earliest"
    stop: Position | None = None
    payload: str = "json"
    avro_schema: str | None = None
    header_columns: Mapping[str, str] | None = None
    config: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] | None = None
    timeout_seconds: float = 30.0
    piece_messages: int = 500_000
    batch_rows: int = 10_000
    batch_seconds: float = 60.0
    disorder_seconds: float = 10.0
    idle_seconds: float = 60.0
    _pinned: _Pinned = dataclasses.field(default_factory=_Pinned, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.topic_names: tuple[str, ...] = (
            (self.topics,) if isinstance(self.topics, str) else tuple(self.topics)
        )
        if not self.topic_names or not all(self.topic_names):
            raise RecipeError("ReadKafka: give at least one topic")
        if len(set(self.topic_names)) < len(self.topic_names):
            raise RecipeError(f"{self.where}: a topic is named twice; name each once")
        for argument in ("piece_messages", "batch_rows", "batch_seconds"):
            if getattr(self, argument) <= 0:
                raise RecipeError(
                    f"{self.where} {argument}={getattr(self, argument)}: expected more than 0"
                )
        for argument in ("disorder_seconds", "idle_seconds"):
            if getattr(self, argument) < 0:
                raise RecipeError(
                    f"{self.where} {argument}={getattr(self, argument)}: expected at least 0"
                )
        if self.start == "committed" and self.group is None:
            raise RecipeError(f'{self.where} start="committed": give group=, which committed')
        self._start = parse_position(
            self.start, _START_WORDS, self.topic_names, f"{self.where} start="
        )
        self._stop = (
            None
            if self.stop is None
            else parse_position(self.stop, _STOP_WORDS, self.topic_names, f"{self.where} stop=")
        )
        self._parser = MessageParser(
            payload_format(self.payload, self.avro_schema, self.where),
            self.event_time,
            tuple((self.header_columns or {}).items()),
        )
        self._cluster = KafkaCluster.of(
            self.bootstrap_servers, self.config, self.secrets, self.timeout_seconds, self.where
        )

    @property
    def input_name(self) -> str:
        """The input's name in the ledger."""
        return self.name or self.topic_names[0]

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages: `ReadKafka("flights")`."""
        return f'{type(self).__name__}("{self.topic_names[0]}")'

    def reader(self) -> ReplayReader:
        """Return how the pieces are read."""
        return ReplayReader(self._cluster, self._parser, self.batch_rows)

    def available_columns(self) -> tuple[str, ...]:
        """Return the columns of Avro and its headers; none for JSON: each message has its own."""
        if self.avro_schema is None:
            return ()
        fields = [field["name"] for field in json.loads(self.avro_schema)["fields"]]
        return (*fields, *(self.header_columns or {}))

    def check_columns(self, schema: Schema) -> None:
        """Check that messages can hold the columns of `schema`."""
        self._parser.check(schema, self.where)

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[KafkaPiece]:  # noqa: ARG002
        """Return the pieces: the offsets that `fingerprint` named, if it was asked.

        Raises:
            RecipeError: If there is no `stop`.
            DataError: If the brokers do not answer, or a topic or offset is not there.
        """
        ranges = self._pinned.pieces
        if ranges is None:
            ranges = self._ranges_with_end()[0]
        pieces = [piece for one in ranges for piece in cut(one, self.piece_messages)]
        return (
            pbegin | "Pieces" >> beam.Create(pieces, reshuffle=False) | "Spread" >> beam.Reshuffle()
        )

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return the cluster and the offsets of each partition, and read these from now on."""
        ranges, cluster = self._ranges_with_end()
        self._pinned.pieces = ranges
        return [
            {"path": piece.place, "cluster": cluster, "start": piece.start, "stop": piece.stop}
            for piece in ranges
        ]

    def _ranges_with_end(self) -> tuple[list[KafkaPiece], str]:
        if self._stop is None:
            raise RecipeError(
                f'{self.where}: has no end, and this reads a batch; give stop="latest", a time '
                "or offsets"
            )
        return self._ranges()

    def _ranges(self) -> tuple[list[KafkaPiece], str]:
        with self._cluster.consumer(self.group) as consumer:
            ranges = resolve_ranges(consumer, self.topic_names, self._start, self._stop, self.where)
            return ranges, consumer.cluster_id()

    def stream(self) -> KafkaStream:
        """Return the partitions to follow, from where they start.

        Raises:
            RecipeError: If there is no schema, or a column that does not exist.
            DataError: If the brokers do not answer, or a topic or offset is not there.
        """
        schema = self.raw_schema()
        self.check_columns(schema)
        return KafkaStream(
            tuple(self._ranges()[0]),
            self._cluster,
            self.group,
            schema,
            self._parser,
            self.batch_rows,
            self.batch_seconds,
            self.disorder_seconds,
            self.idle_seconds,
        )

    def expand(self, pbegin: Any) -> Rows:
        """Replay what lies before `stop`; without one, follow the topics."""
        if self._stop is not None:
            return super().expand(pbegin)
        return pbegin | "Follow" >> FollowKafka(self.stream())  # type: ignore[no-any-return]
