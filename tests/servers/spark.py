"""Apache Spark: Beam's job server for it, and a standalone cluster of processes of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import re
import shutil
import urllib.request
from collections.abc import Iterator

from tests.servers.job_server import BEAM, thin_jar
from tests.servers.process import (
    FOLDER,
    free_port,
    install_debian,
    install_jars,
    install_python,
    one_at_a_time,
    running,
)

# The oldest of those that Beam's runner names which run on Java 17.
VERSION = "3.5.0"


@functools.cache
@one_at_a_time()
def install() -> pathlib.Path:
    """Return a folder like Spark's own, whose jars are those of Spark and of Beam's runner on it.

    Of a jar that both bring, it has the newer one.
    """
    home = FOLDER / f"spark-{VERSION}-beam-{BEAM}"
    # The runner takes Spark's jars for granted.
    beam = install_jars("spark", f"org.apache.beam:beam-runners-spark-3:{BEAM}")
    programs = install_python("spark-python", f"pyspark=={VERSION}")
    (spark,) = programs.parent.glob("lib/python*/site-packages/pyspark/jars")
    if not home.exists():
        jars = [*beam.glob("*.jar"), *spark.glob("*.jar")]
        newest: dict[str, list[int]] = {}
        for artifact, version in map(_parts, jars):
            newest[artifact] = max(version, newest.get(artifact, []))
        new = home.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        (new / "jars").mkdir(parents=True)
        for jar in jars:
            artifact, version = _parts(jar)
            if version == newest[artifact]:
                (new / "jars" / jar.name).symlink_to(jar)
        new.rename(home)
    return home


def _parts(jar: pathlib.Path) -> tuple[str, list[int]]:
    found = re.match(r"(.+?)-(\d+(?:\.\d+)*)", jar.stem)
    return (found[1], [int(number) for number in found[2].split(".")]) if found else (jar.stem, [])


@functools.cache
@one_at_a_time()
def job_server_jar() -> pathlib.Path:
    """Return what `--spark_job_server_jar` takes."""
    install_debian("java", "openjdk-17-jre-headless")
    home = install()
    main = "org.apache.beam.runners.spark.SparkJobServerDriver"
    return thin_jar(home / "job-server.jar", main, sorted((home / "jars").glob("*.jar")))


class Cluster:
    """A master and a worker, each a process with a log in the folder.

    Attributes:
        master: What `--spark_master_url` takes.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._java = install_debian("java", "openjdk-17-jre-headless")
        self._home = install()
        self._stack = contextlib.ExitStack()
        self._ui = f"localhost:{free_port()}"
        self.master = f"spark://localhost:{free_port()}"

    def start(self, cores: int) -> None:
        """Start both."""
        port, ui = self.master.rpartition(":")[2], self._ui.rpartition(":")[2]
        self._run("Master", "--port", port, "--webui-port", ui)
        memory = ("--cores", str(cores), "--memory", "2g")
        self._run("Worker", *memory, "--webui-port", str(free_port()), self.master)

    def stop(self) -> None:
        """Stop both."""
        self._stack.close()

    def _run(self, name: str, *arguments: str) -> None:
        work = self._folder / name.lower()
        work.mkdir()
        java = [self._java, "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{self._home}/jars/*"]
        main = f"org.apache.spark.deploy.{name.lower()}.{name}"
        ready = self._has_worker if name == "Worker" else self._answers
        env = {"SPARK_HOME": str(self._home), "SPARK_LOCAL_IP": "127.0.0.1"}
        env |= {"SPARK_SCALA_VERSION": "2.12", "SPARK_WORKER_DIR": str(work)}
        command = [*java, main, "--host", "localhost", *arguments]
        log = self._folder / f"{name.lower()}.log"
        self._stack.enter_context(running(command, log, ready, env, work))

    def _answers(self) -> bool:
        return self._workers() is not None

    def _has_worker(self) -> bool:
        return bool(self._workers())

    def _workers(self) -> int | None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{self._ui}/json/", timeout=5) as answer,
        ):
            return int(json.load(answer)["aliveworkers"])
        return None


@contextlib.contextmanager
def cluster(folder: pathlib.Path, cores: int = 2) -> Iterator[Cluster]:
    """Run a cluster.

    Args:
        folder: Where its logs and what its applications write go.
        cores: How many tasks its worker runs at once.
    """
    found = Cluster(folder)
    try:
        found.start(cores)
        yield found
    finally:
        found.stop()
