"""Messages of a stream as micro-batches of typed rows, whichever broker they come from."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from skewless import progress
from skewless.errors import RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.parse import STEP, parse_json_rows
from skewless.transforms.rows import FILE, OFFSET, Count, Outcome, Rejected, Rows
from skewless.transforms.sources.avro_records import record_as_json
from skewless.transforms.sources.source import require_columns

__all__ = [
    "AvroPayload",
    "BatchMessages",
    "JsonPayload",
    "Message",
    "PayloadFormat",
    "parse_messages",
    "payload_format",
    "reject_message",
    "row_times",
    "split_by_time",
]

BATCH_ROWS = 1_000
BATCH_SECONDS = 60.0

_US = pa.timestamp("us", tz="UTC")

Micros = npt.NDArray[np.int64]


class Message(NamedTuple):
    """A message as a broker delivered it.

    Attributes:
        payload: Its body.
        attributes: Its attributes or headers.
        id: What tells it from others, for a person; empty where the offset does.
        event_time: Microseconds since 1970; None where the broker does not say.
        source: The subscription, topic or partition it came from: its rows' `_file`.
        offset: Its place there: its row's `_offset`; -1 where there is none.
    """

    payload: bytes
    attributes: Mapping[str, str] = {}
    id: str = ""
    event_time: int | None = None
    source: str = ""
    offset: int = -1


class PayloadFormat(Protocol):
    """How the bodies of messages are parsed. Picklable."""

    def parse(self, payloads: Sequence[bytes], schema: Schema) -> Outcome:
        """Parse bodies in order; the offset of a row is its position in `payloads`."""

    def check(self, schema: Schema, where: str) -> None:
        """Check that bodies can hold the columns of `schema`.

        Raises:
            RecipeError: If they cannot.
        """


@dataclasses.dataclass(frozen=True)
class JsonPayload:
    """Bodies that hold one JSON object each, by the rules of `ReadJsonLines`."""

    def parse(self, payloads: Sequence[bytes], schema: Schema) -> Outcome:
        """Parse bodies in order; the offset of a row is its position in `payloads`."""
        # A body may be broken over lines; and even an empty one is a message, no blank line.
        lines = [payload.replace(b"\n", b" ").strip() or b"?" for payload in payloads]
        return parse_json_rows(lines, schema)

    def check(self, schema: Schema, where: str) -> None:
        """Check nothing: each body has names of its own."""


@dataclasses.dataclass(frozen=True)
class AvroPayload:
    """Bodies that hold one Avro record each, without the header of a file.

    A long is a time in the schema's unit, or in its own where Avro says that it is one.

    Args:
        text: The Avro schema that they were written with, as JSON.

    Raises:
        RecipeError: If `text` is not the schema of a record.
    """

    text: str

    def __post_init__(self) -> None:
        _avro_schema(self.text)

    def parse(self, payloads: Sequence[bytes], schema: Schema) -> Outcome:
        """Parse bodies in order; the offset of a row is its position in `payloads`."""
        avro, names = _avro_schema(self.text), column_names(schema)
        lines, places, rejected = [], [], []
        for place, payload in enumerate(payloads):
            try:
                lines.append(_avro_as_json(payload, avro, names))
                places.append(place)
            except Exception as error:  # fastavro raises anything, by how bytes are wrong
                reason = f"expected an Avro record ({type(error).__name__}: {error})"
                rejected.append(Rejected(STEP, "", place, "", "", reason, payload))
        outcome = parse_json_rows(lines, schema, "", places)
        return outcome._replace(
            rejected=rejected + outcome.rejected, counts={"read": len(payloads)}
        )

    def check(self, schema: Schema, where: str) -> None:
        """Check that the record has the columns of `schema`.

        Raises:
            RecipeError: If it lacks one.
        """
        fields = [field["name"] for field in _avro_schema(self.text)["fields"]]
        require_columns(column_names(schema), fields, f"{where} avro_schema=")


def payload_format(payload: str, avro_schema: str | None, where: str) -> PayloadFormat:
    """Return the format of the arguments `payload=` and `avro_schema=`.

    Raises:
        RecipeError: If they make no sense.
    """
    if payload not in ("json", "avro"):
        raise RecipeError(f'{where} payload="{payload}": expected "json" or "avro"')
    if (payload == "avro") != (avro_schema is not None):
        raise RecipeError(
            f'{where} payload="{payload}": expected avro_schema= with payload="avro" and '
            "nowhere else; give the writer's schema as JSON text, or leave it out"
        )
    return JsonPayload() if avro_schema is None else AvroPayload(avro_schema)


@functools.lru_cache(maxsize=8)
def _avro_schema(text: str) -> dict[str, Any]:
    import fastavro  # only those who read Avro load it
    import fastavro.schema

    try:
        schema = fastavro.parse_schema(json.loads(text))
    except (ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException) as error:
        raise RecipeError(f"avro_schema=: not an Avro schema in JSON ({error})") from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise RecipeError(
            "avro_schema=: expected the schema of a record, found "
            f"{schema.get('type') if isinstance(schema, dict) else schema}"
        )
    return schema


def _avro_as_json(payload: bytes, avro: dict[str, Any], names: Sequence[str]) -> bytes:
    """Return the columns of an Avro record as a JSON object.

    Raises:
        Exception: If it is none; of a type of fastavro's choosing.
    """
    import fastavro

    body = io.BytesIO(payload)
    record: Any = fastavro.schemaless_reader(body, avro, None)
    if body.tell() != len(payload):
        raise ValueError(f"{len(payload) - body.tell()} bytes too many")
    return record_as_json(record, names)


# --- From messages to rows ------------------------------------------------------------


def parse_messages(
    messages: Sequence[Message],
    schema: Schema,
    payload: PayloadFormat,
    event_time: str | None = None,
) -> Outcome:
    """Parse messages, in order.

    Args:
        messages: The messages.
        schema: The raw columns.
        payload: How their bodies are written.
        event_time: A timestamp column; where a body leaves it out, it is the message's time.

    Returns:
        The rows, each with its message's source and offset as origin, and the messages that
        are no such rows, with their bodies as they came.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("n", pa.int64(), required=False)])
    >>> outcome = parse_messages(
    ...     [Message(b'{"n": 1}', source="topic", offset=7), Message(b"?", id="m", source="topic")],
    ...     schema, JsonPayload())
    >>> outcome.kept.to_pylist(), outcome.rejected[0].file
    ([{'n': 1, '_file': 'topic', '_offset': 7}], 'topic message m')
    """
    return _parse_with_places(messages, schema, payload, event_time)[0]


def _parse_with_places(
    messages: Sequence[Message], schema: Schema, payload: PayloadFormat, event_time: str | None
) -> tuple[Outcome, list[int]]:
    """Parse messages; also return which message each row kept comes from."""
    kept, rejected, counts = payload.parse([message.payload for message in messages], schema)
    places: list[int] = kept.column(OFFSET).to_pylist()
    files = pa.array([messages[i].source for i in places], pa.string()).dictionary_encode()
    kept = _with_column(kept, FILE, files)
    kept = _with_column(kept, OFFSET, pa.array([messages[i].offset for i in places], pa.int64()))
    if event_time is not None:
        times = pa.array([messages[i].event_time for i in places], pa.int64())
        times = times.cast(_US).cast(kept.column(event_time).type, safe=False)
        kept = _with_column(kept, event_time, pc.coalesce(kept.column(event_time), times))
    named = [reject_message(messages[row.offset], row) for row in rejected]
    return Outcome(kept, named, counts), places


def _with_column(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(name), name, column)


def reject_message(message: Message, row: Rejected) -> Rejected:
    """Return `row` with the origin and the body of the message that it was."""
    unplaced = message.offset < 0 and message.id
    file = f"{message.source} message {message.id}" if unplaced else message.source
    return row._replace(file=file, offset=message.offset, payload=message.payload)


def split_by_time(
    batch: pa.RecordBatch, times: Micros, seconds: float
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Split rows so that no part spans a multiple of so many seconds.

    Args:
        batch: The rows.
        times: When each happened, in microseconds since 1970; shape [rows].
        seconds: The length of the intervals, which are aligned to 1970.

    Yields:
        The rows of an interval, in the order they had, and the earliest of their times.

    >>> batch = pa.record_batch({"n": [1, 2, 3]})
    >>> parts = split_by_time(batch, np.array([0, 9_000_000, 1_000_000]), 5)
    >>> [(part["n"].to_pylist(), first) for part, first in parts]
    [([1, 3], 0), ([2], 9000000)]
    """
    slots = times // round(seconds * 1_000_000)
    distinct = np.unique(slots)
    if len(distinct) == 1:
        yield batch, int(times.min())
        return
    for slot in distinct:
        inside = slots == slot
        yield batch.filter(pa.array(inside)), int(times[inside].min())


@dataclasses.dataclass(eq=False)
class BatchMessages(beam.PTransform):  # type: ignore[misc]
    """Parse messages in micro-batches: those of a bundle, in order, at most so many at once.

    A batch is never of two windows, nor of two aligned intervals of `batch_seconds` of
    event time; its timestamp is the earliest of its rows' times. So fixed windows that are
    multiples of `batch_seconds` long, put on the batches later, hold exactly their rows.

    Args:
        schema: The raw columns.
        payload: How the bodies are written.
        event_time: The timestamp column that says when a row happened; where a body leaves
            it out, it is the message's time. By default that is what holds for all rows,
            and the element's timestamp for a message that has none.
        batch_rows: How many messages are parsed at once.
        batch_seconds: The event time that a batch may span.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many messages were read.
    """

    schema: Schema
    payload: PayloadFormat
    event_time: str | None = None
    batch_rows: int = BATCH_ROWS
    batch_seconds: float = BATCH_SECONDS

    def __post_init__(self) -> None:
        super().__init__()
        for argument in ("batch_rows", "batch_seconds"):
            value = getattr(self, argument)
            if value <= 0:
                raise RecipeError(f"{argument}={value}: expected more than 0")

    def expand(self, messages: beam.PCollection[Message]) -> Rows:
        """Buffer and parse."""
        outputs = messages | "ParseMessages" >> beam.ParDo(_BatchMessages(self)).with_outputs(
            "rejected", "counts", main="rows"
        )
        return Rows(outputs.rows, (outputs.rejected,), (outputs.counts,))


class _Waiting(NamedTuple):
    """Messages of one window, and the timestamps of their elements, in microseconds."""

    messages: list[Message]
    times: list[int]


@beam.typehints.with_output_types(pa.RecordBatch)
class _BatchMessages(beam.DoFn):  # type: ignore[misc]
    def __init__(self, options: BatchMessages) -> None:
        # The transform itself holds the pipeline, which cannot be pickled.
        self._schema, self._payload = options.schema, options.payload
        self._event_time = options.event_time
        self._rows, self._seconds = options.batch_rows, options.batch_seconds

    def start_bundle(self) -> None:
        self._waiting: dict[BoundedWindow, _Waiting] = {}

    def process(
        self,
        message: Message,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: BoundedWindow = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        waiting = self._waiting.setdefault(window, _Waiting([], []))
        waiting.messages.append(message)
        waiting.times.append(timestamp.micros)
        if len(waiting.messages) >= self._rows:
            yield from self._flush(window)

    def finish_bundle(self) -> Iterator[Any]:
        for window in list(self._waiting):
            yield from self._flush(window)

    def _flush(self, window: BoundedWindow) -> Iterator[Any]:
        messages, times = self._waiting.pop(window)
        progress.add("rows_read", len(messages))
        (kept, rejected, _), places = _parse_with_places(
            messages, self._schema, self._payload, self._event_time
        )
        given = [_time(messages[i], times[i]) for i in places]
        if kept.num_rows:
            rows = row_times(kept, self._event_time, given)
            for part, first in split_by_time(kept, rows, self._seconds):
                yield _windowed(part, first, window)
        first = min(times)
        for row in rejected:
            yield beam.pvalue.TaggedOutput("rejected", _windowed(row, first, window))
        count = Count("", "Read", "read", len(messages))
        yield beam.pvalue.TaggedOutput("counts", _windowed(count, first, window))


def _windowed(value: Any, micros: int, window: BoundedWindow) -> WindowedValue:
    return WindowedValue(value, Timestamp(micros=micros), (window,))


def _time(message: Message, element: int) -> int:
    return element if message.event_time is None else message.event_time


def row_times(batch: pa.RecordBatch, event_time: str | None, given: Sequence[int]) -> Micros:
    """Return the time of each row: the column's, or where there is none the given one."""
    times = np.asarray(given, np.int64)
    if event_time is not None:
        column = batch.column(event_time).cast(_US).cast(pa.int64())
        known = column.is_valid().to_numpy(zero_copy_only=False)
        times = np.where(known, pc.fill_null(column, 0).to_numpy(zero_copy_only=False), times)
    return np.clip(times, MIN_TIMESTAMP.micros, MAX_TIMESTAMP.micros)
