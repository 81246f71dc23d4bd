"""Start one measurement in a process of its own, watch it, and read what it says.

This process stays small: a child's peak memory is never below its parent's size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from tests.benchmarks.work import Job

ROOT = pathlib.Path(__file__).parents[2]
PAGE_MEGABYTES = os.sysconf("SC_PAGE_SIZE") / 2**20
LOOK_EVERY = 0.1
LAST_LINES = 5


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a measurement came to.

    Attributes:
        seconds: From after the imports to the last file written; None if it failed.
        megabytes: The most memory resident at once; None if it failed.
        imported: How much of it was there before the work began.
        failure: Why there are no numbers, for a person; empty if there are.
        found: Everything that the worker said.
    """

    seconds: float | None
    megabytes: float | None
    imported: float | None = None
    failure: str = ""
    found: dict[str, object] = dataclasses.field(default_factory=dict)


def measure(module: str, job: Job, limit: float) -> Measured:
    """Run a module's `run(job)` in a fresh process, into an emptied `job.output`.

    Args:
        module: Its name in this folder.
        job: What to do. With options, the memory of all processes of the job counts.
        limit: Seconds, imports included, after which it is stopped.
    """
    shutil.rmtree(job.output, ignore_errors=True)
    job.output.mkdir(parents=True)
    result, log = job.output / "measured.json", job.output / "log.txt"
    words = [module, job.work, str(job.rows), str(job.data), str(job.output), *job.options]
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", str(result), *words],
            cwd=ROOT,
            stdout=errors,
            stderr=errors,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            start_new_session=True,
        )
        peak, late = _watch(child, limit, look=bool(job.options))
    if late:
        return Measured(None, None, failure=f"not done after {limit:.0f} s")
    if child.returncode or not result.exists():
        said = "\n".join(_words(log)[-LAST_LINES:])
        return Measured(None, None, failure=f"exit code {child.returncode}: {said}")
    found = json.loads(result.read_text())
    return Measured(
        found["seconds"],
        max(found["peak_megabytes"], peak),
        found["imported_megabytes"],
        found=found,
    )


def prepare(job: Job) -> None:
    """Make the table of a job, unless it is there."""
    if job.csv.exists():
        return
    words = [str(job.data), job.work, str(job.rows)]
    subprocess.run([sys.executable, "-m", "tests.benchmarks.data", *words], cwd=ROOT, check=True)


def _words(log: pathlib.Path) -> list[str]:
    """Return the lines of a log that are not TensorFlow's about the processor."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return [line for line in lines if not re.match(r"[IWE]0000 |WARNING: All log|To enable", line)]


def _watch(child: subprocess.Popen[bytes], limit: float, *, look: bool) -> tuple[float, bool]:
    """Wait for a child; return its session's peak memory, and whether it took too long."""
    peak, end = 0.0, time.monotonic() + limit
    try:
        while time.monotonic() < end:
            try:
                child.wait(LOOK_EVERY)
                return peak, False
            except subprocess.TimeoutExpired:
                peak = max(peak, _resident(child.pid)) if look else peak
        return peak, True
    finally:
        # Whatever the job has started and left behind, or the job itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _resident(session: int) -> float:
    """Return the megabytes of all processes of a session; what they share counts for each."""
    pages = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # State, parent, group, session, ... and 18 further on the resident pages: proc(5).
        if int(fields[3]) == session:
            pages += int(fields[21])
    return pages * PAGE_MEGABYTES
