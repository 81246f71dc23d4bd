from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import fastavro
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import FILE, OFFSET, Count, Rejected
from skewless.transforms.sources.messages import (
    AvroPayload,
    BatchMessages,
    JsonPayload,
    Message,
    parse_messages,
    payload_format,
    split_by_time,
)

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("x", pa.float32(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("us", tz="UTC"), required=False),
    ]
)

AVRO = json.dumps(
    {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "other", "type": "string"},
            {"name": "n", "type": ["null", "long"]},
            {"name": "x", "type": ["null", "double", "float"]},
            {"name": "s", "type": ["null", "string", "bytes"]},
            {"name": "t", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        ],
    }
)


def avro(**row: Any) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(AVRO)), {"other": "", **row})
    return body.getvalue()


def test_rows_keep_their_order_and_origin() -> None:
    messages = [
        Message(b'{"n": 1}', source="a", offset=5),
        Message(b'{"n": "x"}', {"k": "v"}, "m1", None, "b"),
        Message(b'{"n":\n 2}', source="b", offset=6),
        Message(b" ", source="a", offset=7),
        Message(b"\xff", id="m2", source="a", offset=8),
    ]
    kept, rejected, counts = parse_messages(messages, SCHEMA, JsonPayload())
    assert kept["n"].to_pylist() == [1, 2]
    assert kept[FILE].to_pylist() == ["a", "b"]
    assert kept[OFFSET].to_pylist() == [5, 6]
    assert counts == {"read": 5}
    assert {(*row[1:6], row.payload) for row in rejected if row.column} == {
        ("b message m1", -1, "n", "x", "expected a whole number (int64)", b'{"n": "x"}')
    }
    whole = [row for row in rejected if not row.column]
    assert [(row.file, row.offset, row.payload) for row in whole] == [
        ("a", 7, b" "),
        ("a", 8, b"\xff"),
    ]
    assert all(row.reason.startswith("expected a JSON object") for row in whole)


def test_a_body_without_event_time_takes_its_messages() -> None:
    messages = [
        Message(b'{"t": "1970-01-01T00:00:09Z"}', event_time=1),
        Message(b"{}", event_time=2_500_000),
        Message(b"{}"),
    ]
    for unit, expected in (("us", [9_000_000, 2_500_000, None]), ("s", [9, 2, None])):
        schema = make_schema([make_feature("t", pa.timestamp(unit, tz="UTC"), required=False)])
        kept = parse_messages(messages, schema, JsonPayload(), "t").kept
        assert kept["t"].cast(pa.int64()).to_pylist() == expected
        assert kept.schema.field("t").type == pa.timestamp(unit, tz="UTC")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
rows = st.dictionaries(st.sampled_from(["n", "x", "s", "t", "u"]), json_values)
bodies = st.binary() | st.text().map(str.encode) | rows.map(json.dumps).map(str.encode)


def check_every_message(payload: Any, payloads: Sequence[bytes]) -> None:
    messages = [Message(body, source="s", offset=i) for i, body in enumerate(payloads)]
    kept, rejected, counts = parse_messages(messages, SCHEMA, payload, "t")
    kept.validate(full=True)
    offsets = kept[OFFSET].to_pylist()
    assert offsets == sorted(offsets)
    assert sorted(offsets + [row.offset for row in rejected]) == list(range(len(payloads)))
    assert counts == {"read": len(payloads)}
    assert all(row.payload == payloads[row.offset] for row in rejected)


@given(st.lists(bodies, max_size=5))
def test_every_json_message_is_a_row_or_rejected(payloads: list[bytes]) -> None:
    check_every_message(JsonPayload(), payloads)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_every_avro_message_is_a_row_or_rejected(payloads: list[bytes]) -> None:
    check_every_message(AvroPayload(AVRO), payloads)


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**62), 2**62),
            st.none() | st.floats(width=32, allow_nan=False),
            st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
        ),
        max_size=5,
    )
)
def test_avro_rows_come_back(values: list[tuple[Any, Any, Any]]) -> None:
    messages = [Message(avro(n=n, x=x, s=s, t=None)) for n, x, s in values]
    kept, rejected, _ = parse_messages(messages, SCHEMA, AvroPayload(AVRO))
    assert not rejected
    columns = [kept[name].to_pylist() for name in ("n", "x", "s")]
    assert list(zip(*columns, strict=True)) == values


def test_avro_values_of_other_types() -> None:
    messages = [
        Message(avro(n=None, x=None, s=b"text", t=1_500)),
        Message(avro(n=None, x=float("nan"), s=b"\xff", t=None)),
        Message(avro(n=None, x=1e300, s=None, t=None), source="a", offset=3),
        Message(avro(n=1, x=None, s=None, t=None) + b"!"),
    ]
    kept, rejected, _ = parse_messages(messages, SCHEMA, AvroPayload(AVRO))
    assert kept["s"].to_pylist() == ["text"]
    assert kept["t"].cast(pa.int64()).to_pylist() == [1_500_000]
    assert sorted(row.reason.split("(")[0] for row in rejected) == [
        "expected a number ",
        "expected an Avro record ",
        "expected an Avro record ",
    ]
    wide = next(row for row in rejected if row.column)
    assert wide[:5] == ("Parse", "a", 3, "x", "1e+300")


@pytest.mark.parametrize(
    ("payload", "schema", "message"),
    [
        ("xml", None, 'payload="xml": expected "json" or "avro"'),
        ("avro", None, "expected avro_schema="),
        ("json", AVRO, "expected avro_schema="),
        ("avro", "{", "not an Avro schema in JSON"),
        ("avro", '"no_such_type"', "not an Avro schema in JSON"),
        ("avro", '{"type": "array", "items": "long"}', "schema of a record"),
    ],
)
def test_payload_arguments(payload: str, schema: str | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        payload_format(payload, schema, "ReadPubSub")


def test_avro_schema_must_have_the_columns() -> None:
    with pytest.raises(RecipeError, match='did you mean "other"'):
        AvroPayload(AVRO).check(
            make_schema([make_feature("othr", pa.string(), required=True)]), "ReadPubSub"
        )


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=20), st.floats(0.001, 1000))
def test_parts_hold_each_row_once_in_one_interval(times: list[int], seconds: float) -> None:
    batch = pa.record_batch({"i": np.arange(len(times))})
    found = []
    for part, first in split_by_time(batch, np.array(times), seconds):
        inside = [times[i] for i in part["i"].to_pylist()]
        assert first == min(inside)
        assert len({time // round(seconds * 1_000_000) for time in inside}) == 1
        assert part["i"].to_pylist() == sorted(part["i"].to_pylist())
        found += part["i"].to_pylist()
    assert sorted(found) == list(range(len(times)))


class _Show(beam.DoFn):  # type: ignore[misc]
    def process(
        self,
        batch: pa.RecordBatch,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Any:
        yield batch["n"].to_pylist(), int(timestamp), int(window.start)


def test_batches_are_of_one_window_and_one_interval() -> None:
    # (n, element's time, own time): windows are of 10 s, intervals of 5 s
    given_ = [(0, 1, None), (1, 2, None), (2, 7, None), (3, 11, None), (4, 12, 3), (5, 13, None)]
    messages = [
        TimestampedValue(
            Message(b'{"n": %d}' % n, event_time=None if own is None else own * 1_000_000), at
        )
        for n, at, own in [*given_, (6, 14, None)]
    ]
    messages.append(TimestampedValue(Message(b"?"), 15))
    with beam.Pipeline("FnApiRunner") as pipeline:
        windowed = pipeline | beam.Create([messages]) | beam.FlatMap(list)
        windowed = windowed | beam.WindowInto(FixedWindows(10))
        result = windowed | BatchMessages(SCHEMA, JsonPayload(), batch_rows=2, batch_seconds=5)
        shown = result.rows | beam.ParDo(_Show())
        expected = [
            ([0, 1], 1, 0),
            ([2], 7, 0),
            ([3], 11, 10),
            ([4], 3, 10),
            ([5, 6], 13, 10),
        ]
        assert_that(shown, equal_to(expected), label="rows")

        def check_rejected(found: list[Rejected]) -> None:
            assert [row.payload for row in found] == [b"?"]

        def check_counts(found: list[Count]) -> None:
            assert {count[:3] for count in found} == {("", "Read", "read")}
            assert sum(count.n for count in found) == 8

        everything = beam.WindowInto(beam.window.GlobalWindows())
        rejected = result.rejected[0] | "AllRejected" >> everything
        counts = result.counts[0] | "AllCounts" >> everything
        assert_that(rejected, check_rejected, label="rejected")
        assert_that(counts, check_counts, label="counts")


def test_event_time_column_makes_the_timestamp() -> None:
    messages = [
        Message(b'{"n": 1, "t": "1970-01-01T00:00:30Z"}', event_time=1),
        Message(b'{"n": 2}', event_time=20_000_000),
    ]
    with beam.Pipeline("FnApiRunner") as pipeline:
        created = pipeline | beam.Create([messages]) | beam.FlatMap(list)
        result = created | BatchMessages(SCHEMA, JsonPayload(), "t")
        shown = result.rows | beam.ParDo(_Show()) | beam.Map(lambda show: show[:2])
        assert_that(shown, equal_to([([1, 2], 20)]))


def test_arguments_are_checked() -> None:
    with pytest.raises(RecipeError, match="batch_rows=0: expected more than 0"):
        BatchMessages(SCHEMA, JsonPayload(), batch_rows=0)
