"""Write rows, and rejected rows with their reasons, to a topic of Kafka."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.windowed_value import WindowedValue

from skewless.errors import RecipeError, RunError, no_such_column
from skewless.transforms.kafka_client import KafkaCluster, load_client
from skewless.transforms.rows import ORIGIN, Rejected, as_text, data_columns, python_rows

__all__ = ["Record", "WriteKafka", "WriteRejectedToKafka", "dead_letter", "row_records"]


class Record(NamedTuple):
    """A message to be written."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def row_records(
    batch: pa.RecordBatch, key: str | None = None, headers: Sequence[str] = ()
) -> list[Record]:
    """Return rows as messages: JSON objects without what is missing, as `ReadKafka` reads.

    Args:
        batch: The rows; origin columns are left out.
        key: The column whose value, as text, is the key.
        headers: Columns that become headers too, as text; a missing value is none.

    Raises:
        RecipeError: If there is no such column.

    >>> row_records(pa.record_batch({"n": [1, None], "s": ["a", "b"]}), key="s")[1]
    Record(key=b'b', value=b'{"s": "b"}', headers=[])
    """
    for argument, names in (("key", [key] if key else []), ("headers", headers)):
        for name in names:
            if name not in batch.schema.names:
                raise no_such_column(name, data_columns(batch), f"WriteKafka {argument}=")
    records = []
    for row in python_rows(batch):
        given = {name: v for name, v in row.items() if v is not None and name not in ORIGIN}
        records.append(
            Record(
                as_text(given[key]).encode() if key in given else None,
                json.dumps(given, default=as_text).encode(),
                [(name, as_text(given[name]).encode()) for name in headers if name in given],
            )
        )
    return records


def dead_letter(row: Rejected) -> list[Record]:
    """Return a rejected row as a message: the body it had; the fault in headers.

    >>> row = Rejected("Parse", "kafka:t/0", 7, "n", "x", "expected a number", b'{"n": "x"}')
    >>> dict(dead_letter(row)[0].headers)["reason"]
    b'expected a number'
    """
    fields = row._asdict()
    payload = fields.pop("payload")
    texts = [
        (name, str(value).encode("utf-8", "backslashreplace"))
        for name, value in fields.items()
        if value != ""
    ]
    return [Record(None, payload, texts)]


@dataclasses.dataclass(eq=False)
class WriteKafka(beam.PTransform):  # type: ignore[misc]
    """Write rows to a topic, one JSON message each.

    A bundle is done when the brokers have all its messages, in all their copies. Each is
    written once, however often it had to be sent; but a bundle that the runner tries again
    is written again.

    Args:
        topic: The topic.
        bootstrap_servers: Some of the brokers: `host:port`, or several.
        key: The column whose value, as text, is the message's key; rows of one key keep
            their order within a partition.
        headers: Columns whose values become headers too, as text.
        config: Further settings of librdkafka; no secrets.
        secrets: Settings by the environment variables that hold their values, looked up on
            the machine that connects: `{"sasl.password": "KAFKA_PASSWORD"}`.
        timeout_seconds: How long a message may wait for the brokers.

    Returns:
        A PCollection of how many messages were written, bundle by bundle.

    Raises:
        RecipeError: If an argument is wrong, or confluent-kafka is not installed.
        DataError: If the brokers do not answer, or there is no such topic.
    """

    topic: str
    _: dataclasses.KW_ONLY
    bootstrap_servers: str | Sequence[str]
    key: str | None = None
    headers: Sequence[str] = ()
    config: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] | None = None
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        super().__init__()
        if isinstance(self.headers, str):
            raise RecipeError(
                f'WriteKafka(headers="{self.headers}"): expected a list of names; '
                f'write headers=["{self.headers}"]'
            )
        self.headers = tuple(self.headers)
        self._cluster = _cluster(self)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[int]:
        """Write each bundle's rows."""
        _require_topic(self._cluster, self.topic)
        write = _Produce(self._cluster, self.topic, row_records, (self.key, self.headers))
        return batches | "Produce" >> beam.ParDo(write)


@dataclasses.dataclass(eq=False)
class WriteRejectedToKafka(beam.PTransform):  # type: ignore[misc]
    """Write rejected rows to a dead-letter topic.

    A message has the body that was rejected; its headers `step`, `file`, `offset`,
    `column`, `value`, `reason` and `input` say why.

    Args:
        topic: The topic.
        bootstrap_servers: Some of the brokers: `host:port`, or several.
        config: Further settings of librdkafka; no secrets.
        secrets: Settings by the environment variables that hold their values.
        timeout_seconds: How long a message may wait for the brokers.

    Returns:
        A PCollection of how many messages were written, bundle by bundle.

    Raises:
        RecipeError: If an argument is wrong, or confluent-kafka is not installed.
        DataError: If the brokers do not answer, or there is no such topic.
    """

    topic: str
    _: dataclasses.KW_ONLY
    bootstrap_servers: str | Sequence[str]
    config: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] | None = None
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        super().__init__()
        self._cluster = _cluster(self)

    def expand(self, rejected: beam.PCollection[Rejected]) -> beam.PCollection[int]:
        """Write each bundle's rows."""
        _require_topic(self._cluster, self.topic)
        return rejected | "Produce" >> beam.ParDo(_Produce(self._cluster, self.topic, dead_letter))


def _cluster(sink: WriteKafka | WriteRejectedToKafka) -> KafkaCluster:
    name = type(sink).__name__
    if not sink.topic:
        raise RecipeError(f'{name}(topic=""): give the topic')
    where = f'{name}("{sink.topic}")'
    return KafkaCluster.of(
        sink.bootstrap_servers, sink.config, sink.secrets, sink.timeout_seconds, where
    )


def _require_topic(cluster: KafkaCluster, topic: str) -> None:
    with cluster.consumer() as consumer:
        consumer.partitions(topic)


@beam.typehints.with_output_types(int)
class _Produce(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        cluster: KafkaCluster,
        topic: str,
        records: Callable[..., list[Record]],
        arguments: tuple[Any, ...] = (),
    ) -> None:
        self._cluster = cluster
        self._topic = topic
        self._records = records
        self._arguments = arguments

    def setup(self) -> None:
        self._producer, self._complaints = self._cluster.producer()

    def start_bundle(self) -> None:
        self._failed: list[Any] = []
        self._written: dict[BoundedWindow, int] = {}

    def process(self, element: Any, window: BoundedWindow = beam.DoFn.WindowParam) -> None:
        records = self._records(element, *self._arguments)
        for record in records:
            self._produce(record)
        self._producer.poll(0)
        self._written[window] = self._written.get(window, 0) + len(records)

    def _produce(self, record: Record) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    headers=record.headers,  # type: ignore[arg-type]
                    on_delivery=self._delivered,
                )
                return
            except BufferError:
                self._producer.poll(0.1)  # the queue is full: wait for the brokers
                self._raise_failed()
            except load_client().KafkaException as error:
                raise self._error(error.args[0], 1) from None

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(error)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        # Each message is delivered, or fails after the timeout.
        self._producer.flush(self._cluster.timeout + 10)
        self._raise_failed()
        if waiting := len(self._producer):
            raise self._error(self._complaints.last, waiting)
        for window, n in self._written.items():
            yield WindowedValue(n, window.max_timestamp(), (window,))

    def _raise_failed(self) -> None:
        if self._failed:
            raise self._error(self._failed[0], len(self._failed))

    def _error(self, error: Any, messages: int) -> RunError:
        said = error.str() if error is not None else "no answer"
        return RunError(
            f'Kafka at {self._cluster.servers}: {messages} messages were not written to "'
            f'{self._topic}" ({said}{self._complaints}); check the brokers, the topic and what '
            "this user may do"
        )

    def teardown(self) -> None:
        self._producer.purge()
