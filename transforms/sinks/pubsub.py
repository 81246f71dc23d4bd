"""Publish rows, and rejected rows with their reasons, to Google Cloud Pub/Sub."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.windowed_value import WindowedValue

from skewless.errors import RecipeError, no_such_column
from skewless.transforms.pubsub_client import check_name, failure, publisher, require
from skewless.transforms.rows import ORIGIN, Rejected, as_text, data_columns, python_rows

__all__ = ["Outgoing", "WritePubSub", "WriteRejectedToPubSub", "dead_letter", "row_messages"]

# Pub/Sub's limit for the value of an attribute, in bytes.
_ATTRIBUTE_BYTES = 1024
_PUBLISH_SECONDS = 300.0
_AT_ONCE = 1_000

# The client takes attributes as arguments, among these of its own.
_NO_ATTRIBUTES = ("data", "ordering_key", "retry", "self", "timeout", "topic")


class Outgoing(NamedTuple):
    """A message to be published: its body and attributes."""

    payload: bytes
    attributes: dict[str, str]


def row_messages(batch: pa.RecordBatch, attributes: Sequence[str] = ()) -> list[Outgoing]:
    """Return rows as messages: JSON objects without what is missing, as `ReadPubSub` reads.

    Args:
        batch: The rows; origin columns are left out.
        attributes: Columns that become attributes too, as text; a missing value is none.

    Raises:
        RecipeError: If there is no such column.

    >>> row_messages(pa.record_batch({"n": [1, None], "s": ["a", "b"]}), ["s"])[1]
    Outgoing(payload=b'{"s": "b"}', attributes={'s': 'b'})
    """
    for name in attributes:
        if name not in batch.schema.names:
            raise no_such_column(name, data_columns(batch), "WritePubSub attributes=")
    messages = []
    for row in python_rows(batch):
        given = {name: v for name, v in row.items() if v is not None and name not in ORIGIN}
        texts = {name: _clip(as_text(given[name])) for name in attributes if name in given}
        messages.append(Outgoing(json.dumps(given, default=as_text).encode(), texts))
    return messages


def dead_letter(row: Rejected) -> Outgoing:
    """Return a rejected row as a message: the body it had; the fault in attributes.

    >>> row = Rejected("Parse", "topic", 7, "n", "x", "expected a number", b'{"n": "x"}')
    >>> dead_letter(row).attributes["reason"]
    'expected a number'
    """
    fields = row._asdict()
    payload = fields.pop("payload")
    texts = {name: _clip(str(value)) for name, value in fields.items() if value != ""}
    return Outgoing(payload, texts)


def _clip(text: str) -> str:
    raw = text.encode("utf-8", "backslashreplace")
    return raw[:_ATTRIBUTE_BYTES].decode("utf-8", "ignore")


@dataclasses.dataclass(eq=False)
class WritePubSub(beam.PTransform):  # type: ignore[misc]
    """Publish rows to a topic, one JSON message each.

    A bundle is done when Pub/Sub has all its messages; one that is tried again publishes
    them again.

    Args:
        topic: `projects/<project>/topics/<topic>`.
        attributes: Columns whose values become attributes too, e.g. the one that is the
            `id_attribute` or `timestamp_attribute` of who reads.

    Returns:
        A PCollection of how many messages were published, bundle by bundle.

    Raises:
        RecipeError: If an argument is wrong.
        DataError: If the topic does not exist or cannot be reached.
    """

    topic: str
    attributes: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__init__()
        check_name("topic", self.topic, "WritePubSub")
        if isinstance(self.attributes, str):
            raise RecipeError(
                f'WritePubSub(attributes="{self.attributes}"): expected a list of names; '
                f'write attributes=["{self.attributes}"]'
            )
        self.attributes = tuple(self.attributes)
        for name in self.attributes:
            if name in _NO_ATTRIBUTES:
                raise RecipeError(
                    f'WritePubSub attributes="{name}": the client cannot send an attribute of '
                    "this name; rename the column"
                )

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[int]:
        """Publish each bundle's rows."""
        require("topic", self.topic, f'WritePubSub("{self.topic}")')
        publish = _Publish(self.topic, row_messages, self.attributes)
        return batches | "Publish" >> beam.ParDo(publish)


@dataclasses.dataclass(eq=False)
class WriteRejectedToPubSub(beam.PTransform):  # type: ignore[misc]
    """Publish rejected rows to a dead-letter topic.

    A message has the body that was rejected; its attributes `step`, `file`, `offset`,
    `column`, `value`, `reason` and `input` say why, each cut after 1,024 bytes.

    Args:
        topic: `projects/<project>/topics/<topic>`.

    Returns:
        A PCollection of how many messages were published, bundle by bundle.

    Raises:
        RecipeError: If `topic` is not the name of one.
        DataError: If the topic does not exist or cannot be reached.
    """

    topic: str

    def __post_init__(self) -> None:
        super().__init__()
        check_name("topic", self.topic, "WriteRejectedToPubSub")

    def expand(self, rejected: beam.PCollection[Rejected]) -> beam.PCollection[int]:
        """Publish each bundle's rows."""
        require("topic", self.topic, f'WriteRejectedToPubSub("{self.topic}")')
        return rejected | "Publish" >> beam.ParDo(_Publish(self.topic, _dead_letters))


def _dead_letters(row: Rejected) -> list[Outgoing]:
    return [dead_letter(row)]


@beam.typehints.with_output_types(int)
class _Publish(beam.DoFn):  # type: ignore[misc]
    """Publish; a bundle ends when all of it has arrived."""

    def __init__(self, topic: str, messages: Callable[..., list[Outgoing]], *options: Any) -> None:
        self._topic = topic
        self._messages = messages
        self._options = options

    def start_bundle(self) -> None:
        self._sent: list[Any] = []
        self._published: dict[BoundedWindow, int] = {}

    def process(self, element: Any, window: BoundedWindow = beam.DoFn.WindowParam) -> None:
        with self._named_errors():
            client = publisher()
        messages = self._messages(element, *self._options)
        for payload, attributes in messages:
            with self._named_errors():
                self._sent.append(client.publish(self._topic, payload, **attributes))
            if len(self._sent) >= _AT_ONCE:
                self._wait()
        self._published[window] = self._published.get(window, 0) + len(messages)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._wait()
        for window, n in self._published.items():
            yield WindowedValue(n, window.max_timestamp(), (window,))

    def _wait(self) -> None:
        for sent in self._sent:
            with self._named_errors():
                sent.result(timeout=_PUBLISH_SECONDS)
        self._sent.clear()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the client's choosing
            raise failure(error, "topic", self._topic) from error
