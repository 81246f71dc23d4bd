"""A stream of Pub/Sub on Prism, Beam's runner of one machine: all of it is as in batch."""

from __future__ import annotations

import contextlib
import pathlib

import pyarrow as pa
import pytest

from skewless.pipeline.journey import Journey, journey
from skewless.pipeline.stages import Quiet
from skewless.transforms.online import open_store
from tests.end_to_end.streamed_flights import (
    check_tiles,
    departures_of_2013,
    streaming,
    write_csv,
    write_recipe,
)
from tests.end_to_end.test_stream import check_examples, check_ledger, plant, publish
from tests.servers import prism
from tests.servers.pubsub import Queue, pubsub_emulator
from tests.what_works import works

pytestmark = pytest.mark.integration

FLIGHTS = 3_000


@works("a stream of Pub/Sub", "Prism")
def test_a_stream_ends_with_what_batch_makes(tmp_path: pathlib.Path) -> None:
    sent = plant(departures_of_2013(FLIGHTS))
    accepted = sent.table.filter(pa.array([i not in sent.late for i in range(len(sent.table))]))
    few = write_csv(accepted.take(pa.array(range(0, len(accepted), 5))), tmp_path / "flights.csv")
    recipe = write_recipe(tmp_path, few, "recipe")
    run = journey(Journey(recipe, tmp_path / "runs", until="transform"), Quiet()).paths
    address, output = str(tmp_path / "store.sqlite"), tmp_path / "out"
    arguments = ["--run", str(run.root), "--store", address, "--output", str(output)]
    arguments += ["--hold", "30m", "--keep", "400d", "--remember", "400d", "--stop-when-idle", "10"]
    arguments += ["--runner", "prism", f"--prism_location={prism.install()}"]
    with pubsub_emulator(tmp_path):
        queue = Queue()
        publish(queue, sent.messages)
        source = [str(recipe), "--source", f"pubsub:{queue.subscription}"]
        with streaming(tmp_path / "stream.log", *source, *arguments) as process:
            process.end()
        assert queue.drain() == []
    with contextlib.closing(open_store(address)) as store:
        check_ledger(store, sent, output)
        check_tiles(store, recipe, run, accepted, tmp_path)
    check_examples(run, sent.table, output, tmp_path / "whole")
