"""Apache Spark: in a process of its own on this machine, or a cluster. Batch only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from skewless.launch.runners.downloads import fetched
from skewless.launch.runners.flags import Finding, Flags, address_of, is_here, listens
from skewless.launch.runners.java import find_java
from skewless.launch.runners.portable import check_server, jar_folder, worker_options

__all__ = ["BEAM", "check", "options", "server"]

BEAM = "SparkRunner"

_JAR = "spark_job_server_jar"
_LOCAL = re.compile(r"local(\[.+\])?$")
_PORT = 7077


def options(given: Flags, *, streaming: bool) -> list[str]:
    """Return Beam's options: workers that Spark can reach."""
    del streaming
    master = _master(given)
    here = bool(_LOCAL.match(master)) or is_here(address_of(master, _PORT)[0])
    workers = worker_options(given, here=here)
    return list(given.with_defaults(spark_master_url=master, **workers).words)


def check(given: Flags, *, streaming: bool) -> Iterator[Finding]:
    """See that there are Java, the job server and the cluster, and that it is a batch job."""
    if streaming:
        what = "Beam's Spark runner reads no unbounded source from Python"
        yield Finding(what, False, "stream with --runner flink, or --runner direct")
        return
    yield from check_server(given, "Spark", (8, 17), _jar, _check_cluster(_master(given)))


def server(given: Flags) -> list[str]:
    """Return the command that starts the job server, but for its ports and folder."""
    from apache_beam.runners.portability.spark_runner import SPARK_JAR_JOB_SERVER_JVM_ARGS

    jar = fetched(_jar(given), jar_folder(given))
    opened = SPARK_JAR_JOB_SERVER_JVM_ARGS
    return [find_java(given), *opened, "-jar", str(jar), "--spark-master-url", _master(given)]


def _master(given: Flags) -> str:
    return given.get("spark_master_url", f"local[{os.cpu_count()}]")


def _jar(given: Flags) -> str:
    if _JAR in given:
        return given[_JAR]
    from apache_beam.utils.subprocess_server import JavaJarServer

    url: str = JavaJarServer.path_to_beam_jar(":runners:spark:3:job-server:shadowJar")
    return url


def _check_cluster(master: str) -> Iterator[Finding]:
    if _LOCAL.match(master):
        yield Finding("Spark runs on this machine for as long as the command does")
        return
    host, port = address_of(master, _PORT)
    why = listens(host, port)
    if why is None:
        yield Finding(f"Spark's master at {master}")
    else:
        repair = "start the cluster, or name another: --spark_master_url=spark://HOST:PORT"
        yield Finding(f"no Spark cluster answers at {master}: {why}", False, repair)
