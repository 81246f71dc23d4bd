"""Writing rows to a real broker, also one that dies in between."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pytest

from skewless.errors import DataError
from skewless.transforms.sinks.kafka import WriteKafka, WriteRejectedToKafka
from tests.servers.kafka import PASSWORD, Broker, running_broker
from tests.transforms.sources.kafka import (
    credentials,
    in_order,
    never_planted,
    numbers,
    read_all,
    source,
)
from tests.transforms.sources.streams import write, written

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory.mktemp("kafka"))


def test_written_rows_can_be_read_again(broker: Broker, tmp_path: pathlib.Path) -> None:
    topic, letters = broker.create(), broker.create()
    rows = [{"n": i, "s": f"é{i % 3}" if i % 2 else None, "t": i * 1_000_001} for i in range(1_000)]
    original = broker.create()
    broker.produce(original, [*rows, b"poison"])
    folders = [tmp_path / "rows", tmp_path / "letters"]
    for folder in folders:
        folder.mkdir()
    with beam.Pipeline("FnApiRunner") as pipeline:
        read = pipeline | source(broker, original)
        sink = WriteKafka(topic, bootstrap_servers=broker.servers, key="s", headers=["n"])
        _ = read.rows | sink | "counts" >> beam.Map(write, folders[0])
        _ = (
            read.rejected[0]
            | WriteRejectedToKafka(letters, bootstrap_servers=broker.servers)
            | "letters" >> beam.Map(write, folders[1])
        )
    assert sum(written(folders[0])) == 1_000
    assert sum(written(folders[1])) == 1
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


def test_a_missing_topic_is_named_before_anything_runs(broker: Broker) -> None:
    batches = beam.Pipeline() | beam.Create([pa.record_batch({"n": [1]})])
    with pytest.raises(DataError, match='no topic "missing"'):
        _ = batches | WriteKafka("missing", bootstrap_servers=broker.servers)
    with pytest.raises(DataError, match='no topic "missing"'):
        _ = batches | WriteRejectedToKafka("missing", bootstrap_servers=broker.servers)


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


def test_credentials(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topic = broker.create()
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD)
    given = credentials(broker, "SOME_PASSWORD")
    pipeline = beam.Pipeline("FnApiRunner")
    batches = pipeline | beam.Create([pa.record_batch({"n": [7]})])
    _ = batches | WriteKafka(topic, **given, timeout_seconds=2)
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD + "!")
    said = "1 messages were not written .*uthentication failed"
    with pytest.raises(Exception, match=said) as caught:
        pipeline.run()
    never_planted(caught.value, caplog.text)
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD)
    pipeline.run()
    assert numbers(read_all(source(broker, topic))) == [7]


def test_each_row_is_written_once_when_the_broker_dies(
    broker: Broker, tmp_path: pathlib.Path
) -> None:
    topic = broker.create()
    batch = pa.record_batch({"n": range(20_000)})
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(range(40), reshuffle=False)
            | "Slowly" >> beam.FlatMap(slowly, [batch.slice(i * 500, 500) for i in range(40)])
            | WriteKafka(topic, bootstrap_servers=broker.servers, timeout_seconds=60)
            | beam.Map(write, tmp_path)
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
