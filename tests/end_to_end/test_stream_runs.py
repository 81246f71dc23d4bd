"""Streams beside runs: verified, after a backfill, and with the newest run's model."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import confluent_kafka
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import SPLITS
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet
from skewless.pipeline.streaming import stream_ledger
from skewless.transforms.live.microbatches import read_counts
from skewless.transforms.online import open_store
from tests.end_to_end.streamed_flights import (
    check_tiles,
    departures_of_2013,
    examples,
    key_of,
    reads,
    streaming,
    with_arrival,
    write_csv,
    write_recipe,
)
from tests.flights import json_lines
from tests.servers.kafka import Broker, running_broker
from tests.transforms.live.small import stored_tiles

pytestmark = pytest.mark.integration

FLIGHTS = 50_000


@pytest.fixture(scope="module")
def some_flights() -> pa.Table:
    """5,000 flights; of some the news came in late."""
    every = departures_of_2013(FLIGHTS).take(pa.array(range(0, FLIGHTS, 10)))
    return with_arrival(every, range(7, len(every), 200))


@pytest.fixture(scope="module")
def whole_run(some_flights: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run with a model that was blessed: nothing may change it."""
    folder = tmp_path_factory.mktemp("whole_run")
    csv = write_csv(some_flights, folder / "flights.csv")
    recipe = write_recipe(folder, csv, "small_stream_recipe")
    made = journey(Journey(recipe, folder / "runs"), Quiet())
    assert made.blessing is not None
    assert made.blessing["blessed"]
    return made


def test_verify_streams_in_several_ways(
    whole_run: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["verify", str(whole_run.paths.root), "--stream", "--limit", "3000"])
    said = capsys.readouterr().err
    assert code == 0, said
    assert "no bit differs" in said
    for way in ("in order, 1,000 at once", "shuffled, 1% twice", "in order, one by one"):
        for what in ("rows", "features", "tiles"):
            assert f"{way}: {what}" in said


def test_history_and_then_files(
    whole_run: Result,
    some_flights: pa.Table,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first half is history, the rest comes, and 100 flights are in both."""
    other = write_recipe(tmp_path, tmp_path / "history.csv", "other")
    recipe = write_recipe(
        tmp_path, write_csv(some_flights.slice(0, 2_500), tmp_path / "flights.csv"), "history"
    )
    rest = write_csv(some_flights.slice(2_400), tmp_path / "rest.csv")
    address, run = str(tmp_path / "store.db"), str(whole_run.paths.root)
    common = ["--run", run, "--store", address, "--remember", "400d"]
    assert main(["backfill", str(other), *common]) == 1
    assert 'the run has no schema of the input "history"' in capsys.readouterr().err
    assert main(["backfill", str(recipe), *common, "--keep", "400d"]) == 0
    assert " tiles in " in capsys.readouterr().err
    output = tmp_path / "out"
    streamed = ["stream", str(recipe), *common, "--source", str(rest), "--output", str(output)]
    assert main(streamed) == 0
    on_time = some_flights.filter(
        pc.equal(some_flights["arrived"], some_flights["departed"]).fill_null(True)
    )
    with contextlib.closing(open_store(address)) as store:
        held = check_tiles(store, recipe, whole_run.paths, on_time, tmp_path)
        assert held == {name: len(stored_tiles(address, name)) for name in held}
        ledger = stream_ledger(read_counts(store), "flights")
        assert ledger.total("flights", "read") == 2_600
        assert ledger.total("flights", "duplicate") >= 100 - 10
    # The rows of the rest are those of the run, whose examples they are.
    expected = examples([p for split in SPLITS for p in whole_run.paths.example_parts(split)])
    found = examples(sorted((output / "examples").rglob("*.tfrecord.gz")))
    assert sum(found.values()) == ledger.total("flights", "written") > 2_000
    assert not found - expected
    # No second backfill over a stream.
    assert main(["backfill", str(recipe), *common]) == 1
    assert "a stream has written to this store" in capsys.readouterr().err


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory.mktemp("kafka"))


def test_predictions_to_kafka_by_the_newest_run(
    broker: Broker, whole_run: Result, some_flights: pa.Table, tmp_path: pathlib.Path
) -> None:
    recipe = whole_run.paths.root.parents[2] / "small_stream_recipe.py"
    runs = tmp_path / "runs"
    shutil.copytree(whole_run.paths.root, runs / "first")
    source, sink = broker.create(), broker.create()
    arguments = [str(recipe), "--source", f"kafka:{broker.servers}/{source}", "--run", str(runs)]
    # Without windows no row waits for the end of one.
    arguments += ["--to", f"kafka:{broker.servers}/{sink}", "--predict", "--window", "0s"]
    arguments += ["--store", str(tmp_path / "store.db"), "--output", str(tmp_path / "out")]
    flights = some_flights.slice(0, 3_000)
    fit = pc.and_(
        pc.is_valid(flights["arr_delay"]),
        pc.equal(flights["arrived"], flights["departed"]).fill_null(False),
    ).to_pylist()
    bodies = json_lines(flights)
    halves = [sum(fit[:1500]), sum(fit)]
    with streaming(tmp_path / "stream.log", *arguments) as process:
        broker.produce(source, bodies[:1500])
        process.until(lambda: sent_to(broker, sink) >= halves[0])
        # A newer run is there from one moment to the next.
        shutil.copytree(whole_run.paths.root, tmp_path / "coming")
        (tmp_path / "coming" / "manifest.json").touch()
        (tmp_path / "coming").rename(runs / "second")
        time.sleep(6)
        broker.produce(source, bodies[1500:])
        process.until(lambda: sent_to(broker, sink) >= halves[1])
        found = [json.loads(one.value()) for one in broker.consume(sink, halves[1])]
        assert [row["_version"] for row in found[: halves[0]]] == ["first"] * halves[0]
        assert {row["_version"] for row in found[halves[0] :]} == {"second"}
        # A micro-batch is the work of one version.
        versions = {(row["_id"].partition("-")[0], row["_version"]) for row in found}
        assert len(versions) == len({number for number, _ in versions}) > 1
        assert process.is_running()
        process.kill()
        # What was sent and may not have been is sent again, as what it was.
        process.start()
        broker.produce(source, bodies[:10])
        time.sleep(1)
        process.until(lambda: reads(open_store(tmp_path / "store.db")) >= 3_010)
    assert sent_to(broker, sink) >= halves[1]
    messages = broker.consume(sink, sent_to(broker, sink))
    check_messages(messages, [row for row, good in zip(bodies, fit, strict=True) if good])


def sent_to(broker: Broker, topic: str) -> int:
    place = confluent_kafka.TopicPartition(topic, 0)
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.servers, "group.id": "counting"}
    )
    _, end = consumer.get_watermark_offsets(place, timeout=10)
    consumer.close()
    return int(end)


def check_messages(messages: Sequence[Any], bodies: Sequence[bytes]) -> None:
    """Check that each flight was sent, with a prediction; again only as it was."""
    by_id: dict[str, dict[str, Any]] = {}
    for message in messages:
        row = json.loads(message.value())
        headers = {name: value.decode() for name, value in message.headers()}
        assert headers == {"_id": row["_id"], "_version": row["_version"]}
        assert 0 < row["prediction"] < 1
        assert len(row["features.carrier"]) == 1
        assert {"origin_departures_1h", "origin_delay_24h", "temp"} & set(row)
        assert by_id.setdefault(row["_id"], row) == row
    flights = [json.loads(body) for body in bodies]
    assert sorted(key_of(row) for row in by_id.values()) == sorted(map(key_of, flights))
