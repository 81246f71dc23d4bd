from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import pickle
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import fastavro
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner

from skewless.errors import DataError, RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms import pubsub_client
from skewless.transforms.rows import FILE, OFFSET, Count, Rejected, Rows
from skewless.transforms.sinks.pubsub import WritePubSub, WriteRejectedToPubSub
from skewless.transforms.sources.pubsub import ReadPubSub
from skewless.transforms.sources.pubsub_reader import event_micros, make_message
from tests.servers.process import free_port, python
from tests.servers.pubsub import pubsub_emulator

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=True),
        make_feature("carrier", pa.string(), required=False),
        make_feature("time", pa.timestamp("us", tz="UTC"), required=False),
    ]
)
HOUR = 3600 * 10**6


# --- Without a server -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-1500", -1_500_000),
        ("2013-01-01T05:00:00Z", 1_357_016_400_000_000),
        ("2013-01-01T05:00:00.123456789+01:00", 1_357_012_800_123_456),
        ("2013-01-01T05:00:00", None),
        ("1" * 18, None),
        ("1_000", None),
        ("", None),
        ("tomorrow", None),
    ],
)
def test_event_time_of_an_attribute(text: str, expected: int | None) -> None:
    assert event_micros(text) == expected


def test_origin_of_a_message() -> None:
    message = make_message(b"x", {"at": "7"}, "12345678901234567", "sub", "at")
    assert (message.offset, message.event_time, message.source) == (12345678901234567, 7000, "sub")
    assert make_message(b"x", {}, "a-7", "sub", None)[2:] == ("a-7", None, "sub", -1)
    assert make_message(b"x", {}, "9" * 19, "sub", None).offset == -1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either subscription= or topic="),
        ({"subscription": "projects/pro/subscriptions/abc", "topic": "t"}, "give either"),
        ({"subscription": "flights"}, "expected projects/<project>/subscriptions/<subscription>"),
        ({"topic": "projects/pro/subscriptions/abc"}, "expected projects/<project>/topics/<topic>"),
        ({"readers": 0}, "readers=0: expected more than 0"),
        ({"stop_when_idle": -1.0}, "stop_when_idle=-1.0: expected more than 0"),
        ({"lease_seconds": 5}, "expected from 10 to 600"),
        ({"payload": "csv"}, 'payload="csv": expected "json" or "avro"'),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    if arguments and "topic" not in arguments:
        arguments = {"subscription": "projects/pro/subscriptions/abc", **arguments}
    with pytest.raises(RecipeError, match=message):
        ReadPubSub(**arguments, schema=SCHEMA)


def test_a_sinks_arguments_are_checked() -> None:
    with pytest.raises(RecipeError, match="expected projects/<project>/topics/<topic>"):
        WriteRejectedToPubSub("dead")
    with pytest.raises(RecipeError, match=r'write attributes=\["n"\]'):
        WritePubSub("projects/pro/topics/abc", "n")
    with pytest.raises(RecipeError, match="rename the column"):
        WritePubSub("projects/pro/topics/abc", ["topic"])


def test_missing_credentials_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(DataError, match="no valid Google Cloud credentials"):
        pubsub_client.require("subscription", "projects/pro/subscriptions/abc", "ReadPubSub")


# --- With the emulator ----------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with pubsub_emulator(tmp_path_factory.mktemp("pubsub")) as port:
        yield port


class Queue:
    """A topic with a subscription."""

    def __init__(self, name: str = "") -> None:
        name = name or f"t-{uuid.uuid4().hex[:8]}"
        self.topic = f"projects/pro-test/topics/{name}"
        self.subscription = f"projects/pro-test/subscriptions/{name}"
        pubsub_client.publisher().create_topic(name=self.topic)
        pubsub_client.subscriber().create_subscription(
            name=self.subscription, topic=self.topic, ack_deadline_seconds=10
        )

    def publish(self, *messages: tuple[bytes, dict[str, str]]) -> None:
        client = pubsub_client.publisher()
        for sent in [client.publish(self.topic, body, **more) for body, more in messages]:
            sent.result(timeout=30)

    def drain(self) -> list[Any]:
        """Return the messages that are there, and acknowledge them."""
        from google.api_core.exceptions import DeadlineExceeded

        client, found = pubsub_client.subscriber(), []
        with contextlib.suppress(DeadlineExceeded):
            while True:
                answer = client.pull(
                    subscription=self.subscription, max_messages=1000, timeout=3.0, retry=None
                )
                ids = [one.ack_id for one in answer.received_messages]
                if not ids:
                    break
                client.acknowledge(subscription=self.subscription, ack_ids=ids)
                found += [one.message for one in answer.received_messages]
        return found


class Keep(beam.DoFn):  # type: ignore[misc]
    """Write each element to a file of its own, whole or not at all."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def process(self, element: Any, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        if isinstance(element, pa.RecordBatch):
            element = element.to_pylist()
        path = self._directory / uuid.uuid4().hex
        path.write_bytes(pickle.dumps((element, timestamp.micros)))
        path.rename(path.with_suffix(".pickle"))


class Kept:
    """What a pipeline has written so far."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._folders = [directory / name for name in ("rows", "rejected", "counts")]
        for folder in self._folders:
            folder.mkdir(exist_ok=True)

    def keep(self, rows: Rows) -> None:
        _ = rows.rows | "KeepRows" >> beam.ParDo(Keep(self._folders[0]))
        rejected = rows.rejected | "AllRejected" >> beam.Flatten()
        _ = rejected | "KeepRejected" >> beam.ParDo(Keep(self._folders[1]))
        counts = rows.counts | "AllCounts" >> beam.Flatten()
        _ = counts | "KeepCounts" >> beam.ParDo(Keep(self._folders[2]))

    def _read(self, folder: int) -> list[tuple[Any, int]]:
        return [pickle.loads(p.read_bytes()) for p in self._folders[folder].glob("*.pickle")]

    def batches(self) -> list[tuple[list[dict[str, Any]], int]]:
        return self._read(0)

    def rows(self) -> list[dict[str, Any]]:
        return [row for batch, _ in self.batches() for row in batch]

    def rejected(self) -> list[Rejected]:
        return [row for row, _ in self._read(1)]

    def counts(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for count, _ in self._read(2):
            assert isinstance(count, Count)
            found[count.kind] += count.n
        return found

    def adds_up(self) -> bool:
        counts = self.counts()
        known = len(self.rows()) + len(self.rejected()) + counts["duplicate"]
        return counts["read"] == known


def flight(n: int, **more: Any) -> tuple[bytes, dict[str, str]]:
    body = json.dumps({"n": n, "carrier": "UA", **more}).encode()
    return body, {"at": str(n * 1000), "key": f"k{n}"}


POISON = [
    (b"no JSON", {"at": "1", "key": "p0"}),
    (b'{"n": "many"}', {"at": "2", "key": "p1"}),
    (b'{"n": 9}', {"at": "soon", "key": "p2"}),
    (b'{"n": 10}', {"key": "p3"}),
]


def check_poison(rejected: Sequence[Rejected], subscription: str) -> None:
    assert {(row.payload, row.column, row.value) for row in rejected} == {
        (b"no JSON", "", ""),
        (b'{"n": "many"}', "n", "many"),
        (b'{"n": 9}', "at", "soon"),
        (b'{"n": 10}', "at", ""),
    }
    assert {row.file for row in rejected} == {subscription}
    assert all(row.offset > 0 and row.reason.startswith("expected ") for row in rejected)


def check_dead_letters(dead: Queue) -> None:
    letters = {one.data: dict(one.attributes) for one in dead.drain()}
    assert set(letters) == {body for body, _ in POISON}
    assert letters[b'{"n": "many"}']["reason"] == "expected a whole number (int64)"
    assert letters[b'{"n": "many"}']["column"] == "n"
    assert letters[b'{"n": 9}']["value"] == "soon"


@pytest.mark.integration
def test_a_backlog_is_read_and_accounted_for(emulator: int, tmp_path: pathlib.Path) -> None:
    queue, dead, kept = Queue(), Queue(), Kept(tmp_path)
    queue.publish(*[flight(n) for n in range(500)], *POISON)
    queue.publish(*[flight(n) for n in range(0, 500, 10)], POISON[0])
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | ReadPubSub(
            queue.subscription,
            schema=SCHEMA,
            event_time="time",
            timestamp_attribute="at",
            id_attribute="key",
            stop_when_idle=3,
            batch_rows=100,
        )
        kept.keep(rows)
        rejected = rows.rejected | beam.Flatten()
        _ = rejected | WriteRejectedToPubSub(dead.topic)
    found = kept.rows()
    assert sorted(row["n"] for row in found) == list(range(500))
    assert all(row["time"].timestamp() == row["n"] for row in found)
    assert {row[FILE] for row in found} == {queue.subscription}
    assert len({row[OFFSET] for row in found}) == 500
    for batch, timestamp in kept.batches():
        assert len(batch) <= 100
        assert timestamp == min(row["n"] for row in batch) * 10**6
        assert len({row["n"] // 60 for row in batch}) == 1
    check_poison(kept.rejected(), queue.subscription)
    check_dead_letters(dead)
    assert kept.counts() == {"read": 555, "duplicate": 51}
    assert kept.adds_up()
    assert queue.drain() == []  # all is acknowledged


@pytest.mark.integration
def test_a_stream_on_the_direct_runner(emulator: int, tmp_path: pathlib.Path) -> None:
    queue, dead, kept = Queue(), Queue(), Kept(tmp_path)
    pipeline = beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(["--streaming"]))
    rows = pipeline | ReadPubSub(
        queue.subscription, schema=SCHEMA, timestamp_attribute="at", id_attribute="key"
    )
    kept.keep(rows)
    _ = rows.rejected | beam.Flatten() | WriteRejectedToPubSub(dead.topic)
    running = pipeline.run()
    try:
        queue.publish(*[flight(n) for n in range(60)], *POISON, *[flight(n) for n in range(6)])
        wait_until(lambda: kept.counts()["read"] >= 70)
        wait_until(kept.adds_up)
        queue.publish(*[flight(n) for n in range(60, 90)])
        wait_until(lambda: kept.counts()["read"] >= 100)
        wait_until(kept.adds_up)
    finally:
        running.cancel()
    assert sorted(row["n"] for row in kept.rows()) == list(range(90))
    assert kept.counts() == {"read": 100, "duplicate": 6}
    check_poison(kept.rejected(), queue.subscription)
    check_dead_letters(dead)
    for batch, timestamp in kept.batches():
        assert timestamp == min(row["n"] for row in batch) * 10**6


def wait_until(condition: Any, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.3)


@pytest.mark.integration
def test_avro_bodies(emulator: int, tmp_path: pathlib.Path) -> None:
    text = json.dumps(
        {
            "type": "record",
            "name": "Flight",
            "fields": [
                {"name": "n", "type": "long"},
                {"name": "carrier", "type": ["null", "string"]},
                {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            ],
        }
    )
    queue, kept = Queue(), Kept(tmp_path)
    for n in range(20):
        body = io.BytesIO()
        row = {"n": n, "carrier": None if n % 2 else "UA", "time": n * HOUR}
        fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(text)), row)
        queue.publish((body.getvalue(), {}))
    queue.publish((b"\x01\x02\x03 poison", {}))
    with beam.Pipeline("FnApiRunner") as pipeline:
        kept.keep(
            pipeline
            | ReadPubSub(
                queue.subscription,
                schema=SCHEMA,
                event_time="time",
                payload="avro",
                avro_schema=text,
                stop_when_idle=3,
            )
        )
    found = {row["n"]: row for row in kept.rows()}
    assert sorted(found) == list(range(20))
    assert found[3]["carrier"] is None
    assert found[4]["carrier"] == "UA"
    assert found[5]["time"].timestamp() == 5 * 3600
    (poison,) = kept.rejected()
    assert poison.payload == b"\x01\x02\x03 poison"
    assert poison.reason.startswith("expected an Avro record")
    assert kept.adds_up()


@pytest.mark.integration
def test_what_is_written_can_be_read(emulator: int, tmp_path: pathlib.Path) -> None:
    queue, kept = Queue(), Kept(tmp_path)
    batch = pa.record_batch(
        {
            "n": pa.array(range(50), pa.int64()),
            "carrier": pa.array(["UA", None] * 25, pa.string()),
            "time": pa.array([n * HOUR for n in range(50)]).cast(pa.timestamp("us", tz="UTC")),
        }
    )
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([batch]) | WritePubSub(queue.topic, attributes=["time", "n"])
    with beam.Pipeline("FnApiRunner") as pipeline:
        kept.keep(
            pipeline
            | ReadPubSub(
                queue.subscription,
                schema=SCHEMA,
                timestamp_attribute="time",
                id_attribute="n",
                stop_when_idle=3,
            )
        )
    assert not kept.rejected()
    found = sorted(kept.rows(), key=lambda row: row["n"])
    assert pa.RecordBatch.from_pylist(found, batch.schema) == batch


@pytest.mark.integration
def test_a_missing_subscription_or_topic_is_an_error_before_the_run(emulator: int) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    name = "projects/pro-test/subscriptions/none-such"
    with pytest.raises(DataError, match=f'ReadPubSub\\("{name}"\\): there is no such subscr'):
        _ = pipeline | ReadPubSub(name, schema=SCHEMA)
    topic = "projects/pro-test/topics/none-such"
    with pytest.raises(DataError, match=r"there is no such topic; create it"):
        _ = pipeline | beam.Create([]) | WritePubSub(topic)
    with pytest.raises(DataError, match=r"there is no such topic; create it"):
        _ = pipeline | beam.Create([]) | WriteRejectedToPubSub(topic)
    with pytest.raises(RecipeError, match="a topic can be read with Dataflow"):
        _ = pipeline | ReadPubSub(topic=topic, schema=SCHEMA)


@pytest.mark.integration
def test_an_emulator_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(pubsub_client, "_CONNECT_SECONDS", 2.0)
    with pytest.raises(DataError, match="cannot be reached"):
        pubsub_client.require("topic", "projects/pro-test/topics/abc", "WritePubSub")


@pytest.mark.integration
def test_the_read_goes_on_when_the_server_comes_back(tmp_path: pathlib.Path) -> None:
    kept, port, failed = Kept(tmp_path), free_port(), []
    name = "restart"

    def read() -> None:
        try:
            with beam.Pipeline("FnApiRunner") as pipeline:
                source = ReadPubSub(
                    f"projects/pro-test/subscriptions/{name}", schema=SCHEMA, stop_when_idle=10
                )
                kept.keep(pipeline | source)
        except Exception as error:
            failed.append(error)

    with pubsub_emulator(tmp_path, port):
        queue = Queue(name)
        queue.publish(*[flight(n) for n in range(200)])
        reading = threading.Thread(target=read)
        reading.start()
        wait_until(lambda: failed or len(kept.rows()) >= 200)
    assert not failed
    time.sleep(2)
    with pubsub_emulator(tmp_path, port):
        queue = Queue(name)
        queue.publish(*[flight(n) for n in range(200, 400)])
        reading.join(120)
    assert not reading.is_alive()
    assert not failed
    assert {row["n"] for row in kept.rows()} == set(range(400))
    assert kept.adds_up()


KILLED = """
import pathlib, sys, time
import apache_beam as beam
from tests.transforms.sources.test_pubsub import SCHEMA, Kept
from skewless.transforms.sources.pubsub import ReadPubSub

def slowly(batch):
    time.sleep(0.3)
    return batch

if __name__ == "__main__":
    with beam.Pipeline("FnApiRunner") as pipeline:
        source = ReadPubSub(
            sys.argv[1], schema=SCHEMA, stop_when_idle=25, batch_rows=50, lease_seconds=20
        )
        rows = pipeline | source
        kept = Kept(pathlib.Path(sys.argv[2]))
        kept.keep(rows._replace(rows=rows.rows | "Slowly" >> beam.Map(slowly)))
"""


@pytest.mark.integration
def test_what_was_acknowledged_is_there_after_a_kill(emulator: int, tmp_path: pathlib.Path) -> None:
    queue, kept = Queue(), Kept(tmp_path)
    queue.publish(*[flight(n) for n in range(3000)])
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [python(), str(script), queue.subscription, str(tmp_path)]
    root = pathlib.Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            wait_until(lambda: first.poll() is not None or len(kept.rows()) >= 1_500)
            assert first.poll() is None, (tmp_path / "log").read_text()[-2000:]
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        before = {row["n"] for row in kept.rows()}
        assert len(before) < 3000
        subprocess.run(command, env=env, stdout=log, stderr=log, check=True, timeout=300)
    assert {row["n"] for row in kept.rows()} == set(range(3000))
    assert queue.drain() == []
