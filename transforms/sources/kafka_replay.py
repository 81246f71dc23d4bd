"""Offsets of Kafka's partitions read to their end, as any batch source is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema
from skewless.transforms.kafka_client import KafkaCluster
from skewless.transforms.parse import replay_json
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.json_lines import untyped_json
from skewless.transforms.sources.kafka_positions import KafkaPiece
from skewless.transforms.sources.kafka_rows import MessageParser
from skewless.transforms.sources.messages import JsonPayload, Message

__all__ = ["ReplayReader"]


@dataclasses.dataclass(frozen=True)
class ReplayReader:
    """How offsets of a partition are read and parsed."""

    cluster: KafkaCluster
    parser: MessageParser
    batch_rows: int

    def read(self, piece: KafkaPiece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, batch by batch.

        Raises:
            DataError: If they cannot be read, or the brokers fall silent.
        """
        for messages in self._messages(piece):
            yield self.parser.parse(messages, schema)

    def untyped(self, piece: KafkaPiece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the types of JSON.

        Raises:
            RecipeError: If the messages are Avro, or columns come from headers.
        """
        if not isinstance(self.parser.payload, JsonPayload) or self.parser.header_columns:
            raise RecipeError(
                f"{piece.place}: types are found out from bodies of JSON only, and this has Avro "
                "or header_columns=; give schema="
            )
        for messages in self._messages(piece):
            yield untyped_json([message.payload for message in messages])

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads: JSON objects, in the place of Avro too."""
        return replay_json(rejected, schema)

    def _messages(self, piece: KafkaPiece) -> Iterator[list[Message]]:
        """Yield all messages of a piece: offsets may have holes, so only a later one ends it."""
        stop = piece.stop or 0
        with self.cluster.consumer() as consumer:
            consumer.assign({(piece.topic, piece.partition): piece.start})
            position, heard = piece.start, time.monotonic()
            while position < stop:
                most = min(self.batch_rows, stop - position)
                messages, ends = consumer.fetch(most, 1.0)
                wanted = [self.parser.message(message) for message in messages]
                if wanted:
                    position, heard = wanted[-1].offset + 1, time.monotonic()
                position = max([position, *ends.values()])
                wanted = [message for message in wanted if message.offset < stop]
                if wanted:
                    yield wanted
                    heard = time.monotonic()  # the pipeline's time is not the brokers'
                elif time.monotonic() > heard + self.cluster.timeout:
                    raise DataError(
                        f"{piece.place}: no message in {self.cluster.timeout:g} s, at offset "
                        f"{position} of {stop}{consumer.complaint}; check that the brokers run"
                    )
