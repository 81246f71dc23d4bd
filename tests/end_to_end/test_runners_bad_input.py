"""Whatever is wrong with a runner: the command line says it in one clear line, and soon."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from apache_beam.version import __version__ as beam_version

from skewless import __version__
from tests.launch.runners.programs import java
from tests.servers import flink, prism, spark
from tests.servers.process import free_port, install_python, listens, running
from tests.what_works import works
from tests.wheel import build, copy_tree

pytestmark = pytest.mark.integration

# Of a command, on a machine that does nothing else; the others of these tests do.
SECONDS = 30.0
BUSY = 2.0
# Where somebody may still answer, it is this that is waited for.
PATIENCE = 30.0


class Answer(NamedTuple):
    """What a command has done: its code, the line that says what is wrong, and all it said."""

    code: int
    line: str
    shown: str


def answer(*arguments: str, limit: float = SECONDS, **env: str) -> Answer:
    """Return what a person sees of a command; it must be one line, or a list of findings."""
    command = [sys.executable, "-m", "skewless", *arguments]
    begun = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=limit * BUSY,
        check=False,
    )
    seconds = time.monotonic() - begun
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown
    assert seconds < limit * (BUSY if os.getloadavg()[0] > 2 else 1), shown
    lines = done.stderr.splitlines()
    if arguments[0] == "doctor":
        lines = [line for line in lines if not line.startswith("✓")]
    assert len(lines) == bool(done.returncode), shown
    return Answer(done.returncode, "".join(lines), shown)


@pytest.fixture
def recipe(tmp_path: pathlib.Path) -> str:
    """Of a recipe nothing is read before the runner is ready."""
    file = tmp_path / "recipe.py"
    file.write_text("")
    return str(file)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A machine without a network, that has fetched nothing before."""
    proxy = f"http://127.0.0.1:{free_port()}"
    home = str(tmp_path_factory.mktemp("home"))
    return {"HOME": home, "https_proxy": proxy, "HTTPS_PROXY": proxy, "no_proxy": ""}


def test_no_java(recipe: str, tmp_path: pathlib.Path) -> None:
    found = answer("run", recipe, "--runner", "flink", JAVA_HOME=str(tmp_path))
    assert found.code == 1
    assert found.line.startswith(f"skewless: --runner flink: there is no Java at {tmp_path}/bin")
    assert "install Java 17" in found.line


def test_a_java_that_is_too_new(recipe: str, tmp_path: pathlib.Path) -> None:
    # A real one where there is one; else a script that says what a real one says.
    real = sorted(pathlib.Path("/usr/lib/jvm").glob("*-25-*/bin/java"))
    home = real[0].parents[1] if real else java(tmp_path, 'openjdk version "25.0.3" 2026-04-21')
    found = answer("run", recipe, "--runner", "spark", JAVA_HOME=str(home))
    assert found.code == 1
    assert f"{home}/bin/java is Java 25; Spark runs on Java 8 to 17" in found.line
    assert "set JAVA_HOME to another one" in found.line


@pytest.mark.parametrize(("command", "runner"), [("run", "flink"), ("doctor", "spark")])
def test_no_job_server_and_no_network(
    command: str, runner: str, recipe: str, offline: dict[str, str]
) -> None:
    found = answer(command, *([recipe] if command == "run" else []), "--runner", runner, **offline)
    assert found.code == 1
    assert re.search(rf"{runner.title()}'s job server beam-runners-{runner}-\S+\.jar: ", found.line)
    assert "Connection refused" in found.line
    assert f"put it into {offline['HOME']}/.apache_beam/cache/jars" in found.line
    assert f"--{runner}_job_server_jar=FILE" in found.line


def test_no_prism_and_no_network(offline: dict[str, str]) -> None:
    path = os.pathsep.join(["/usr/bin", "/bin"])
    found = answer("doctor", "--runner", "prism", **offline, PATH=path)
    assert found.code == 1
    assert re.search(r"Prism \S+prism\S+\.zip: .*Connection refused; fetch it where", found.line)
    assert f"put it into {offline['HOME']}/.apache_beam/cache/prism/bin" in found.line
    assert found.line.endswith("or give one: --prism_location=FILE")


def test_no_cluster_of_flink(recipe: str) -> None:
    master = f"localhost:{free_port()}"
    found = answer("run", recipe, "--runner", "flink", f"--flink_master={master}")
    assert found.code == 1
    assert f"no Flink cluster answers at {master}: " in found.line
    assert "refused; start the cluster, or name another: --flink_master=HOST:PORT" in found.line


def test_no_cluster_of_spark() -> None:
    master = f"spark://localhost:{free_port()}"
    jar = f"--spark_job_server_jar={spark.job_server_jar()}"
    found = answer("doctor", "--runner", "spark", f"--spark_master_url={master}", jar)
    assert found.code == 1
    assert f"no Spark cluster answers at {master}: " in found.line
    assert "refused; start the cluster, or name another: --spark_master_url=spark:" in found.line


@pytest.mark.parametrize(
    "master",
    [
        pytest.param([], marks=works("a stream of Pub/Sub", "Spark alone", says="no, and says so")),
        pytest.param(
            ["--spark_master_url=spark://cluster:7077"],
            marks=works("a stream of Pub/Sub", "Spark cluster", says="no, and says so"),
        ),
    ],
)
def test_spark_does_not_stream(master: list[str], recipe: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "runs").mkdir()
    arguments = ["--run", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    arguments += [
        "--store",
        str(tmp_path / "store"),
        "--source",
        "pubsub:projects/p/subscriptions/s",
    ]
    found = answer("stream", recipe, *arguments, "--runner", "spark", *master)
    assert found.code == 1
    assert "Beam's Spark runner reads no unbounded source from Python" in found.line
    assert "stream with --runner flink, or --runner direct" in found.line


def test_an_option_that_nobody_has(recipe: str) -> None:
    arguments = ["--runner", "prism", f"--prism_location={prism.install()}", "--paralelism=2"]
    found = answer("run", recipe, *arguments)
    assert found.code == 2
    assert "--paralelism: neither skewless nor Beam has this option" in found.line


def test_an_option_that_nobody_has_where_the_runner_has_some() -> None:
    jar = f"--flink_job_server_jar={flink.job_server_jar()}"
    found = answer("doctor", "--runner", "flink", jar, "--paralelism=2")
    assert found.code == 2
    assert "--paralelism: neither skewless nor Beam has this option" in found.line
    assert "did you mean --parallelism?" in found.line


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink.SessionCluster]:
    # At first without a TaskManager, as the test that comes first wants it.
    with flink.session_cluster(tmp_path_factory.mktemp("flink"), task_managers=0) as found:
        yield found


def test_a_cluster_without_a_task_manager(cluster: flink.SessionCluster) -> None:
    jar = f"--flink_job_server_jar={flink.job_server_jar()}"
    found = answer("doctor", "--runner", "flink", jar, f"--flink_master={cluster.master}")
    assert found.code == 1
    assert f"the Flink cluster at {cluster.master} has no TaskManager" in found.line
    assert "start one: bin/taskmanager.sh start" in found.line


@pytest.fixture(scope="module")
def with_room(cluster: flink.SessionCluster) -> flink.SessionCluster:
    if not cluster.task_managers:
        cluster.start_task_manager()
    return cluster


def start_pool(
    programs: pathlib.Path, folder: pathlib.Path, port: int, *path: pathlib.Path
) -> contextlib.AbstractContextManager[object]:
    """Run a pool of workers of another environment, from a folder of its own."""
    module = "apache_beam.runners.worker.worker_pool_main"
    command = [str(programs / "python"), "-m", module, f"--service_port={port}"]
    # It starts workers with whatever `python` is.
    env = {"PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}
    env["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return running(command, folder / "pool.log", lambda: listens(port), env, folder)


def doctor(cluster: flink.SessionCluster, port: int, limit: float = SECONDS) -> Answer:
    arguments = [f"--flink_master={cluster.master}", "--environment_type=EXTERNAL"]
    arguments += [f"--environment_config=localhost:{port}"]
    arguments += [f"--flink_job_server_jar={flink.job_server_jar()}"]
    found = answer("doctor", "--runner", "flink", *arguments, limit=limit)
    # Nothing of it goes on without us.
    end = time.monotonic() + 10
    while unfinished(cluster) and time.monotonic() < end:
        time.sleep(0.2)
    assert unfinished(cluster) == []
    return found


def unfinished(cluster: flink.SessionCluster) -> list[str]:
    ended = ("FINISHED", "FAILED", "CANCELED")
    return [job["id"] for job in cluster.get("jobs")["jobs"] if job["status"] not in ended]


def test_nobody_where_the_workers_should_be(with_room: flink.SessionCluster) -> None:
    port = free_port()
    found = doctor(with_room, port)
    assert found.code == 1
    assert "FlinkRunner: java.net.ConnectException: " in found.line
    assert "Connection refused; see that workers listen at" in found.line
    assert f"localhost:{port}, as --environment_config says" in found.line


def test_somebody_who_never_answers_where_the_workers_should_be(
    with_room: flink.SessionCluster,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = doctor(with_room, silent.getsockname()[1], SECONDS + PATIENCE)
    assert found.code == 1
    assert "FlinkRunner: no worker answered within 30 s; see that workers run" in found.line


def test_workers_elsewhere(with_room: flink.SessionCluster, tmp_path: pathlib.Path) -> None:
    port = free_port()
    with start_pool(pathlib.Path(sys.executable).parent, tmp_path, port):
        found = doctor(with_room, port)
    assert found.code == 0, found.shown
    assert "a pipeline of one row ran in" in found.shown


def test_workers_elsewhere_without_skewless(
    with_room: flink.SessionCluster, tmp_path: pathlib.Path
) -> None:
    port = free_port()
    programs = install_python(f"beam-{beam_version}", f"apache-beam=={beam_version}")
    with start_pool(programs, tmp_path, port):
        found = doctor(with_room, port)
    assert found.code == 1
    assert "FlinkRunner: the workers have no package skewless; install the same there" in found.line


def test_workers_elsewhere_of_another_version(
    with_room: flink.SessionCluster, tmp_path: pathlib.Path
) -> None:
    tree = copy_tree(tmp_path)
    for file in (tree / "skewless" / "__init__.py", tree / "pyproject.toml"):
        file.write_text(file.read_text().replace(f'= "{__version__}"', '= "9.8.7"'))
    (wheel,) = build(tree, "wheel").glob("*.whl")
    installed = tmp_path / "installed"
    shutil.unpack_archive(wheel, installed, "zip")

    port = free_port()
    programs = install_python(f"beam-{beam_version}", f"apache-beam=={beam_version}")
    with start_pool(programs, tmp_path, port, installed):
        found = doctor(with_room, port)
    assert found.code == 1
    assert f"the workers have skewless 9.8.7, and this machine {__version__}; " in found.line
    assert "install the same on both" in found.line
