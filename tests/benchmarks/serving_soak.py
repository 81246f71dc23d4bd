"""Load a server while its versions and its store come and go: serving_soak [MINUTES].

`python -m tests.benchmarks.serving_soak`. First as much as 16 requests in flight get through is
measured, half REST and half gRPC; then 80% of that many come each second, whatever happens. Every
20 s a new version appears, by turns of one of two models, and old ones are deleted; twice the
Redis that holds the aggregates is away for two seconds. Every answer is compared with what the
model of its version predicts. Fails if an answer was wrong, a request failed that was not refused
with when to try again, or memory grew.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT
from tests.benchmarks.serving_soak_data import Prepared, prepare
from tests.servers.process import free_port, running
from tests.servers.redis import redis

MINUTES = 10.0
FLAT = 1.1
_KEPT = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens when.

    Attributes:
        seconds: For how long there is load.
        share: How much of what the server can do is asked.
        measure: For how many seconds that is measured.
        swap: Every how many seconds a new version appears.
        restarts: How many times the store is away.
        away: For how many seconds.
        every: Every how many seconds something is printed.
    """

    seconds: float = 60 * MINUTES
    share: float = 0.8
    measure: float = 10.0
    swap: float = 20.0
    restarts: int = 2
    away: float = 2.0
    every: float = 60.0

    def events(self) -> list[tuple[float, str]]:
        """Return when something happens, and what."""
        swaps = int((self.seconds - 1) / self.swap)
        found = [(self.swap * (i + 1), "swap") for i in range(swaps)]
        for i in range(self.restarts):
            at = self.seconds * (i + 1) / (self.restarts + 1)
            found += [(at, "stop"), (at + self.away, "start")]
        return sorted(found)


@dataclasses.dataclass
class Result:
    """What clients saw, and how much memory the server had.

    Attributes:
        counts: Answers that were right and wrong, and requests refused and failed.
        refused: The reasons, and how many of each.
        versions: The versions that answered by gRPC.
        memory: Megabytes, second by second.
        errors: What the server wrote of errors.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    refused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    versions: set[int] = dataclasses.field(default_factory=set)
    memory: list[float] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    @property
    def grown(self) -> float:
        """How many times the memory of the second third there is in the last one."""
        third = len(self.memory) // 3
        return sum(self.memory[-third:]) / sum(self.memory[third : 2 * third])


def main(minutes: float = MINUTES) -> int:
    """Load, watch, and say whether all was well."""
    print(f"Machine: {machine.describe()}; {machine.versions()}.", flush=True)
    with tempfile.TemporaryDirectory() as name:
        result = soak(pathlib.Path(name), Plan(seconds=60 * minutes))
    counts = result.counts
    parts = [f"{counts[kind]:,} {kind}" for kind in ("right", "wrong", "refused", "failed")]
    print(f"{', '.join(parts)}; {len(result.versions)} versions answered")
    for reason, count in result.refused.most_common():
        print(f"  refused: {reason}: {count:,}")
    for line in result.errors[:10]:
        print(f"  the server: {line}")
    flat = result.grown <= FLAT
    told = f"memory grew {result.grown:.3f}x from the second third to the last"
    print(f"{told}: {'flat' if flat else 'NOT flat'}")
    return int(counts["wrong"] + counts["failed"] > 0 or bool(result.errors) or not flat)


def soak(folder: pathlib.Path, plan: Plan) -> Result:
    """Do what a plan says, in a folder; return what happened."""
    place, port = folder / "redis", free_port()
    place.mkdir()
    store = contextlib.ExitStack()
    with store:
        url = store.enter_context(redis(place, durable=True, port=port)).url
        prepared = prepare(folder, url)
        served = folder / "served"
        served.mkdir()
        _publish(prepared, served, 1)
        with _server(folder, served, url, prepared.now) as (process, ports):
            best = Result()
            _follow(_lines(ports, prepared, plan.measure, 0.0, 60.0), best)
            rate = plan.share * best.counts["right"] / plan.measure
            print(f"{rate / plan.share:,.0f} requests/s; load: {rate:,.0f}", flush=True)
            result, lines = Result(), _lines(ports, prepared, plan.seconds, rate, plan.every)
            next(lines)  # it has begun
            stop = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                asked = (plan, prepared, served, store, (place, port))
                happening = pool.submit(_let_happen, *asked)
                sampling = pool.submit(_sample, process.pid, result.memory, stop)
                try:
                    _follow(lines, result)
                finally:
                    stop.set()
                happening.result()
                sampling.result()
        if process.returncode:
            result.errors.append(f"it ended with {process.returncode}")
        result.errors += _errors(folder / "server.log")
        return result


def _let_happen(
    plan: Plan,
    prepared: Prepared,
    served: pathlib.Path,
    store: contextlib.ExitStack,
    place: tuple[pathlib.Path, int],
) -> None:
    began, version = time.monotonic(), 1
    for at, event in plan.events():
        time.sleep(max(0.0, began + at - time.monotonic()))
        if event == "swap":
            version += 1
            _publish(prepared, served, version)
        elif event == "stop":
            store.close()
        else:
            store.enter_context(redis(place[0], durable=True, port=place[1]))


def _publish(prepared: Prepared, served: pathlib.Path, version: int) -> None:
    """Let a version appear in one move, and take away old ones."""
    model = prepared.models[(version - 1) % len(prepared.models)]
    shutil.copytree(model, served / f".{version}")
    (served / f".{version}").rename(served / str(version))
    shutil.rmtree(served / str(version - _KEPT), ignore_errors=True)


@contextlib.contextmanager
def _server(
    folder: pathlib.Path, served: pathlib.Path, store: str, now: int
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    log = folder / "server.log"
    words = [*_module("serving_soak_server"), str(served), store, str(now)]
    with running(words, log, lambda: bool(_ports(log)), cwd=ROOT) as process:
        yield process, _ports(log)


def _ports(log: pathlib.Path) -> list[int]:
    found = [line for line in log.read_text().splitlines() if line.startswith("[")]
    return json.loads(found[0]) if found else []


def _errors(log: pathlib.Path) -> list[str]:
    """Return the stacks that a server wrote, which are nobody's back-pressure."""
    _, *stacks = log.read_text(errors="replace").split("Traceback")
    return [" ".join(stack.split())[:1000] for stack in stacks]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"tests.benchmarks.{name}"]


def _lines(
    ports: list[int], prepared: Prepared, seconds: float, rate: float, every: float
) -> Iterator[dict[str, Any]]:
    """Ask, and yield what a client tells."""
    words = [*map(str, ports), str(prepared.asked), *map(str, (seconds, rate, every))]
    command = [*_module("serving_soak_client"), *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for line in client.stdout:
            yield json.loads(line)
    if client.returncode:
        raise RuntimeError(f"the client ended with {client.returncode}")


def _follow(lines: Iterator[Any], result: Result) -> None:
    """Add what a client tells to a result, and print it."""
    for told in lines:
        if told == "begun":
            continue
        result.counts.update(told["counts"])
        result.refused.update(told["refused"])
        result.versions.update(told["versions"])
        if not result.memory:
            continue
        counts = told["counts"]
        shown = ", ".join(f"{kind} {counts[kind]:,}" for kind in sorted(counts))
        refused = ", ".join(f"{why}: {count:,}" for why, count in told["refused"].items())
        print(
            f"{len(result.memory) / 60:5.2f} min: {counts.get('right', 0) / told['seconds']:,.0f} "
            f"requests/s, p50 {told['p50']:.1f} ms, p99 {told['p99']:.0f} ms, "
            f"{result.memory[-1]:,.0f} MB; {shown}{f' ({refused})' if refused else ''}; "
            f"versions {', '.join(map(str, told['versions']))}",
            *told["shown"],
            sep="\n    ",
            flush=True,
        )


def _sample(pid: int, memory: list[float], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES))
