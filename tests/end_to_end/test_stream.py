"""The acceptance of streams: 50,000 flights out of order, and a process that is killed.

A real Pub/Sub emulator, a real Redis, and `skewless stream` as a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import random
import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from google.pubsub_v1 import PublisherClient

from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.journey import Journey, journey
from skewless.pipeline.stages import Quiet
from skewless.pipeline.streaming import stream_ledger
from skewless.transforms import pubsub_client
from skewless.transforms.apply import load_transform
from skewless.transforms.live.microbatches import read_counts
from skewless.transforms.online import OnlineStore, open_store
from skewless.transforms.online.redis import load_client
from skewless.transforms.sinks.tfrecord_file import TFRecordFile, TFRecordOptions
from tests.end_to_end.streamed_flights import (
    check_tiles,
    departures_of_2013,
    examples,
    key_of,
    reads,
    rejected_in,
    streaming,
    with_arrival,
    write_csv,
    write_recipe,
)
from tests.flights import json_lines
from tests.servers.pubsub import Emulator, Queue
from tests.servers.redis import Redis
from tests.what_works import works

pytestmark = pytest.mark.integration

FLIGHTS = 50_000
DISORDER = 20 * 60  # seconds


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


def publish(queue: Queue, messages: Sequence[bytes]) -> None:
    """Publish in order: the client's own batches may overtake each other."""
    client = pubsub_client.publisher()
    for at in range(0, len(messages), 1_000):
        some = [{"data": message} for message in messages[at : at + 1_000]]
        PublisherClient.publish(client, topic=queue.topic, messages=some, timeout=60)


def stored_places(durable_redis: Redis, prefix: str, group: str) -> int:
    """Return how many tiles of a group there are, past the store's own reader."""
    client = load_client().Redis.from_url(durable_redis.url)
    quoted = group.replace("@", "%40")
    keys = list(client.scan_iter(match=f"{prefix}tiles:{quoted}:*", count=10_000))
    return sum(client.zcard(key) for key in keys)


@works("a stream goes on after a kill", "in process")
@works("a stream of Pub/Sub", "in process")
def test_a_stream_that_was_killed_is_as_batch(
    emulator: Emulator, durable_redis: Redis, tmp_path: pathlib.Path
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
    address, output = f"{durable_redis.url}?prefix=acceptance:", tmp_path / "out"
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
        assert held == {name: stored_places(durable_redis, "acceptance:", name) for name in held}
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
    late = [key_of(json.loads(row.payload)) for row in rejected_in(output / "rejected", "Late")]
    assert sorted(late) == sorted(map(key_of, sent.table.take(sorted(sent.late)).to_pylist()))


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
