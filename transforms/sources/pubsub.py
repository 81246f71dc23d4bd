"""Google Cloud Pub/Sub as a stream of micro-batches of typed rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BooleanCoder
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub
from apache_beam.io.unbounded_source import ReadFromUnboundedSource
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    ReadModifyWriteStateSpec,
    RuntimeState,
    RuntimeTimer,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from skewless.errors import RecipeError
from skewless.transforms.parse import STEP
from skewless.transforms.pubsub_client import check_name, require
from skewless.transforms.rows import Count, Rejected, Rows
from skewless.transforms.sources.messages import (
    BATCH_ROWS,
    BATCH_SECONDS,
    BatchMessages,
    Message,
    payload_format,
    reject_message,
)
from skewless.transforms.sources.pubsub_reader import Subscription, make_message, micros
from skewless.transforms.sources.source import Source

__all__ = ["ReadPubSub"]

# How often our own reader looks for messages, and how long it gathers them at most.
_POLL_SECONDS = 0.5
_GATHER_SECONDS = 1.0
_GATHER_MESSAGES = 10_000

# As long as Dataflow remembers ids.
_REMEMBER_SECONDS = 600.0

_EXPECTED_TIME = "expected milliseconds since 1970 or an RFC 3339 time, in an attribute"


@dataclasses.dataclass(eq=False)
class ReadPubSub(Source):
    """Read the messages of a Pub/Sub subscription, one row each, in micro-batches.

    A row's origin is the subscription and the message's id. Event time is the event time
    column's, or `timestamp_attribute`'s, or the time of publishing. Messages that do not
    parse are rejected with their bodies; `WriteRejectedToPubSub` publishes them.

    On Dataflow and Beam's local DirectRunner, Beam's own `ReadFromPubSub` receives. On all
    other runners, and wherever `stop_when_idle` is given, a native reader does, which
    acknowledges a message after the bundle that it was in is committed.

    Args:
        subscription: `projects/<project>/subscriptions/<subscription>`.
        topic: `projects/<project>/topics/<topic>` instead: what is published from now on
            (Dataflow and the DirectRunner only).
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the subscription or topic.
        timestamp_attribute: The attribute that holds the event time, in milliseconds since
            1970 or as RFC 3339; it also fills the event time column where a body has none.
            A message without it is rejected.
        id_attribute: The attribute by which messages are the same: only the first of ten
            minutes is kept. A message without it goes by its Pub/Sub id.
        payload: How bodies are written: `json` or `avro`.
        avro_schema: The Avro schema, as JSON text, that bodies were written with.
        batch_rows: How many messages are parsed at once.
        batch_seconds: How much event time a batch may span: see `BatchMessages`.
        stop_when_idle: End the read when there was no message for so many seconds, so that
            a backlog can be read like a file; by default it never ends.
        readers: How many workers the native reader may use at once.
        lease_seconds: How long the native reader has to read, process and commit a bundle;
            what is not acknowledged by then comes again. From 10 to 600.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and counts of messages.

    Raises:
        RecipeError: If an argument is wrong.
        DataError: If the subscription does not exist or cannot be reached.
    """

    subscription: str | None = None
    _: dataclasses.KW_ONLY
    topic: str | None = None
    timestamp_attribute: str | None = None
    id_attribute: str | None = None
    payload: str = "json"
    avro_schema: str | None = None
    batch_rows: int = BATCH_ROWS
    batch_seconds: float = BATCH_SECONDS
    stop_when_idle: float | None = None
    readers: int = 1
    lease_seconds: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.subscription is None) == (self.topic is None):
            raise RecipeError("ReadPubSub: give either subscription= or topic=")
        if self.subscription is not None:
            check_name("subscription", self.subscription, "ReadPubSub")
        if self.topic is not None:
            check_name("topic", self.topic, "ReadPubSub")
        for argument in ("batch_rows", "batch_seconds", "stop_when_idle", "readers"):
            value = getattr(self, argument)
            if value is not None and value <= 0:
                raise RecipeError(f"{self.where} {argument}={value}: expected more than 0")
        if not 10 <= self.lease_seconds <= 600:
            raise RecipeError(
                f"{self.where} lease_seconds={self.lease_seconds}: expected from 10 to 600"
            )
        self._format = payload_format(self.payload, self.avro_schema, self.where)

    @property
    def _address(self) -> str:
        return self.subscription or self.topic or ""

    @property
    def input_name(self) -> str:
        """The input's name in the ledger, e.g. `flights` for `projects/p/topics/flights`."""
        return self.name or self._address.rpartition("/")[2]

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages."""
        written = f'topic="{self.topic}"' if self.topic else f'"{self.subscription}"'
        return f"ReadPubSub({written})"

    def expand(self, pbegin: Any) -> Rows:
        """Receive, drop repeated messages, check their times, parse them in batches."""
        schema = self.raw_schema()
        self._format.check(schema, self.where)
        runner = type(pbegin.pipeline.runner).__name__
        on_service = "Dataflow" in runner
        native = self.stop_when_idle is not None or not (on_service or "Direct" in runner)
        if native and self.topic is not None:
            raise RecipeError(
                f"{self.where}: a topic can be read with Dataflow and the DirectRunner only, "
                "without stop_when_idle=; create a subscription and give subscription="
            )
        require("topic" if self.topic else "subscription", self._address, self.where)
        messages = self._receive_native(pbegin) if native else self._receive(pbegin, on_service)
        before: list[Rows] = []
        ends = self.stop_when_idle is not None
        if self.id_attribute is not None and not on_service:
            keyed = messages | "KeyById" >> beam.Map(_with_id, self.id_attribute).with_output_types(
                tuple[str, Any]
            )
            before.append(_outputs(keyed | "DropRepeated" >> _tagged(_DropRepeated(ends=ends))))
            messages = before[-1].rows
        if self.timestamp_attribute is not None:
            check = _CheckTimes(self.timestamp_attribute)
            before.append(_outputs(messages | "CheckTimes" >> _tagged(check)))
            messages = before[-1].rows
        parsed = messages | "Batch" >> BatchMessages(
            schema, self._format, self.event_time, self.batch_rows, self.batch_seconds
        )
        parts = [*before, parsed]
        return Rows(
            parsed.rows,
            tuple(rejected for part in parts for rejected in part.rejected),
            tuple(counts for part in parts for counts in part.counts),
        )

    def _receive_native(self, pbegin: Any) -> beam.PCollection[Message]:
        assert self.subscription is not None
        source = Subscription(
            self.subscription,
            self.timestamp_attribute,
            self.stop_when_idle,
            self.readers,
            self.lease_seconds,
        )
        return pbegin | "Receive" >> ReadFromUnboundedSource(
            source,
            poll_interval=_POLL_SECONDS,
            max_records_per_bundle=_GATHER_MESSAGES,
            max_read_time_seconds=_GATHER_SECONDS,
        )

    def _receive(self, pbegin: Any, on_service: bool) -> beam.PCollection[Message]:
        # The service deduplicates by the id and makes the watermark of the timestamps. The
        # DirectRunner can do neither, and a timestamp that is none would end the pipeline.
        labels = {
            "id_label": self.id_attribute,
            "timestamp_attribute": self.timestamp_attribute,
        }
        return (
            pbegin
            | "Receive"
            >> ReadFromPubSub(
                topic=self.topic,
                subscription=self.subscription,
                with_attributes=True,
                **(labels if on_service else {}),
            )
            | "TakeMessages" >> beam.ParDo(_TakeMessages(self._address, self.timestamp_attribute))
        )


def _tagged(dofn: beam.DoFn) -> beam.PTransform:
    return beam.ParDo(dofn).with_outputs("rejected", "counts", main="messages")


def _outputs(outputs: Any) -> Rows:
    return Rows(outputs.messages, (outputs.rejected,), (outputs.counts,))


class _TakeMessages(beam.DoFn):  # type: ignore[misc]
    """Beam's messages as ours, at their event time where an attribute says it."""

    def __init__(self, source: str, timestamp_attribute: str | None) -> None:
        self._source = source
        self._timestamp_attribute = timestamp_attribute

    def process(self, message: PubsubMessage) -> Iterator[Any]:
        taken = make_message(
            message.data or b"",
            message.attributes or {},
            message.message_id or "",
            self._source,
            self._timestamp_attribute,
        )
        if taken.event_time is not None:
            yield TimestampedValue(taken, Timestamp(micros=taken.event_time))
        elif message.publish_time is not None:
            yield TimestampedValue(taken, Timestamp(micros=micros(message.publish_time)))
        else:
            yield taken


def _with_id(message: Message, attribute: str) -> tuple[str, Message]:
    found = message.attributes.get(attribute)
    # The first character keeps the ids of senders and of Pub/Sub apart.
    return (f"#{message.id}" if found is None else f"={found}"), message


class _DropRepeated(beam.DoFn):  # type: ignore[misc]
    """Keep the first message of an id, until it is forgotten.

    A read that ends forgets none: at its end the watermark is past every timer, and on Beam's
    in-process runner there may be messages yet that are of an earlier time.
    """

    SEEN = ReadModifyWriteStateSpec("seen", BooleanCoder())
    FORGET = TimerSpec("forget", TimeDomain.WATERMARK)

    def __init__(self, ends: bool) -> None:
        self._ends = ends

    def process(
        self,
        keyed: tuple[str, Message],
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        seen: RuntimeState = beam.DoFn.StateParam(SEEN),  # noqa: B008
        forget: RuntimeTimer = beam.DoFn.TimerParam(FORGET),  # noqa: B008
    ) -> Iterator[Any]:
        if seen.read():
            yield beam.pvalue.TaggedOutput("counts", Count("", "Read", "read", 1))
            yield beam.pvalue.TaggedOutput("counts", Count("", "Read", "duplicate", 1))
            return
        seen.write(True)
        # The watermark may be far behind the clock, or far past the times of old events.
        if not self._ends:
            forget.set(max(timestamp, Timestamp(time.time())) + _REMEMBER_SECONDS)
        yield keyed[1]

    @on_timer(FORGET)  # type: ignore[untyped-decorator]
    def forget(self, seen: RuntimeState = beam.DoFn.StateParam(SEEN)) -> None:  # noqa: B008
        seen.clear()


class _CheckTimes(beam.DoFn):  # type: ignore[misc]
    """Reject the messages whose attribute is no time."""

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute

    def process(self, message: Message) -> Iterator[Any]:
        if message.event_time is not None:
            yield message
            return
        text = message.attributes.get(self._attribute, "")
        row = Rejected(STEP, "", -1, self._attribute, text, _EXPECTED_TIME, b"")
        yield beam.pvalue.TaggedOutput("rejected", reject_message(message, row))
        yield beam.pvalue.TaggedOutput("counts", Count("", "Read", "read", 1))
