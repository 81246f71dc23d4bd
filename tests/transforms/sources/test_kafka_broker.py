"""Replaying topics of a real broker, also one that dies in between."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import cloudpickle
import confluent_kafka
import fastavro
import pytest

from skewless.errors import DataError, RecipeError
from skewless.schema import find_feature
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sources.kafka_stream import StreamReader
from skewless.transforms.validate import Validate
from tests.servers.kafka import PASSWORD, Broker, running_broker
from tests.transforms.sources.kafka import (
    DAY,
    SCHEMA,
    SLOWLY,
    credentials,
    in_order,
    never_planted,
    numbers,
    power_cut,
    read_all,
    source,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory.mktemp("kafka"))


def test_a_replay_is_exact(broker: Broker, eager: Any) -> None:
    topic = broker.create(partitions=2)
    poison: list[bytes | dict[str, Any] | None] = [b"\xff not JSON", None, {"n": "seven"}]
    broker.produce(topic, [{"n": i, "t": "2023-01-01"} for i in range(5_000)] + poison, 0)
    broker.produce(topic, [{"n": i, "s": "\n"} for i in range(3)], 1, [DAY, DAY + 1, DAY + 2])
    read = source(broker, topic, event_time="t", batch_rows=700, piece_messages=2_000)
    result = eager(lambda pipeline: pipeline | read)
    rows = in_order(result.rows)
    assert [row[OFFSET] for row in rows] == [*range(5_000), *range(3)]
    assert [row["n"] for row in rows] == [*range(5_000), *range(3)]
    assert rows[0][FILE] == f"kafka:{topic}/0"
    assert [row["t"].timestamp() * 1000 for row in rows[-3:]] == [DAY, DAY + 1, DAY + 2]
    rejected = sorted(result.rejected, key=lambda row: row.offset)
    assert [(row.offset, row.column) for row in rejected] == [
        (5_000, ""),
        (5_001, ""),
        (5_002, "n"),
    ]
    assert rejected[0].payload == b"\xff not JSON"
    assert sum(count.n for count in result.counts) == 5_006
    repaired = [rejected[2]._replace(payload=b'{"n": 7}')]
    assert read.read_rejected(repaired, SCHEMA).kept.to_pylist()[0] == {
        "n": 7, "s": None, "t": None, FILE: f"kafka:{topic}/0", OFFSET: 5_002,
    }  # fmt: skip


def test_from_and_until_times_and_offsets(broker: Broker) -> None:
    topic, other = broker.create(partitions=2), broker.create()
    for partition in (0, 1):
        broker.produce(
            topic, [{"n": i} for i in range(10)], partition, [DAY + i for i in range(10)]
        )
    broker.produce(other, [{"n": 100}])
    by_time = source(
        broker, topic, start="2023-11-14T22:13:20.003Z", stop="2023-11-14T22:13:20.0055Z"
    )
    assert numbers(read_all(by_time)) == [3, 4, 5] * 2
    later = source(broker, topic, start="2100-01-01")
    assert read_all(later) == []
    by_offset = source(broker, topic, start={1: 2}, stop={1: 4})
    assert numbers(read_all(by_offset)) == [2, 3]
    both = source(
        broker,
        [topic, other],
        start={topic: {0: 9}, other: {0: 0}},
        stop={topic: {0: 10}, other: {0: 1}},
    )
    assert sorted(numbers(read_all(both))) == [9, 100]
    with pytest.raises(DataError, match="offsets 0 to 9, and 11 was asked for"):
        source(broker, topic, stop={0: 11, 1: 3}).fingerprint()
    with pytest.raises(DataError, match=r"there is no partition .*/7; the topic has 2"):
        source(broker, topic, start={7: 0}).fingerprint()


def test_what_expired_is_not_passed_over_in_silence(broker: Broker) -> None:
    topic, group = broker.create(), uuid.uuid4().hex
    broker.produce(topic, [{"n": i} for i in range(10)])
    broker.commit(group, topic, 2)
    read = source(broker, topic, start="committed", group=group)
    assert numbers(read_all(read)) == list(range(2, 10))
    (piece,) = read._pinned.pieces or []
    expired = {confluent_kafka.TopicPartition(topic, 0, 5): None}
    for future in broker.admin.delete_records(list(expired)).values():
        future.result(30)
    with pytest.raises(
        DataError, match="offsets 5 to 9, and 2 was asked for; messages may have exp"
    ):
        read.fingerprint()
    with pytest.raises(DataError, match=r"cannot be read .*the messages are no more there"):
        list(read.reader().read(piece, SCHEMA))
    assert numbers(read_all(source(broker, topic))) == list(range(5, 10))


def test_transactions_leave_holes(broker: Broker) -> None:
    topic = broker.create()
    settings = {"bootstrap.servers": broker.servers, "transactional.id": uuid.uuid4().hex}
    producer = confluent_kafka.Producer(settings)
    producer.init_transactions(30)
    for n, end in ((0, "commit"), (1, "abort"), (2, "commit"), (3, "abort"), (4, "open")):
        producer.begin_transaction()
        producer.produce(topic, json.dumps({"n": n}))
        producer.flush(30)
        if end == "commit":
            producer.commit_transaction(30)
        elif end == "abort":
            producer.abort_transaction(30)
    read = source(broker, topic, timeout_seconds=20)
    assert numbers(read_all(read)) == [0, 2]
    assert read._pinned.pieces[0].stop == 8  # type: ignore[index]
    producer.abort_transaction(30)


def test_what_is_read_is_what_the_manifest_names(broker: Broker, eager: Any) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": 0}, {"n": 1}])
    read = source(broker, topic, schema=None)
    (named,) = read.fingerprint()
    assert named["path"] == f"kafka:{topic}/0"
    assert (named["start"], named["stop"]) == (0, 2)
    broker.produce(topic, [{"n": 2}])
    copy = dataclasses.replace(read, schema=SCHEMA)
    assert numbers(eager(lambda pipeline: pipeline | copy).rows) == [0, 1]
    assert read.fingerprint()[0]["stop"] == 3


def test_an_empty_topic(broker: Broker, eager: Any) -> None:
    topic = broker.create()
    result = eager(lambda pipeline: pipeline | source(broker, topic))
    assert (result.rows, result.rejected, result.counts) == ([], [], [])


def test_types_can_be_found_out(broker: Broker) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": 1, "t": "2023-01-01T00:00:00Z", "s": "a"}, b"?", None] * 20)
    schema = infer_schema(source(broker, topic, schema=None))
    feature = find_feature(schema, "t")
    assert feature is not None
    assert feature.HasField("time_domain")


def test_columns_from_headers(broker: Broker) -> None:
    topic = broker.create()
    headers = [{"trace": "é".encode(), "sent": b"2023-01-01T00:00:00Z"}, {}, {"sent": b"soon"}]
    broker.produce(topic, [{"n": n} for n in range(3)], headers=headers)
    read = source(broker, topic, header_columns={"s": "trace", "t": "sent"})
    read.fingerprint()
    (outcome,) = read.reader().read((read._pinned.pieces or [])[0], SCHEMA)
    assert outcome.kept["s"].to_pylist() == ["é", None]
    assert [t and t.isoformat() for t in outcome.kept["t"].to_pylist()] == [
        "2023-01-01T00:00:00+00:00",
        None,
    ]
    (rejected,) = outcome.rejected
    assert (rejected.file, rejected.offset) == (f"kafka:{topic}/0", 2)
    assert (rejected.column, rejected.value) == ("t", "soon")


def test_avro(broker: Broker) -> None:
    topic = broker.create()
    fields = [
        {"name": "n", "type": "long"},
        {"name": "s", "type": ["null", "string"]},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]
    avro = {"type": "record", "name": "r", "fields": fields}
    bodies = []
    for n in range(3):
        body = io.BytesIO()
        fastavro.schemaless_writer(body, avro, {"n": n, "s": None, "t": DAY})
        bodies.append(body.getvalue())
    broker.produce(topic, [*bodies, b"\x02"])
    read = source(broker, topic, payload="avro", avro_schema=json.dumps(avro))
    read.fingerprint()
    (outcome,) = read.reader().read((read._pinned.pieces or [])[0], SCHEMA)
    assert outcome.kept["n"].to_pylist() == [0, 1, 2]
    assert outcome.kept["t"].to_pylist()[0].timestamp() * 1000 == DAY
    assert [row.offset for row in outcome.rejected] == [3]
    repaired = outcome.rejected[0]._replace(payload=b'{"n": 3}')
    assert read.read_rejected([repaired], SCHEMA).kept["n"].to_pylist() == [3]


def test_what_does_not_fit_the_schema_is_named(broker: Broker, eager: Any) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": 0}, {"n": "one"}, {"s": "two"}, {"n": 3, "s": 3}, {"n": 4}])
    result = eager(lambda pipeline: pipeline | source(broker, topic) | Validate(SCHEMA))
    assert numbers(result.rows) == [0, 4]
    named = {row.offset: (row.file, row.column, row.value) for row in result.rejected}
    place = f"kafka:{topic}/0"
    assert named == {1: (place, "n", "one"), 2: (place, "n", ""), 3: (place, "s", "3")}

    fields = [{"name": "n", "type": ["null", "long"]}, {"name": "s", "type": ["null", "string"]}]
    avro = {"type": "record", "name": "r", "fields": fields}
    lacking = source(broker, topic, payload="avro", avro_schema=json.dumps(avro))
    with pytest.raises(RecipeError, match='avro_schema=: there is no column "t"; the columns are'):
        _ = beam.Pipeline() | lacking
    body = io.BytesIO()
    fastavro.schemaless_writer(body, avro, {"n": None, "s": "x"})
    broker.produce(topic, [body.getvalue()])
    read = dataclasses.replace(lacking, columns=["n", "s"], start={0: 5})
    validate = Validate(read.raw_schema())
    (rejected,) = eager(lambda pipeline: pipeline | read | validate).rejected
    assert (rejected.offset, rejected.column) == (5, "n")


def test_a_missing_topic_is_named_before_anything_runs(broker: Broker) -> None:
    topic = broker.create()
    with pytest.raises(DataError, match=f'no topic "{topic}x".*did you mean "{topic}"'):
        _ = beam.Pipeline() | source(broker, topic + "x")
    with pytest.raises(DataError, match='no topic "missing"'):
        _ = beam.Pipeline() | source(broker, "missing", stop=None)


def test_credentials(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": 1}])
    given = credentials(broker, "SOME_PASSWORD")
    given["config"]["debug"] = "all"  # the client says all that it has to say
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD)
    caplog.set_level(logging.DEBUG)
    read = source(broker, topic, **given)
    assert numbers(read_all(read)) == [1]
    stream = source(broker, topic, **given, stop=None, group="g", timeout_seconds=2).stream()
    reader = stream.create_reader(None, None)
    read_one(reader)
    mark = reader.get_checkpoint_mark()
    reader.close()
    never_planted(*map(cloudpickle.dumps, (read.reader(), stream, mark)), repr(read), repr(stream))

    monkeypatch.setenv("SOME_PASSWORD", PASSWORD + "!")
    with pytest.raises(DataError, match=r"do not let us in .*check the credentials") as caught:
        source(broker, topic, **given).fingerprint()
    with pytest.raises(DataError, match=r"do not let us in .*check the credentials") as later:
        read_one(stream.create_reader(None, mark))
    assert "\n" not in f"{caught.value}{later.value}"
    assert "sasl" in caplog.text.lower()
    never_planted(caught.value, later.value, caplog.text, *capfd.readouterr())


def read_one(reader: StreamReader) -> None:
    found = reader.start()
    while not found:
        time.sleep(0.1)
        found = reader.advance()


def test_a_replay_goes_on_when_the_broker_comes_back(broker: Broker) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": i, "s": "x" * 500} for i in range(2_000)])
    read = source(broker, topic, batch_rows=100, config=SLOWLY, timeout_seconds=60)
    read.fingerprint()
    outcomes = read.reader().read((read._pinned.pieces or [])[0], SCHEMA)
    found = [next(outcomes).kept]
    with power_cut(broker):
        found += [outcome.kept for outcome in outcomes]
    assert [n for batch in found for n in batch["n"].to_pylist()] == list(range(2_000))


def test_a_replay_ends_when_the_broker_stays_away(broker: Broker) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": i, "s": "x" * 500} for i in range(2_000)])
    read = source(broker, topic, batch_rows=100, config=SLOWLY, timeout_seconds=3)
    read.fingerprint()
    outcomes = read.reader().read((read._pinned.pieces or [])[0], SCHEMA)
    next(outcomes)
    broker.kill()
    try:
        with pytest.raises(DataError, match=r"no message in 3 s, at offset \d+ of 2000"):
            list(outcomes)
    finally:
        broker.start()
