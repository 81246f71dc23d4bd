"""Apache Flink: in a process of its own on this machine, or a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

from skewless.launch.runners.downloads import fetched
from skewless.launch.runners.flags import Finding, Flags, address_of, is_here
from skewless.launch.runners.java import find_java
from skewless.launch.runners.portable import check_server, jar_folder, worker_options

__all__ = ["BEAM", "cancel", "check", "options", "server"]

BEAM = "FlinkRunner"

LOCAL = ("[local]", "[auto]")

_JAR = "flink_job_server_jar"
_REST_PORT = 8081
_ANSWER_SECONDS = 5.0
_GOES_ON = ("CREATED", "INITIALIZING", "RUNNING", "RESTARTING", "FAILING")
_CHECKPOINT_MILLISECONDS = 10_000


def options(given: Flags, *, streaming: bool) -> list[str]:
    """Return Beam's options: workers that Flink can reach, checkpoints for a stream."""
    master = _master(given)
    here = master in LOCAL or is_here(address_of(master, _REST_PORT)[0])
    defaults = {"flink_master": master, **worker_options(given, here=here)}
    if streaming:
        # One worker: a store has one writer. And a stream without checkpoints would begin anew.
        defaults |= {
            "streaming": True,
            "parallelism": 1,
            "checkpointing_interval": _CHECKPOINT_MILLISECONDS,
            # Else a checkpoint within the source's first bundle holds back what it gives, for ever.
            "finish_bundle_before_checkpointing": True,
        }
    else:
        defaults["parallelism"] = _slots(master) if master not in LOCAL else os.cpu_count()
    return list(given.with_defaults(**defaults).words)


def check(given: Flags, *, streaming: bool) -> Iterator[Finding]:
    """See that there are Java, the job server, and a cluster with room for a job."""
    del streaming
    yield from check_server(given, "Flink", (11, 21), _jar, _check_cluster(given))


def server(given: Flags) -> list[str]:
    """Return the command that starts the job server, but for its ports and folder."""
    jar = fetched(_jar(given), jar_folder(given))
    return [find_java(given), "-jar", str(jar), "--flink-master", _master(given)]


def cancel(given: Flags, job: str) -> None:
    """Cancel what a cluster still runs of a job; Beam's job server leaves it a batch.

    Args:
        given: The user's options.
        job: Beam's id of it.
    """
    master = _master(given)
    if master in LOCAL:
        return
    # Flink has it by its name, to which Beam adds an id of its own.
    name = job.rpartition("_")[0]
    # The cluster may have ended, and the job with it.
    with contextlib.suppress(OSError, ValueError, KeyError):
        for one in _asked(master, "jobs/overview")["jobs"]:
            if one["name"] == name and one["state"] in _GOES_ON:
                _asked(master, f"jobs/{one['jid']}?mode=cancel", "PATCH")


def _master(given: Flags) -> str:
    return given.get("flink_master", LOCAL[0])


def _jar(given: Flags) -> str:
    """Return the jar that was given, or Beam's for the Flink that is to run it."""
    if _JAR in given:
        return given[_JAR]
    from apache_beam.options.pipeline_options import FlinkRunnerOptions
    from apache_beam.utils.subprocess_server import JavaJarServer

    published = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    version = given.get("flink_version") or _version_of(_master(given))
    # Of a version that is not published, the check of the cluster has told.
    version = version if version in published else published[-1]
    url: str = JavaJarServer.path_to_beam_jar(f":runners:flink:{version}:job-server:shadowJar")
    return url


def _version_of(master: str) -> str | None:
    """Return the version of a cluster, as in 1.20; None for none."""
    if master in LOCAL:
        return None
    try:
        return ".".join(str(_overview(master)["flink-version"]).split(".")[:2])
    except (OSError, ValueError, KeyError):
        return None


def _overview(master: str) -> dict[str, Any]:
    return _asked(master, "overview")


def _asked(master: str, path: str, method: str = "GET") -> dict[str, Any]:
    """Return an answer of the cluster's REST API."""
    base = master if "://" in master else f"http://{master}"
    request = urllib.request.Request(f"{base}/{path}", method=method)
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def _slots(master: str) -> int:
    return int(_overview(master)["slots-total"])


def _check_cluster(given: Flags) -> Iterator[Finding]:
    master = _master(given)
    if master in LOCAL:
        yield Finding("Flink runs on this machine for as long as the command does")
        return
    repair = "start the cluster, or name another: --flink_master=HOST:PORT of its REST API"
    try:
        told = _overview(master)
        slots, version = int(told["slots-total"]), told["flink-version"]
    except (OSError, ValueError, KeyError) as error:
        why = getattr(error, "reason", error)
        yield Finding(f"no Flink cluster answers at {master}: {why}", False, repair)
        return
    if not slots:
        what = f"the Flink cluster at {master} has no TaskManager"
        yield Finding(what, False, "start one: bin/taskmanager.sh start")
        return
    # Who brings a job server, or its jar, knows what it is for.
    brings = "job_endpoint" in given or _JAR in given
    if not brings and (unfit := _without_server(version)):
        yield Finding(f"Flink {version} at {master}: {unfit}", False, f"or give --{_JAR}=FILE")
        return
    yield Finding(f"Flink {version} at {master}, {told['slots-available']} of {slots} slots free")


def _without_server(version: str) -> str | None:
    """Return why Beam has no job server for a version of Flink; None if it has one."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    published = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    if ".".join(version.split(".")[:2]) in published:
        return None
    return f"the installed Beam has job servers for Flink {', '.join(published)} only"
