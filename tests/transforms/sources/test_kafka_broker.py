"""Reading from and writing to a real broker, also one that dies in between."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pathlib
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import confluent_kafka
import fastavro
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from skewless.errors import DataError
from skewless.schema import find_feature, make_feature, make_schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET, Rows
from skewless.transforms.sinks.kafka import WriteKafka, WriteRejectedToKafka
from skewless.transforms.sources.kafka import ReadKafka
from skewless.transforms.sources.kafka_stream import FollowKafka
from tests.servers import prism
from tests.servers.kafka import PASSWORD, USER, Broker

pytestmark = pytest.mark.integration

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("us", tz="UTC"), required=False),
    ]
)
DAY = 1_700_000_000_000  # in milliseconds


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


def source(broker: Broker, topics: Any, **arguments: Any) -> ReadKafka:
    given = {"bootstrap_servers": broker.servers, "schema": SCHEMA, "stop": "latest", **arguments}
    return ReadKafka(topics, **given)


def numbers(batches: list[pa.RecordBatch]) -> list[int]:
    return [row["n"] for row in in_order(batches)]


def in_order(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: (row[FILE], row[OFFSET]))


def read_all(read: ReadKafka) -> list[pa.RecordBatch]:
    """Read the pieces here, without a runner."""
    found, schema = [], read.raw_schema()
    read.fingerprint()
    for piece in read._pinned.pieces or []:
        for outcome in read.reader().read(piece, schema):
            found.append(outcome.kept)
    return found


# --- Replay ---------------------------------------------------------------------------


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
    commit(broker, group, topic, 2)
    read = source(broker, topic, start="committed", group=group)
    assert numbers(read_all(read)) == list(range(2, 10))
    (piece,) = read._pinned.pieces or []
    expired = {confluent_kafka.TopicPartition(topic, 0, 5): None}
    for future in broker.admin().delete_records(list(expired)).values():
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


def test_a_missing_topic_is_named_before_anything_runs(broker: Broker) -> None:
    topic = broker.create()
    with pytest.raises(DataError, match=f'no topic "{topic}x".*did you mean "{topic}"'):
        _ = beam.Pipeline() | source(broker, topic + "x")
    with pytest.raises(DataError, match="no topic"):
        _ = beam.Pipeline() | source(broker, "missing", stop=None)
    batches = beam.Pipeline() | beam.Create([pa.record_batch({"n": [1]})])
    with pytest.raises(DataError, match="no topic"):
        _ = batches | WriteKafka("missing", bootstrap_servers=broker.servers)


def test_credentials(broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    topic = broker.create()
    broker.produce(topic, [{"n": 1}])
    arguments = {
        "bootstrap_servers": broker.sasl_servers,
        "config": {
            "security.protocol": "sasl_plaintext",
            "sasl.mechanism": "PLAIN",
            "sasl.username": USER,
        },
        "secrets": {"sasl.password": "SOME_PASSWORD"},
    }
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD)
    read = source(broker, topic, **arguments)
    assert numbers(read_all(read)) == [1]
    pipeline = beam.Pipeline()
    _ = pipeline | read
    followed = source(broker, topic, **arguments, group="g")
    followed.stop = followed._stop = None
    _ = pipeline | "stream" >> followed
    planted = PASSWORD.encode()
    assert planted not in pipeline.to_runner_api().SerializeToString()
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD + "!")
    with pytest.raises(DataError, match="do not let us in") as caught:
        source(broker, topic, **arguments).fingerprint()
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in caplog.text


# --- A broker that dies ---------------------------------------------------------------


@contextlib.contextmanager
def power_cut(broker: Broker, seconds: float = 3.0) -> Iterator[None]:
    """Kill the broker; start it again after a while, in the middle of the block."""
    broker.kill()

    def restart() -> None:
        time.sleep(seconds)
        broker.start()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# A client that reads no further ahead than a few messages.
SLOWLY = {"queued.min.messages": 1, "queued.max.messages.kbytes": 1, "fetch.max.bytes": 20_000,
          "max.partition.fetch.bytes": 1_000, "message.max.bytes": 20_000}  # fmt: skip


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


def test_each_row_is_written_once_when_the_broker_dies(broker: Broker, tmp_path: Any) -> None:
    topic = broker.create()
    batch = pa.record_batch({"n": range(20_000)})
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(range(40), reshuffle=False)
            | "Slowly" >> beam.FlatMap(slowly, [batch.slice(i * 500, 500) for i in range(40)])
            | WriteKafka(topic, bootstrap_servers=broker.servers, timeout_seconds=60)
            | beam.Map(write, str(tmp_path))
        )
        thread = threading.Timer(3, broker.kill)
        thread.start()
        again = threading.Timer(6, broker.start)
        again.start()
    thread.join()
    again.join()
    assert sum(written(tmp_path)) == 20_000
    assert sorted(numbers(read_all(source(broker, topic)))) == list(range(20_000))


def slowly(i: int, batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    time.sleep(0.2)
    yield batches[i]


# --- Streams --------------------------------------------------------------------------


def write(element: Any, directory: str) -> None:
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    whole = path / f".{uuid.uuid4().hex}"
    whole.write_bytes(pickle.dumps(element))
    whole.rename(path / whole.name[1:])


def written(directory: pathlib.Path) -> list[Any]:
    paths = sorted(directory.glob("[!.]*"))
    return [pickle.loads(path.read_bytes()) for path in paths]


def write_rows(rows: Rows, folder: pathlib.Path) -> None:
    for name, collection in (
        ("rows", rows.rows),
        ("rejected", rows.rejected[0]),
        ("counts", rows.counts[0]),
    ):
        _ = collection | name >> beam.Map(write, str(folder / name))


def commit(broker: Broker, group: str, topic: str, offset: int) -> None:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.servers, "group.id": group})
    place = confluent_kafka.TopicPartition(topic, 0, offset)
    consumer.commit(offsets=[place], asynchronous=False)
    consumer.close()


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.3)


def ending(read: ReadKafka, stop: int) -> FollowKafka:
    """Follow as a stream does, but to an end, so that the pipeline ends."""
    stream = read.stream()
    pieces = tuple(piece._replace(stop=stop) for piece in stream.pieces)
    return FollowKafka(dataclasses.replace(stream, pieces=pieces))


class _Watch(beam.DoFn):  # type: ignore[misc]
    """Notes what is committed while rows are in work, and fails at one of them."""

    def __init__(self, servers: str, group: str, topic: str, fails_at: int | None = None) -> None:
        self._servers, self._group, self._topic = servers, group, topic
        self._fails_at = fails_at

    def process(self, batch: pa.RecordBatch, time: Any = beam.DoFn.TimestampParam) -> Any:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self._servers, "group.id": self._group}
        )
        place = confluent_kafka.TopicPartition(self._topic, 0)
        (found,) = consumer.committed([place], 30)
        consumer.close()
        offsets = batch[OFFSET].to_pylist()
        if self._fails_at in offsets:
            raise ValueError("on purpose")
        yield found.offset, offsets, time.micros


def test_offsets_are_committed_after_the_rows_and_not_before(
    broker: Broker, tmp_path: pathlib.Path
) -> None:
    topic, group = broker.create(), uuid.uuid4().hex
    broker.produce(topic, [{"n": i} for i in range(1_000)], millis=[DAY + i for i in range(1_000)])
    read = source(broker, topic, stop=None, group=group, batch_rows=100)
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | ending(read, 1_000)
        _ = (
            rows.rows
            | beam.ParDo(_Watch(broker.servers, group, topic))
            | beam.Map(write, str(tmp_path))
        )
    seen = sorted(written(tmp_path), key=lambda one: one[1])
    assert [n for _, offsets, _ in seen for n in offsets] == list(range(1_000))
    assert all(committed <= offsets[0] for committed, offsets, _ in seen)
    assert all(micros == (DAY + offsets[0]) * 1_000 for _, offsets, micros in seen)
    assert broker.committed(group, topic) == 1_000


def test_a_bundle_that_fails_commits_nothing(broker: Broker) -> None:
    topic, group = broker.create(), uuid.uuid4().hex
    broker.produce(topic, [{"n": i} for i in range(100)])
    read = source(broker, topic, stop=None, group=group)
    pipeline = beam.Pipeline("FnApiRunner")
    rows = pipeline | ending(read, 100)
    _ = rows.rows | beam.ParDo(_Watch(broker.servers, group, topic, fails_at=50))
    with pytest.raises(Exception, match="on purpose"):
        pipeline.run()
    assert broker.committed(group, topic) <= 0


def prism_pipeline() -> beam.Pipeline:
    flags = ["--streaming", "--runner=PrismRunner", f"--prism_location={prism.install()}"]
    return beam.Pipeline(options=PipelineOptions(flags))


def test_a_stream_survives_the_broker(broker: Broker, tmp_path: pathlib.Path) -> None:
    topic, group = broker.create(partitions=2), uuid.uuid4().hex

    def produce(first: int, last: int) -> None:
        for partition in (0, 1):
            broker.produce(topic, [{"n": 2 * n + partition} for n in range(first, last)], partition)

    def seen(folder: str) -> set[int]:
        return set(numbers(written(tmp_path / folder / "rows")))

    def followed(folder: str) -> Any:
        pipeline = prism_pipeline()
        read = source(broker, topic, stop=None, group=group, start="committed")
        write_rows(pipeline | read, tmp_path / folder)
        return pipeline.run()

    produce(0, 500)
    broker.produce(topic, [b"poison"], 1)
    running = followed("first")
    try:
        until(lambda: len(seen("first")) == 1_000)
        broker.kill()
        time.sleep(3)
        broker.start()
        produce(500, 1_000)
        until(lambda: len(seen("first")) == 2_000)
        until(lambda: broker.committed(group, topic, 0) == 1_000)
        until(lambda: broker.committed(group, topic, 1) == 1_001)
    finally:
        running.cancel()
    produce(1_000, 1_500)
    running = followed("second")
    try:
        until(lambda: seen("first") | seen("second") == set(range(3_000)))
    finally:
        running.cancel()
    rows = in_order(written(tmp_path / "first" / "rows"))
    distinct = {(row[FILE], row[OFFSET]): row["n"] for row in rows}
    assert sorted(distinct.values()) == list(range(2_000))
    (rejected,) = {
        (row.file, row.offset, row.payload) for row in written(tmp_path / "first" / "rejected")
    }
    assert rejected == (f"kafka:{topic}/1", 500, b"poison")
    read = sum(count.n for count in written(tmp_path / "first" / "counts"))
    assert read == len(rows) + len(written(tmp_path / "first" / "rejected"))
    assert min(seen("second")) >= 2_000


# --- Writing --------------------------------------------------------------------------


def test_written_rows_can_be_read_again(broker: Broker, eager: Any, tmp_path: Any) -> None:
    topic, letters = broker.create(), broker.create()
    rows = [{"n": i, "s": f"é{i % 3}" if i % 2 else None, "t": i * 1_000_001} for i in range(1_000)]
    original = broker.create()
    broker.produce(original, [*rows, b"poison"])
    with beam.Pipeline("FnApiRunner") as pipeline:
        read = pipeline | source(broker, original)
        sink = WriteKafka(topic, bootstrap_servers=broker.servers, key="s", headers=["n"])
        _ = read.rows | sink | "counts" >> beam.Map(write, str(tmp_path / "rows"))
        _ = (
            read.rejected[0]
            | WriteRejectedToKafka(letters, bootstrap_servers=broker.servers)
            | "letters" >> beam.Map(write, str(tmp_path / "letters"))
        )
    assert sum(written(tmp_path / "rows")) == 1_000
    assert sum(written(tmp_path / "letters")) == 1
    columns = ("n", "s", "t")
    first, again = (
        [{c: row[c] for c in columns} for row in in_order(read_all(source(broker, t)))]
        for t in (original, topic)
    )
    assert again == first
    message = broker.consume(topic, 2)[1]
    assert (message.key(), message.headers()) == ("é1".encode(), [("n", b"1")])
    (letter,) = broker.consume(letters, 1)
    headers = dict(letter.headers() or [])
    assert letter.value() == b"poison"
    assert headers["file"].decode() == f"kafka:{original}/0"
    assert headers["offset"] == b"1000"
    assert b"expected a JSON object" in headers["reason"]


def test_what_the_broker_refuses_fails_the_run(broker: Broker) -> None:
    topic = broker.create(config={"max.message.bytes": "1000"})
    pipeline = beam.Pipeline("FnApiRunner")
    _ = (
        pipeline
        | beam.Create([pa.record_batch({"s": ["x" * 5_000]})])
        | WriteKafka(topic, bootstrap_servers=broker.servers)
    )
    with pytest.raises(Exception, match="1 messages were not written"):
        pipeline.run()
