"""What Flink and Spark have in common: a job server of Java, and workers of Python."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

from skewless.launch.runners.downloads import check_file, downloads_folder
from skewless.launch.runners.flags import Finding, Flags
from skewless.launch.runners.java import check_java

__all__ = ["WORKER_POOL", "check_server", "jar_folder", "worker_options"]

# In milliseconds: a worker has loaded TensorFlow, and the next stage is to find it so.
_KEPT_WORKER = 10_000
# Where Flink's own documentation has a pool of workers: beside each TaskManager.
WORKER_POOL = "localhost:50000"


def worker_options(given: Flags, *, here: bool) -> dict[str, object]:
    """Return the options by which a runner finds workers.

    Args:
        given: The user's options.
        here: Whether the runner is on this machine, and reaches this process.
    """
    found: dict[str, object] = {"environment_cache_millis": _KEPT_WORKER}
    if here:
        return found | {"environment_type": "LOOPBACK"}
    if "environment_type" not in given:
        return found | {"environment_type": "EXTERNAL", "environment_config": WORKER_POOL}
    return found


def jar_folder(given: Flags) -> pathlib.Path:
    """Return the folder in which jars are kept."""
    own = given.get("jar_cache_dir")
    return pathlib.Path(own) if own else downloads_folder() / "jars"


def check_server(
    given: Flags,
    name: str,
    java: tuple[int, int],
    jar: Callable[[Flags], str],
    cluster: Iterator[Finding],
) -> Iterator[Finding]:
    """See that there are Java, the cluster and the job server, unless one runs already.

    Args:
        given: The user's options.
        name: The runner's.
        java: The first and the last version of Java that it runs on.
        jar: Says which jar is taken.
        cluster: What was found of the cluster.
    """
    # A job server that runs already has brought its own.
    starts = "job_endpoint" not in given
    if starts:
        yield from check_java(given, name, *java)
    yield from cluster
    if starts:
        option = f"--{name.lower()}_job_server_jar"
        yield from check_file(f"{name}'s job server", jar(given), jar_folder(given), option)
