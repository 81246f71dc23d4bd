"""Flink: where it runs, with which options, and what is missing."""

import json
import os

import pytest

from skewless.launch.runners import flink
from skewless.launch.runners.flags import Flags
from tests.launch.runners.programs import answering, java
from tests.servers.process import free_port

OVERVIEW = {"flink-version": "1.19.0", "slots-total": 4, "slots-available": 3}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = java(tmp_path / "java", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(folder))


@pytest.fixture
def jar(tmp_path):
    file = tmp_path / "server.jar"
    file.write_bytes(b"")
    return f"--flink_job_server_jar={file}"


def cluster(**overview):
    return answering({"/overview": json.dumps(OVERVIEW | overview).encode()})


def test_alone_it_works_in_this_process_on_all_cores(jar: str) -> None:
    words = flink.options(Flags([jar]), streaming=False)
    assert words == [
        jar,
        "--flink_master=[local]",
        "--environment_cache_millis=10000",
        "--environment_type=LOOPBACK",
        f"--parallelism={os.cpu_count()}",
    ]


def test_a_stream_has_one_worker_and_checkpoints() -> None:
    words = flink.options(Flags(["--checkpointing_interval=2000"]), streaming=True)
    assert {"--streaming", "--parallelism=1", "--finish_bundle_before_checkpointing"} < set(words)
    assert [word for word in words if "interval" in word] == ["--checkpointing_interval=2000"]


def test_on_a_cluster_it_takes_all_slots() -> None:
    with cluster() as (master, _):
        words = flink.options(Flags([f"--flink_master={master}"]), streaming=False)
    assert "--parallelism=4" in words
    assert "--environment_type=LOOPBACK" in words


def test_a_cluster_elsewhere_has_workers_beside_it() -> None:
    given = ["--flink_master=cluster.example:8081"]
    words = flink.options(Flags(given), streaming=True)
    assert {"--environment_type=EXTERNAL", "--environment_config=localhost:50000"} < set(words)
    words = flink.options(Flags([*given, "--environment_type=DOCKER"]), streaming=True)
    assert [word for word in words if "environment_" in word] == [
        "--environment_type=DOCKER",
        "--environment_cache_millis=10000",
    ]


def test_all_is_there(jar: str) -> None:
    with cluster() as (master, _):
        found = list(flink.check(Flags([jar, f"--flink_master={master}"]), streaming=False))
    assert all(finding.ok for finding in found)
    assert f"Flink 1.19.0 at {master}, 3 of 4 slots free" in [finding.what for finding in found]


def test_a_cluster_without_task_managers(jar: str) -> None:
    with cluster(**{"slots-total": 0}) as (master, _):
        found = list(flink.check(Flags([jar, f"--flink_master={master}"]), streaming=False))
    assert [one.what for one in found if not one.ok] == [
        f"the Flink cluster at {master} has no TaskManager"
    ]


@pytest.mark.parametrize("body", [None, b"<html>", b"{}"])
def test_something_else_is_no_cluster(body: bytes | None, jar: str) -> None:
    bodies = {} if body is None else {"/overview": body}
    with answering(bodies) as (master, _):
        found = list(flink.check(Flags([jar, f"--flink_master={master}"]), streaming=False))
    (wrong,) = [one for one in found if not one.ok]
    assert wrong.what.startswith(f"no Flink cluster answers at {master}: ")
    assert "--flink_master=HOST:PORT" in wrong.repair


def test_a_version_without_a_job_server_is_told(jar: str) -> None:
    with cluster(**{"flink-version": "1.14.6"}) as (master, _):
        words = [f"--flink_master={master}"]
        _, found, *_ = flink.check(Flags(words), streaming=False)
        # Who brings a jar knows what it is for.
        assert all(one.ok for one in flink.check(Flags([*words, jar]), streaming=False))
    assert not found.ok
    assert found.what.startswith(
        f"Flink 1.14.6 at {master}: the installed Beam has job servers for"
    )
    assert "--flink_job_server_jar" in found.repair


def test_nobody_is_no_cluster(jar: str) -> None:
    master = f"127.0.0.1:{free_port()}"
    found = list(flink.check(Flags([jar, f"--flink_master={master}"]), streaming=False))
    assert ["refused" in one.what for one in found if not one.ok] == [True]


def test_the_server_is_for_the_cluster(jar: str, tmp_path) -> None:
    assert flink.server(Flags([jar, "--flink_master=cluster:8081"])) == [
        f"{tmp_path}/java/bin/java",
        "-jar",
        str(tmp_path / "server.jar"),
        "--flink-master",
        "cluster:8081",
    ]


@pytest.mark.parametrize(("cluster_has", "taken"), [("1.19.0", "1.19"), ("9.1.0", None)])
def test_the_job_server_is_for_the_version_of_the_cluster(cluster_has, taken, tmp_path) -> None:
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    with cluster(**{"flink-version": cluster_has}) as (master, _):
        given = Flags([f"--flink_master={master}", f"--jar_cache_dir={tmp_path}"])
        version = taken or FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS[-1]
        jar = tmp_path / f"beam-runners-flink-{version}-job-server-2.77.0.jar"
        jar.write_bytes(b"")
        assert str(jar) in flink.server(given)


def test_what_goes_on_of_a_job_is_cancelled() -> None:
    jobs = [
        {"jid": "1", "name": "mine-1", "state": "RUNNING"},
        {"jid": "2", "name": "mine-1", "state": "FINISHED"},
        {"jid": "3", "name": "other", "state": "RUNNING"},
    ]
    bodies = {"/jobs/overview": json.dumps({"jobs": jobs}).encode()}
    bodies["/jobs/1?mode=cancel"] = b"{}"
    with answering(bodies) as (master, asked):
        flink.cancel(Flags([f"--flink_master={master}"]), "mine-1_5ab1-77")
    assert asked == ["GET /jobs/overview", "PATCH /jobs/1?mode=cancel"]


def test_nothing_is_cancelled_where_there_is_no_cluster() -> None:
    flink.cancel(Flags([]), "mine-1_5ab1")
    flink.cancel(Flags([f"--flink_master=127.0.0.1:{free_port()}"]), "mine-1_5ab1")
