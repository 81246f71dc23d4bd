"""Following a Pub/Sub subscription, also one that is out of reach for a while."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.transforms.window import FixedWindows

from skewless.errors import DataError
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.pubsub import WritePubSub, WriteRejectedToPubSub
from skewless.transforms.sources import pubsub_reader
from skewless.transforms.sources.pubsub import ReadPubSub
from tests.servers import prism
from tests.servers.process import free_port, python
from tests.servers.pubsub import Emulator, Queue, pubsub_emulator
from tests.transforms.sources.pubsub import (
    POISON,
    SCHEMA,
    check_dead_letters,
    check_poison,
    flight,
)
from tests.transforms.sources.streams import Kept, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with pubsub_emulator(tmp_path_factory.mktemp("pubsub")) as emulator:
        yield emulator


def test_a_stream_in_and_out(emulator: Emulator, tmp_path: pathlib.Path) -> None:
    queue, out, dead, kept = Queue(), Queue(), Queue(), Kept(tmp_path)
    pipeline = prism.streaming_pipeline()
    rows = pipeline | ReadPubSub(
        queue.subscription, schema=SCHEMA, timestamp_attribute="at", id_attribute="key"
    )
    kept.keep(rows)
    windowed = rows.rows | beam.WindowInto(FixedWindows(60))
    _ = windowed | WritePubSub(out.topic, attributes=["n"])
    _ = rows.rejected | beam.Flatten() | WriteRejectedToPubSub(dead.topic)
    running = pipeline.run()
    try:
        queue.publish(*[flight(n) for n in range(200)], *POISON, *[flight(n) for n in range(6)])
        until(lambda: kept.counts()["read"] >= 210)
        queue.publish(*[flight(n) for n in range(190, 300)])
        until(lambda: kept.counts()["read"] >= 320)
        until(kept.adds_up)
        found = out.drain(300)
    finally:
        running.cancel()
    assert kept.counts() == {"read": 320, "duplicate": 16}
    assert sorted(row["n"] for row in kept.rows()) == list(range(300))
    assert len({(row[FILE], row[OFFSET]) for row in kept.rows()}) == 300
    assert all(time == min(row["n"] for row in batch) * 10**6 for batch, time in kept.batches())
    assert sorted(json.loads(one.data)["n"] for one in found) == list(range(300))
    assert all(one.attributes["n"] == str(json.loads(one.data)["n"]) for one in found)
    check_poison(kept.rejected(), queue.subscription)
    check_dead_letters(dead)
    assert queue.drain() == []  # all is acknowledged


def test_a_stream_on_the_direct_runner(emulator: Emulator, tmp_path: pathlib.Path) -> None:
    queue, dead, kept = Queue(), Queue(), Kept(tmp_path)
    pipeline = beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(["--streaming"]))
    rows = pipeline | ReadPubSub(
        queue.subscription, schema=SCHEMA, timestamp_attribute="at", id_attribute="key"
    )
    kept.keep(rows)
    _ = rows.rejected | beam.Flatten() | WriteRejectedToPubSub(dead.topic)
    running = pipeline.run()
    try:
        queue.publish(*[flight(n) for n in range(20)], *POISON, *[flight(n) for n in range(6)])
        until(lambda: kept.counts()["read"] >= 30)
        until(kept.adds_up)
        queue.publish(*[flight(n) for n in range(20, 30)])
        until(lambda: kept.counts()["read"] >= 40)
        until(kept.adds_up)
        assert sorted(row["n"] for row in kept.rows()) == list(range(30))
        assert kept.counts() == {"read": 40, "duplicate": 6}
        check_poison(kept.rejected(), queue.subscription)
        check_dead_letters(dead)
        for batch, timestamp in kept.batches():
            assert timestamp == min(row["n"] for row in batch) * 10**6
    finally:
        # Without a message Beam's own reader would let go of the line after 30 s only.
        threading.Timer(0.3, queue.publish, [flight(99)]).start()
        running.cancel()


class Reading:
    """A pipeline that reads a subscription in a thread."""

    def __init__(self, kept: Kept, subscription: str, stop_when_idle: float) -> None:
        self._source = ReadPubSub(subscription, schema=SCHEMA, stop_when_idle=stop_when_idle)
        self._kept = kept
        self.failed: list[Exception] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            with beam.Pipeline("FnApiRunner") as pipeline:
                self._kept.keep(pipeline | self._source)
        except Exception as error:
            self.failed.append(error)

    def until_rows(self, rows: int) -> None:
        until(lambda: bool(self.failed) or len(self._kept.rows()) >= rows)
        assert not self.failed

    def join(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive()


def test_the_read_goes_on_when_the_server_comes_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, port = Kept(tmp_path), free_port()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")  # in between, too
    with pubsub_emulator(tmp_path, port):
        queue = Queue("restart")
        queue.publish(*[flight(n) for n in range(200)])
        # Long enough for a slow machine to publish what is to come.
        reading = Reading(kept, queue.subscription, stop_when_idle=10)
        reading.until_rows(200)
    time.sleep(12)
    with pubsub_emulator(tmp_path, port):
        Queue("restart").publish(*[flight(n) for n in range(200, 400)])
        reading.join()
    assert not reading.failed
    assert kept.numbers() == set(range(400))
    assert kept.adds_up()


def test_a_dead_line_is_not_the_end_of_the_messages(
    emulator: Emulator, tmp_path: pathlib.Path
) -> None:
    queue, kept = Queue(), Kept(tmp_path)
    queue.publish(*[flight(n) for n in range(200)])
    reading = Reading(kept, queue.subscription, stop_when_idle=2)
    reading.until_rows(200)
    # Sent while nobody answers, they are there as soon as somebody does.
    more = [flight(n) for n in range(200, 400)]
    sending = threading.Thread(target=queue.publish, args=more)
    with emulator.frozen():
        time.sleep(6)
        sending.start()
        time.sleep(2)  # no longer: a publisher would send them again
    sending.join()
    reading.join()
    assert not reading.failed
    assert kept.numbers() == set(range(400))
    distinct = {(row[FILE], row[OFFSET]): row["n"] for row in kept.rows()}
    assert sorted(distinct.values()) == list(range(400))
    assert kept.adds_up()
    assert queue.drain() == []


@pytest.mark.parametrize("frozen", [True, False])
def test_a_server_that_stays_away_is_one_clear_line(
    frozen: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_PATIENCE_SECONDS", "_SILENCE_SECONDS", "_ASK_SECONDS"):
        monkeypatch.setattr(pubsub_reader, name, 2.0)
    with pubsub_emulator(tmp_path) as emulator:
        queue = Queue()
        reader = pubsub_reader.Subscription(queue.subscription).create_reader(None, None)
        queue.publish(flight(1))
        until(reader.start)
        with emulator.frozen() if frozen else contextlib.nullcontext():
            if not frozen:
                emulator.kill()
            said = rf"{queue.subscription}: Pub/Sub cannot be reached or refuses \(.+\); check"
            with pytest.raises(DataError, match=said) as caught:
                until(reader.advance, 40)
    assert "\n" not in str(caught.value)


KILLED = """
import pathlib, sys, time
import apache_beam as beam
from tests.transforms.sources.pubsub import SCHEMA
from tests.transforms.sources.streams import Kept
from skewless.transforms.sources.pubsub import ReadPubSub

def slowly(batch):
    time.sleep(0.3)
    return batch

if __name__ == "__main__":
    with beam.Pipeline("FnApiRunner") as pipeline:
        source = ReadPubSub(
            sys.argv[1], schema=SCHEMA, stop_when_idle=25, batch_rows=50, lease_seconds=10
        )
        rows = pipeline | source
        kept = Kept(pathlib.Path(sys.argv[2]))
        kept.keep(rows._replace(rows=rows.rows | "Slowly" >> beam.Map(slowly)))
"""


def test_what_was_acknowledged_is_there_after_a_kill(
    emulator: Emulator, tmp_path: pathlib.Path
) -> None:
    queue, kept = Queue(), Kept(tmp_path)
    queue.publish(*[flight(n) for n in range(1_000)])
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [python(), str(script), queue.subscription, str(tmp_path)]
    root = pathlib.Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            until(lambda: first.poll() is not None or len(kept.rows()) >= 300)
            assert first.poll() is None, (tmp_path / "log").read_text()[-2000:]
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        assert len(kept.numbers()) < 1_000
        subprocess.run(command, env=env, stdout=log, stderr=log, check=True, timeout=300)
    assert kept.numbers() == set(range(1_000))
    assert queue.drain() == []
