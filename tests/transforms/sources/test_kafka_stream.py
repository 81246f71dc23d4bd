"""Following topics of a real broker, with runners that run streams."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import confluent_kafka
import pyarrow as pa
import pytest

from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.kafka import WriteKafka, WriteRejectedToKafka
from skewless.transforms.sources.kafka import ReadKafka
from skewless.transforms.sources.kafka_stream import FollowKafka
from tests.servers import prism
from tests.servers.kafka import Broker, running_broker
from tests.transforms.sources.kafka import DAY, SLOWLY, source
from tests.transforms.sources.streams import Kept, until, write, written

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory.mktemp("kafka"))


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


class _Hold(beam.DoFn):  # type: ignore[misc]
    """Lets no row of the second half of the first 1,000 through until a file is there."""

    def __init__(self, open_file: pathlib.Path) -> None:
        self._open = open_file

    def process(self, batch: pa.RecordBatch) -> Any:
        if max(batch["n"].to_pylist()) >= 500:
            until(self._open.exists)
        yield batch


def test_offsets_are_committed_after_the_rows_and_not_before(
    broker: Broker, tmp_path: pathlib.Path
) -> None:
    topic, group = broker.create(), uuid.uuid4().hex
    broker.produce(topic, [{"n": i} for i in range(1_000)], millis=[DAY + i for i in range(1_000)])
    read = source(broker, topic, stop=None, group=group, batch_rows=100)
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | ending(read, 1_000)
        _ = rows.rows | beam.ParDo(_Watch(broker.servers, group, topic)) | beam.Map(write, tmp_path)
    seen = sorted(written(tmp_path), key=lambda one: one[1])
    assert [n for _, offsets, _ in seen for n in offsets] == list(range(1_000))
    assert all(committed <= offsets[0] for committed, offsets, _ in seen)
    assert all(micros == (DAY + offsets[0]) * 1_000 for _, offsets, micros in seen)
    assert broker.committed(group, topic) == 1_000


def test_a_bundle_that_fails_commits_nothing_and_comes_again(
    broker: Broker, tmp_path: pathlib.Path
) -> None:
    topic, group = broker.create(), uuid.uuid4().hex
    broker.produce(topic, [{"n": i} for i in range(100)])
    read = source(broker, topic, stop=None, group=group, start="committed")
    pipeline = beam.Pipeline("FnApiRunner")
    rows = pipeline | ending(read, 100)
    _ = rows.rows | beam.ParDo(_Watch(broker.servers, group, topic, fails_at=50))
    with pytest.raises(Exception, match="on purpose"):
        pipeline.run()
    assert broker.committed(group, topic) <= 0  # the start, or nothing
    for start in (0, 100):
        kept = Kept(tmp_path / str(start))
        with beam.Pipeline("FnApiRunner") as pipeline:
            kept.keep(pipeline | ending(read, 100))
        assert kept.numbers() == set(range(start, 100))
        assert broker.committed(group, topic) == 100


def test_a_stream_survives_the_broker(broker: Broker, tmp_path: pathlib.Path) -> None:
    topic, out, letters = broker.create(partitions=2), broker.create(), broker.create()
    group, servers, gate = uuid.uuid4().hex, broker.servers, tmp_path / "gate"

    def produce(first: int, last: int) -> None:
        for partition in (0, 1):
            rows = [{"n": 2 * n + partition, "s": "x" * 100} for n in range(first, last)]
            broker.produce(topic, rows, partition)

    def followed(kept: Kept) -> Any:
        pipeline = prism.streaming_pipeline()
        read = source(
            broker, topic, stop=None, group=group, start="committed", batch_rows=20, config=SLOWLY
        )
        rows = pipeline | read
        rows = rows._replace(rows=rows.rows | beam.ParDo(_Hold(gate)))
        kept.keep(rows)
        _ = rows.rows | WriteKafka(out, bootstrap_servers=servers)
        _ = rows.rejected[0] | WriteRejectedToKafka(letters, bootstrap_servers=servers)
        return pipeline.run()

    produce(0, 500)
    broker.produce(topic, [b"poison"], 1)
    first, second = Kept(tmp_path / "first"), Kept(tmp_path / "second")
    running = followed(first)
    try:
        until(lambda: len(first.numbers()) >= 100)
        broker.kill()
        assert len(first.numbers()) <= 500  # the rest was not through when the broker died
        gate.touch()
        time.sleep(2)
        broker.start()
        produce(500, 1_000)
        until(lambda: len(first.numbers()) == 2_000)
        until(lambda: broker.committed(group, topic, 0) == 1_000)
        until(lambda: broker.committed(group, topic, 1) == 1_001)
    finally:
        running.cancel()
    produce(1_000, 1_100)
    running = followed(second)
    try:
        until(lambda: second.numbers() == set(range(2_000, 2_200)))
    finally:
        running.cancel()
    distinct = {(row[FILE], row[OFFSET]): row["n"] for row in first.rows()}
    assert sorted(distinct.values()) == list(range(2_000))
    (rejected,) = {(row.file, row.offset, row.payload) for row in first.rejected()}
    assert rejected == (f"kafka:{topic}/1", 500, b"poison")
    assert first.adds_up()
    assert {json.loads(m.value() or b"")["n"] for m in broker.consume(out, 2_200)} == set(
        range(2_200)
    )
    letter = broker.consume(letters, 1)[0]
    assert letter.value() == b"poison"
    assert dict(letter.headers() or [])["offset"] == b"500"
