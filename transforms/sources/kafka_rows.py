"""What a message of Kafka is as a row: its body, its headers, its time, its offset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError
from skewless.schema import Feature, Schema, column_names, drop_columns, find_feature, is_list
from skewless.transforms.cells import Cells, expected, parse_text
from skewless.transforms.kafka_client import place_of
from skewless.transforms.parse import STEP, json_object
from skewless.transforms.rows import FILE, OFFSET, Outcome, Rejected
from skewless.transforms.sources.messages import Message, PayloadFormat, parse_messages

if TYPE_CHECKING:
    import confluent_kafka

__all__ = ["MessageParser"]


@dataclasses.dataclass(frozen=True)
class MessageParser:
    """How messages become rows. Picklable.

    Args:
        payload: How their bodies are written.
        event_time: A timestamp column; where a message leaves it out, it is Kafka's time.
        header_columns: Columns with the headers that hold them.
    """

    payload: PayloadFormat
    event_time: str | None = None
    header_columns: tuple[tuple[str, str], ...] = ()

    def check(self, schema: Schema, where: str) -> None:
        """Check that bodies and headers can hold the columns of `schema`.

        Raises:
            RecipeError: If they cannot.
        """
        for column, _ in self.header_columns:
            feature = find_feature(schema, column)
            if feature is not None and is_list(feature):
                raise RecipeError(
                    f'{where} header_columns={{"{column}": ...}}: the column is a list, and a '
                    "header holds one value"
                )
        body = self._body(schema)
        if not body.feature:
            raise RecipeError(f"{where} header_columns=: expected a column of the body too")
        self.payload.check(body, where)

    def message(self, message: confluent_kafka.Message) -> Message:
        """Return a message of the client as one of any broker."""
        kind, millis = message.timestamp()
        headers: Any = (message.headers() or ()) if self.header_columns else ()
        return Message(
            payload=message.value() or b"",
            attributes={
                name: value.decode("utf-8", "backslashreplace")
                for name, value in headers
                if isinstance(value, bytes)
            },
            event_time=millis * 1000 if kind else None,
            source=place_of(message.topic() or "", message.partition() or 0),
            offset=message.offset() or 0,
        )

    def parse(self, messages: Sequence[Message], schema: Schema) -> Outcome:
        """Parse messages in order.

        A header is text, by the rules of cells of CSV. The payload of a rejected row has
        its headers' columns too, where it is a JSON object.
        """
        if not self.header_columns:
            return parse_messages(messages, schema, self.payload, self.event_time)
        body = self._body(schema)
        in_body = self.event_time if self.event_time in column_names(body) else None
        kept, rejected, counts = parse_messages(messages, body, self.payload, in_body)
        by_place = {(message.source, message.offset): message for message in messages}
        places = zip(kept.column(FILE).to_pylist(), kept.column(OFFSET).to_pylist(), strict=True)
        found = [by_place[place] for place in places]
        names = [f.name for f in schema.feature]
        headers = {column: name for column, name in self.header_columns if column in names}
        features = {column: schema.feature[names.index(column)] for column in headers}
        cells = {c: self._column(found, features[c], header) for c, header in headers.items()}
        columns = [cells[n].values if n in cells else kept.column(n) for n in names]
        columns += [kept.column(FILE), kept.column(OFFSET)]
        batch = pa.RecordBatch.from_arrays(columns, names=[*names, FILE, OFFSET])
        bad = np.zeros(batch.num_rows, np.bool_)
        for column, header in headers.items():
            for i in np.flatnonzero(cells[column].bad & ~bad).tolist():
                message, reason = found[i], expected(features[column])
                where = (STEP, message.source, message.offset, column)
                rejected.append(Rejected(*where, message.attributes[header], reason, b""))
            bad |= cells[column].bad
        rejected = [
            row._replace(payload=_with_headers(by_place[row.file, row.offset], features, headers))
            for row in rejected
        ]
        return Outcome(batch.filter(pa.array(~bad)) if bad.any() else batch, rejected, counts)

    def _body(self, schema: Schema) -> Schema:
        return drop_columns(schema, {column for column, _ in self.header_columns})

    def _column(self, messages: Sequence[Message], feature: Feature, header: str) -> Cells:
        texts = pa.array([message.attributes.get(header) for message in messages], pa.string())
        values, bad = parse_text(texts, feature, [""])
        if feature.name == self.event_time:
            times = pa.array([message.event_time for message in messages], pa.int64())
            times = times.cast(pa.timestamp("us", tz="UTC")).cast(values.type, safe=False)
            values = pc.coalesce(values, times)
        return Cells(values, bad)


def _with_headers(message: Message, features: dict[str, Feature], headers: dict[str, str]) -> bytes:
    """Return a body with its headers' columns, so that a repaired row has them all."""
    try:
        row = json_object(message.payload)
    except ValueError:
        return message.payload
    for column, header in headers.items():
        if header in message.attributes:
            row[column] = _json_value(message.attributes[header], features[column])
    return json.dumps(row).encode()


def _json_value(text: str, feature: Feature) -> int | float | str:
    try:
        if feature.type == schema_pb2.INT and not feature.HasField("time_domain"):
            return int(text)
        if feature.type == schema_pb2.FLOAT:
            return float(text)
    except ValueError:
        pass
    return text
