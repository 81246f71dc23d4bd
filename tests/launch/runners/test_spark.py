"""Spark: where it runs, with which options, and what is missing."""

import socket

import pytest

from skewless.launch.runners import spark
from skewless.launch.runners.flags import Flags
from tests.launch.runners.programs import java
from tests.servers.process import free_port


@pytest.fixture(autouse=True)
def given(tmp_path, monkeypatch):
    folder = java(tmp_path / "java", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(folder))
    (tmp_path / "server.jar").write_bytes(b"")
    return [f"--spark_job_server_jar={tmp_path}/server.jar"]


def test_no_stream(given) -> None:
    (finding,) = spark.check(Flags(given), streaming=True)
    assert not finding.ok
    assert finding.repair == "stream with --runner flink, or --runner direct"


@pytest.mark.parametrize("master", ["local", "local[3]", "local[*]", "spark://localhost:7077"])
def test_here_workers_are_in_this_process(master: str) -> None:
    words = spark.options(Flags([f"--spark_master_url={master}"]), streaming=False)
    assert "--environment_type=LOOPBACK" in words


@pytest.mark.parametrize("master", ["spark://cluster.example", "local.example:7077"])
def test_elsewhere_workers_are_beside_it(master: str) -> None:
    words = spark.options(Flags([f"--spark_master_url={master}"]), streaming=False)
    assert {"--environment_type=EXTERNAL", "--environment_config=localhost:50000"} < set(words)


def test_all_is_there(given) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        master = f"spark://127.0.0.1:{server.getsockname()[1]}"
        found = list(spark.check(Flags([*given, f"--spark_master_url={master}"]), streaming=False))
    assert [one.ok for one in found] == [True] * 3
    assert found[1].what == f"Spark's master at {master}"
    assert all(one.ok for one in spark.check(Flags(given), streaming=False))


def test_nobody_is_no_cluster(given) -> None:
    master = f"spark://127.0.0.1:{free_port()}"
    found = list(spark.check(Flags([*given, f"--spark_master_url={master}"]), streaming=False))
    (wrong,) = [one for one in found if not one.ok]
    assert wrong.what.startswith(f"no Spark cluster answers at {master}: ")
    assert "--spark_master_url=spark://HOST:PORT" in wrong.repair


def test_the_server_has_what_spark_opens_of_java(given, tmp_path) -> None:
    words = spark.server(Flags([*given, "--spark_master_url=local[2]"]))
    assert words[0] == f"{tmp_path}/java/bin/java"
    assert "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED" in words
    assert words[-4:] == ["-jar", f"{tmp_path}/server.jar", "--spark-master-url", "local[2]"]
