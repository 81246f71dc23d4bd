"""What needs no broker: positions, settings, secrets, errors, watermarks."""

from __future__ import annotations

import datetime
import json
import pickle
import sys
import time
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import DataError, RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.kafka_client import KafkaCluster
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.kafka import WriteKafka, dead_letter, row_records
from skewless.transforms.sources.kafka import ReadKafka
from skewless.transforms.sources.kafka_positions import KafkaPiece, cut, parse_position
from skewless.transforms.sources.kafka_rows import MessageParser
from skewless.transforms.sources.kafka_stream import KafkaMark, KafkaStream, _Watermark
from skewless.transforms.sources.messages import JsonPayload, Message

SCHEMA = make_schema([make_feature("n", pa.int64(), required=False)])
PARSER = MessageParser(JsonPayload())
NOBODY = "127.0.0.1:1"


def source(**arguments: Any) -> ReadKafka:
    return ReadKafka("t", **{"bootstrap_servers": NOBODY, "schema": SCHEMA, **arguments})


def test_positions() -> None:
    def parse(position: Any, *topics: str) -> Any:
        return parse_position(position, ["latest"], topics or ("t",), "ReadKafka stop=")

    assert parse("latest") == "latest"
    assert parse("1970-01-01") == 0
    assert parse(datetime.datetime(1970, 1, 1, 0, 0, 0, 1)) == 1
    assert parse("1970-01-01T01:00:00+01:00") == 0
    assert parse({1: 5, 0: 7}) == {("t", 1): 5, ("t", 0): 7}
    assert parse({"a": {0: 1}, "b": {2: 3}}, "a", "b") == {("a", 0): 1, ("b", 2): 3}
    for wrong, said in {
        "newest": "ISO|expected latest, a time",
        5: "expected latest, a time",
    }.items():
        with pytest.raises(RecipeError, match=said):
            parse(wrong)
    with pytest.raises(RecipeError, match="several topics"):
        parse({0: 1}, "a", "b")
    with pytest.raises(RecipeError, match="topic 'c' is not read"):
        parse({"c": {0: 1}}, "a", "b")
    with pytest.raises(RecipeError, match="whole numbers from 0 on"):
        parse({0: -1})
    with pytest.raises(RecipeError, match="at least one partition"):
        parse({})


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 50))
def test_pieces_cover_each_offset_once(start: int, more: int, messages: int) -> None:
    piece = KafkaPiece("kafka:t/0", "t", 0, start, start + more)
    parts = list(cut(piece, messages))
    offsets = [n for part in parts for n in range(part.start, part.stop or 0)]
    assert offsets == list(range(start, start + more))
    assert all((part.stop or 0) - part.start <= messages for part in parts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"start": "committed"}, "give group="),
        ({"stop": "earliest"}, "ReadKafka\\(\"t\"\\) stop='earliest'"),
        ({"payload": "xml"}, 'expected "json" or "avro"'),
        ({"config": {"group.id": "g"}}, "skewless sets this itself"),
        ({"config": {"sasl.password": "x"}}, 'secrets={"sasl.password": "NAME"}'),
        ({"batch_rows": 0}, "batch_rows=0: expected more than 0"),
        ({"idle_seconds": -1}, "at least 0"),
        ({"bootstrap_servers": ""}, 'expected "host:port"'),
        ({"timeout_seconds": 0}, "timeout_seconds=0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        source(**arguments)


def test_a_secret_is_looked_up_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    read = source(stop="latest", secrets={"sasl.password": "KAFKA_PASSWORD"})
    cluster = read.reader().cluster
    assert cluster.settings()["sasl.password"] == "hunter2"
    stream = KafkaStream((), cluster, "g", SCHEMA, PARSER, 1, 1, 1, 1)
    mark = KafkaMark((), cluster, "g")
    for thing in (read.reader(), stream, mark):
        assert b"hunter2" not in pickle.dumps(thing)
    assert "hunter2" not in repr(read.reader())
    monkeypatch.delenv("KAFKA_PASSWORD")
    with pytest.raises(RecipeError, match="variable KAFKA_PASSWORD is not set"):
        cluster.settings()


def test_unknown_settings_are_named() -> None:
    with pytest.raises(RecipeError, match=r"Kafka config=.*fetch\.mni\.bytes"):
        source(stop="latest", config={"fetch.mni.bytes": 1}).fingerprint()


def test_a_batch_needs_an_end() -> None:
    with pytest.raises(RecipeError, match=r'has no end.*stop="latest"'):
        source().fingerprint()


def test_nobody_answers() -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1: no answer in 0\.3 s.*bootstrap_servers="):
        _ = beam.Pipeline() | source(stop="latest", timeout_seconds=0.3)
    with pytest.raises(DataError, match="no answer"):
        _ = (
            beam.Pipeline()
            | beam.Create([pa.record_batch({"n": [1]})])
            | WriteKafka("t", bootstrap_servers=NOBODY, timeout_seconds=0.3)
        )


def test_the_client_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(RecipeError, match=r"pip install 'skewless\[kafka\]'"):
        source(stop="latest").fingerprint()


def test_the_schema_of_avro_is_checked() -> None:
    avro = '{"type": "record", "name": "r", "fields": [{"name": "m", "type": "long"}]}'
    read = source(stop="latest", payload="avro", avro_schema=avro)
    with pytest.raises(
        RecipeError, match=r'avro_schema=: there is no column "n"; the columns are m$'
    ):
        read.check_columns(SCHEMA)


def test_rows_as_messages() -> None:
    batch = pa.record_batch({"n": [1, None], "_file": ["f", "f"], "_offset": [0, 1]})
    first, second = row_records(batch, key="n", headers=["n"])
    assert first == (b"1", b'{"n": 1}', [("n", b"1")])
    assert second == (None, b"{}", [])
    with pytest.raises(RecipeError, match='WriteKafka key=: there is no column "m"'):
        row_records(batch, key="m")
    (record,) = dead_letter(Rejected("Parse", "kafka:t/0", 7, "n", "\udc00", "why", b"\xff"))
    assert record.value == b"\xff"
    assert dict(record.headers)["value"] == b"\\udc00"
    with pytest.raises(RecipeError, match=r'write headers=\["n"\]'):
        WriteKafka("t", bootstrap_servers=NOBODY, headers="n")


def test_the_watermark_follows_messages_and_then_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watermark = _Watermark(disorder_seconds=10, idle_seconds=60)
    watermark.saw(500_000_000)
    assert watermark.micros() == 490_000_000
    watermark.saw(400_000_000)
    assert watermark.micros() == 490_000_000
    clock[0] += 100
    assert watermark.micros() == 490_000_000  # not at the end: behind, not idle
    watermark.at_end()
    clock[0] += 59
    assert watermark.micros() == 490_000_000
    clock[0] += 1
    assert watermark.micros() == 1_150_000_000
    watermark.saw(99_999_000_000_000)  # in the future
    assert watermark.micros() == 1_150_000_000


def test_partitions_are_spread_over_splits() -> None:
    cluster = KafkaCluster(NOBODY)
    pieces = tuple(KafkaPiece(f"kafka:t/{i}", "t", i, 0, None) for i in range(5))
    stream = KafkaStream(pieces, cluster, None, SCHEMA, PARSER, 1, 1, 1, 1)
    for splits in (1, 2, 20):
        parts = stream.split(splits)
        assert len(parts) == min(splits, 5)
        assert sorted(piece for part in parts for piece in part.pieces) == list(pieces)


def test_columns_from_headers() -> None:
    schema = make_schema(
        [
            make_feature("n", pa.int64(), required=False),
            make_feature("trace", pa.string(), required=False),
            make_feature("t", pa.timestamp("us", tz="UTC"), required=False),
            make_feature("hops", pa.int64(), required=False),
        ]
    )
    parser = MessageParser(
        JsonPayload(), "t", (("trace", "trace-id"), ("t", "sent"), ("hops", "h"), ("no", "no"))
    )
    bodies = [
        (b'{"n": 0}', {"trace-id": "a", "sent": "1970-01-01T00:00:01Z", "h": "3"}),
        (b'{"n": 1, "trace": "body"}', {}),
        (b'{"n": 2}', {"h": "x", "trace-id": "c"}),
        (b'{"n": "y"}', {"h": "4"}),
        (b"?", {"h": "5"}),
    ]
    messages = [
        Message(body, headers, event_time=7, source="kafka:t/0", offset=10 + i)
        for i, (body, headers) in enumerate(bodies)
    ]
    parser.check(schema, "here")
    kept, rejected, counts = parser.parse(messages, schema)
    assert kept.schema.names == ["n", "trace", "t", "hops", "_file", "_offset"]
    assert kept["trace"].to_pylist() == ["a", None]
    assert kept["hops"].to_pylist() == [3, None]
    assert kept["t"].cast(pa.int64()).to_pylist() == [1_000_000, 7]
    assert kept["_offset"].to_pylist() == [10, 11]
    assert counts["read"] == 5
    by_offset = {row.offset: row for row in rejected}
    assert (by_offset[12].column, by_offset[12].value) == ("hops", "x")
    assert json.loads(by_offset[12].payload) == {"n": 2, "trace": "c", "hops": "x"}
    assert json.loads(by_offset[13].payload) == {"n": "y", "hops": 4}
    assert by_offset[14].payload == b"?"
    with pytest.raises(RecipeError, match="expected a column of the body"):
        parser.check(make_schema([schema.feature[1]]), "here")
