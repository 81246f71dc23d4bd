"""Apache Flink: Beam's job server for it, and a cluster of processes of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import signal
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from tests.servers.job_server import thin_jar
from tests.servers.process import (
    FOLDER,
    free_port,
    install_debian,
    install_jars,
    one_at_a_time,
    running,
)

VERSION = "1.19"
BEAM = "2.70.0"

# What Flink's own scripts open for it in Java 17.
_OPENED = [
    *("java.lang", "java.lang.reflect", "java.net", "java.io", "java.nio", "sun.nio.ch"),
    *("java.text", "java.time", "java.util", "java.util.concurrent"),
    *("java.util.concurrent.atomic", "java.util.concurrent.locks"),
]
_OPEN = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"


@functools.cache
def install() -> pathlib.Path:
    """Return the folder of the jars of Flink and of Beam's runner on it."""
    # Of 2.70 a repository lacks the job service alone; the one of 2.65 fits it. Before 2.70
    # a stream lost what it was to go on with, at times.
    parts = [f"beam-runners-flink-{VERSION}", "beam-sdks-java-expansion-service"]
    runner = [f"org.apache.beam:{part}:{BEAM}" for part in [*parts, "beam-sdks-java-harness"]]
    service = "org.apache.beam:beam-runners-java-job-service:2.65.0"
    # Without slf4j-simple they log nothing.
    return install_jars("flink", *runner, service, "org.slf4j:slf4j-simple:1.7.30")


@functools.cache
@one_at_a_time()
def job_server_jar() -> pathlib.Path:
    """Return what `--flink_job_server_jar` takes."""
    install_debian("java", "openjdk-17-jre-headless")
    jars = sorted(install().glob("*.jar"))
    main = "org.apache.beam.runners.flink.FlinkJobServerDriver"
    return thin_jar(FOLDER / "flink" / "job-server.jar", main, jars)


class SessionCluster:
    """A JobManager and TaskManagers, each a process with a log in the folder.

    Attributes:
        master: What `--flink_master` takes.
        task_managers: The names of those that were started and not killed.
    """

    def __init__(self, folder: pathlib.Path, slots: int) -> None:
        self._java = install_debian("java", "openjdk-17-jre-headless")
        self._jars = install()
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.task_managers: dict[str, int] = {}
        self._started = 0
        port = free_port()
        self.master = f"localhost:{port}"
        self._conf = folder / "conf"
        self._conf.mkdir()
        (folder / "tmp").mkdir()
        # Plain Java does not share out the memory of a TaskManager, as Flink's scripts would.
        # The cluster has Beam's classes already: a job that brings them again is to use these.
        (self._conf / "config.yaml").write_text(
            f"""rest.address: localhost
rest.bind-address: localhost
rest.port: {port}
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {free_port()}
jobmanager.bind-host: localhost
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: {slots}
taskmanager.cpu.cores: {slots}
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 640m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 128m
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
classloader.resolve-order: parent-first
heartbeat.interval: 1000
heartbeat.timeout: 5000
state.checkpoints.dir: {(folder / "checkpoints").as_uri()}
state.savepoints.dir: {(folder / "savepoints").as_uri()}
io.tmp.dirs: {folder / "tmp"}
"""
        )

    def start(self) -> None:
        """Start the JobManager."""
        log = self._folder / "jobmanager.log"
        command = self._command(_JOB_MANAGER, memory="512m")
        self._stack.enter_context(running(command, log, lambda: bool(self.get("overview"))))

    def start_task_manager(self) -> str:
        """Return the name of a new TaskManager, whose slots can be had."""
        self._started += 1
        name = f"taskmanager-{self._started}"
        log = self._folder / f"{name}.log"
        command = self._command(
            _TASK_MANAGER, "-D", f"taskmanager.resource-id={name}", memory="768m"
        )
        process = self._stack.enter_context(running(command, log, lambda: self._offers(name)))
        self.task_managers[name] = process.pid
        return name

    def kill_task_manager(self, name: str) -> None:
        """End a TaskManager as a power cut would."""
        os.kill(self.task_managers.pop(name), signal.SIGKILL)

    def stop(self) -> None:
        """Stop all of it."""
        self._stack.close()

    def get(self, path: str) -> Any:
        """Return an answer of Flink's REST API; none when there is no such thing, or nobody."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{self.master}/{path}", timeout=5) as answer,
        ):
            return json.load(answer)
        return None

    def post(self, path: str, body: Any) -> Any:
        """Return the answer to a request of Flink's REST API."""
        request = urllib.request.Request(
            f"http://{self.master}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def running(self) -> list[str]:
        """Return the ids of the jobs that run."""
        jobs = self.get("jobs")["jobs"]
        return [job["id"] for job in jobs if job["status"] == "RUNNING"]

    def stop_with_savepoint(self, job: str) -> str:
        """Stop a job between two bundles; return what `--savepoint_path` takes."""
        trigger = self.post(f"jobs/{job}/stop", {"drain": False})["request-id"]
        end = time.monotonic() + 60
        while True:
            told = self.get(f"jobs/{job}/savepoints/{trigger}")
            if told is not None and told["status"]["id"] == "COMPLETED":
                path: str | None = told["operation"].get("location")
                assert path is not None, told
                return path
            assert time.monotonic() < end, told
            time.sleep(0.2)

    def _command(self, main: str, *arguments: str, memory: str) -> list[str]:
        java = [self._java, f"-Xmx{memory}", "-XX:+UseSerialGC", *_OPEN]
        return [*java, "-cp", f"{self._jars}/*", main, "--configDir", str(self._conf), *arguments]

    def _offers(self, name: str) -> bool:
        found = (self.get("taskmanagers") or {}).get("taskmanagers", ())
        return any(one["id"] == name and one["slotsNumber"] for one in found)


@contextlib.contextmanager
def session_cluster(
    folder: pathlib.Path, task_managers: int = 1, slots: int = 2
) -> Iterator[SessionCluster]:
    """Run a cluster.

    Args:
        folder: Where its logs, checkpoints and savepoints go.
        task_managers: How many it has at first.
        slots: How many subtasks each of them runs at once.
    """
    cluster = SessionCluster(folder, slots)
    try:
        cluster.start()
        for _ in range(task_managers):
            cluster.start_task_manager()
        yield cluster
    finally:
        cluster.stop()
