"""A stream on a cluster of Flink, of which a TaskManager is killed: tiles are as in batch."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pytest

from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.journey import Journey, journey
from skewless.pipeline.stages import Quiet
from skewless.pipeline.streaming import stream_ledger
from skewless.transforms.live.microbatches import read_counts
from skewless.transforms.online import open_store
from tests.end_to_end.streamed_flights import (
    check_tiles,
    departures_of_2013,
    examples,
    reads,
    streaming,
    write_csv,
    write_recipe,
)
from tests.end_to_end.test_stream import Sent, check_ledger, plant, publish
from tests.servers import flink
from tests.servers.pubsub import Emulator, Queue
from tests.servers.redis import Redis
from tests.what_works import works

pytestmark = pytest.mark.integration

FLIGHTS, FEW_FLIGHTS = 10_000, 3_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink.SessionCluster]:
    with flink.session_cluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


class Planned(NamedTuple):
    """A recipe, which streams from a subscription of its own, and a run of every tenth flight."""

    sent: Sent
    recipe: pathlib.Path
    run: RunPaths
    queue: Queue


@pytest.fixture(scope="module")
def planned(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    del emulator
    folder = tmp_path_factory.mktemp("planned")
    sent = plant(departures_of_2013(FLIGHTS))
    accepted = accepted_of(sent)
    few = write_csv(accepted.take(pa.array(range(0, len(accepted), 10))), folder / "flights.csv")
    recipe = write_recipe(folder, few, "recipe")
    # What was in work when a stream stopped is free again when the lease ends, for which it waits.
    own = 'stream=sk.ReadPubSub("projects/pro-test/subscriptions/own", lease_seconds=10),'
    recipe.write_text(recipe.read_text().replace("seed=1,", f"seed=1,\n    {own}"))
    run = journey(Journey(recipe, folder / "runs", until="transform"), Quiet()).paths
    return Planned(sent, recipe, run, Queue("own"))


def accepted_of(sent: Sent) -> pa.Table:
    return sent.table.filter(pa.array([i not in sent.late for i in range(len(sent.table))]))


def arguments_of(
    planned: Planned, cluster: flink.SessionCluster, store: str, output: pathlib.Path
) -> list[str]:
    """Return the arguments of `skewless stream` on a cluster."""
    arguments = [str(planned.recipe), "--run", str(planned.run.root), "--store", store]
    arguments += ["--output", str(output), "--hold", "30m", "--keep", "400d", "--remember", "400d"]
    arguments += ["--runner", "flink", f"--flink_master={cluster.master}"]
    arguments += [f"--flink_job_server_jar={flink.job_server_jar()}"]
    return [*arguments, "--checkpointing_interval=2000"]


@works("a stream goes on after a kill", "Flink cluster")
@works("a stream of Pub/Sub", "Flink cluster")
def test_a_job_goes_on_from_its_checkpoint_when_a_task_manager_is_killed(
    durable_redis: Redis, cluster: flink.SessionCluster, planned: Planned, tmp_path: pathlib.Path
) -> None:
    sent, recipe, run, queue = planned
    half = len(sent.messages) // 2
    publish(queue, sent.messages[:half])
    address, output = f"{durable_redis.url}?prefix=flink:", tmp_path / "out"
    # Longer than the lease: what the dead worker had in work comes again, and is waited for.
    arguments = [*arguments_of(planned, cluster, address, output), "--stop-when-idle", "20"]
    with (
        contextlib.closing(open_store(address)) as store,
        streaming(tmp_path / "stream.log", *arguments) as process,
    ):
        process.until(lambda: reads(store) >= half // 2)
        cluster.kill_task_manager("taskmanager-1")
        rest = threading.Thread(target=publish, args=[queue, sent.messages[half:]])
        rest.start()
        cluster.start_task_manager()
        rest.join()
        process.end()
        check_ledger(store, sent, output)
        check_tiles(store, recipe, run, accepted_of(sent), tmp_path)
        written = stream_ledger(read_counts(store), "flights").total("flights", "written")
    assert restored(cluster) >= 1
    # Each row once. What came again after its lease came days late by the time of the flights,
    # so that rows did not wait for it, and need not know what they know in batch.
    files = sorted((output / "examples").rglob("*.tfrecord.gz"))
    assert sum(examples(files).values()) == written
    assert queue.drain() == []


@works("a stream goes on from a savepoint", "Flink cluster")
def test_a_stream_that_was_stopped_with_a_savepoint_goes_on_from_it(
    durable_redis: Redis, cluster: flink.SessionCluster, planned: Planned, tmp_path: pathlib.Path
) -> None:
    _, recipe, run, queue = planned
    sent = plant(departures_of_2013(FEW_FLIGHTS))
    half = len(sent.messages) // 2
    publish(queue, sent.messages[:half])
    address, output = f"{durable_redis.url}?prefix=savepoint:", tmp_path / "out"
    arguments = [*arguments_of(planned, cluster, address, output), "--stop-when-idle", "8"]
    arguments += ["--externalized_checkpoints_enabled"]
    arguments += ["--retain_externalized_checkpoints_on_cancellation"]
    with contextlib.closing(open_store(address)) as store:
        with streaming(tmp_path / "first.log", *arguments) as process:
            process.until(lambda: reads(store) >= half // 2)
            (job,) = cluster.running()
            kept = cluster.get(f"jobs/{job}/checkpoints/config")["externalization"]
            assert kept == {"enabled": True, "delete_on_cancellation": False}
            savepoint = cluster.stop_with_savepoint(job)
            process.until(lambda: not process.is_running())
            # Rows that wait are not let go: the stream has not ended.
            assert "start it again" in process.said()
            assert read_counts(store)["waiting", ""] > 0
        publish(queue, sent.messages[half:])
        arguments.append(f"--savepoint_path={savepoint}")
        with streaming(tmp_path / "second.log", *arguments) as process:
            process.until(lambda: bool(cluster.running()))
            (job,) = cluster.running()
            process.end()
        told = cluster.get(f"jobs/{job}/checkpoints")
        assert told["counts"]["restored"] == 1
        assert told["latest"]["restored"]["is_savepoint"]
        assert told["latest"]["restored"]["external_path"] == savepoint
        check_ledger(store, sent, output)
        check_tiles(store, recipe, run, accepted_of(sent), tmp_path)


def restored(cluster: flink.SessionCluster) -> int:
    """Return how often a job went on from a checkpoint."""
    jobs = [job["id"] for job in cluster.get("jobs")["jobs"]]
    return sum(cluster.get(f"jobs/{job}/checkpoints")["counts"]["restored"] for job in jobs)
