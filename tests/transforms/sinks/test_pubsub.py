"""Publishing rows."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from skewless.errors import DataError, RecipeError
from skewless.transforms.sinks import pubsub
from skewless.transforms.sinks.pubsub import WritePubSub, WriteRejectedToPubSub
from skewless.transforms.sources.pubsub import ReadPubSub
from tests.servers.pubsub import Emulator, Queue, pubsub_emulator
from tests.transforms.sources.pubsub import SCHEMA
from tests.transforms.sources.streams import Kept, write, written

HOUR = 3600 * 10**6


def test_a_sinks_arguments_are_checked() -> None:
    with pytest.raises(RecipeError, match="expected projects/<project>/topics/<topic>"):
        WriteRejectedToPubSub("dead")
    with pytest.raises(RecipeError, match=r'write attributes=\["n"\]'):
        WritePubSub("projects/pro-test/topics/abc", "n")
    with pytest.raises(RecipeError, match="rename the column"):
        WritePubSub("projects/pro-test/topics/abc", ["topic"])


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with pubsub_emulator(tmp_path_factory.mktemp("pubsub")) as emulator:
        yield emulator


@pytest.mark.integration
def test_what_is_written_can_be_read(emulator: Emulator, tmp_path: pathlib.Path) -> None:
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
def test_each_window_is_counted(emulator: Emulator, tmp_path: pathlib.Path) -> None:
    queue = Queue()
    batches = [pa.record_batch({"n": range(n)}) for n in (1, 2, 3)]
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(list(enumerate(batches)))
            | beam.MapTuple(lambda i, batch: TimestampedValue(batch, 5 * i))
            | beam.WindowInto(FixedWindows(10))
            | WritePubSub(queue.topic)
            | beam.Map(lambda n, window=beam.DoFn.WindowParam: (int(window.start), n))
            | beam.GroupByKey()
            | beam.MapTuple(lambda start, counts: (start, sum(counts)))
            | beam.Map(write, tmp_path)
        )
    assert sorted(written(tmp_path)) == [(0, 3), (10, 3)]
    assert len(queue.drain(6)) == 6


@pytest.mark.integration
def test_a_missing_topic_is_an_error_before_the_run(emulator: Emulator) -> None:
    batches = beam.Pipeline("FnApiRunner") | beam.Create([pa.record_batch({"n": [1]})])
    topic = "projects/pro-test/topics/none-such"
    with pytest.raises(DataError, match=rf'WritePubSub\("{topic}"\): there is no such topic'):
        _ = batches | WritePubSub(topic)
    with pytest.raises(DataError, match=rf'PubSub\("{topic}"\): there is no such topic; create'):
        _ = batches | WriteRejectedToPubSub(topic)


@pytest.mark.integration
def test_a_server_or_credentials_that_go_away_are_one_clear_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "_PUBLISH_SECONDS", 3.0)
    with pubsub_emulator(tmp_path) as emulator:
        queue = Queue()
        pipeline = beam.Pipeline("FnApiRunner")
        batches = pipeline | beam.Create([pa.record_batch({"n": [1]})])
        _ = batches | WritePubSub(queue.topic)
        emulator.kill()
        said = rf"{queue.topic}: Pub/Sub cannot be reached or refuses \(.+\); check the network"
        with pytest.raises(Exception, match=said):
            pipeline.run()
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(Exception, match=f"{queue.topic}: no valid Google Cloud credentials"):
        pipeline.run()
