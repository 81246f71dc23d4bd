"""The figures, the tables and the targets of a run of the serving benchmark."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.figures import Figure
from tests.benchmarks.serving_contenders import NAIVE, OURS, PEERS, Contender
from tests.benchmarks.serving_load import CLIENTS
from tests.benchmarks.stream_source import percentile

GRPC_TIMES, REST_TIMES, TAIL = 1.6, 2.0, 3.0
TRANSFORM_MS = 0.5
NAIVE_TIMES = 3.0

# What the parts of the transform are called.
PARTS = {
    "transform": "from a raw row, JSON already parsed, to its features",
    "read": "of that, its values checked and packed",
    "graph": "of that, the call of the transform graph",
    "floor": "of that call, one of a graph that does nothing, with as many outputs",
    "json": "before that, the JSON parsed",
}


@dataclasses.dataclass
class Found:
    """What was measured: for each name what each repeat said, and who failed with what words."""

    said: dict[str, list[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, said: Mapping[str, Any]) -> None:
        """Add what a repeat said."""
        self.said.setdefault(name, []).append(said)

    def value(self, name: str, what: str) -> float:
        """Return the median of the repeats of a number."""
        return statistics.median(said[what] for said in self.said[name])

    def times(self, name: str, what: str) -> tuple[float, float]:
        """Return the medians of the repeats' p50 and p99, in milliseconds."""
        each = [sorted(said[what]) for said in self.said[name]]
        p50, p99 = ([percentile(one, q) for one in each] for q in (50, 99))
        return statistics.median(p50), statistics.median(p99)

    def line(self, name: str) -> str:
        """Return what the last repeat of a server came to, for a person."""
        if name in self.failures:
            return f"failed: {_last_line(self.failures[name])}"
        said = self.said[name][-1]
        one = percentile(sorted(said["one"]), 50)
        return f"one client {one:.2f} ms; {CLIENTS} clients {said['per_second']:,.0f}/s"


def targets(found: Found) -> Iterator[str]:
    """Yield what was to be reached, and whether it was."""
    direct, _ = found.times("direct", "direct")
    for words, name, most in (("gRPC", "grpc", GRPC_TIMES), ("REST", OURS.name, REST_TIMES)):
        p50, p99 = found.times(name, "one")
        times = p50 / direct
        yield _said(f"{words}: {times:.2f} times the direct call", times <= most, f"at most {most}")
        yield _said(f"{words}: p99 {p99 / p50:.1f} times p50", p99 <= TAIL * p50, f"at most {TAIL}")
    _, p99 = found.times("direct", "transform")
    words = f"transform of a raw row: p99 {p99:.2f} ms"
    yield _said(words, p99 < TRANSFORM_MS, f"under {TRANSFORM_MS} ms")
    ours = found.value(OURS.name, "per_second")
    times = ours / found.value(NAIVE.name, "per_second")
    yield _said(f"{times:.1f} times the naive server", times >= NAIVE_TIMES, f"{NAIVE_TIMES:g}")
    for peer in _ran(found):
        times = ours / found.value(peer.name, "per_second")
        yield _said(f"{times:.1f} times {peer.name}", times > 1, "ahead")


def markdown(found: Found) -> Iterator[str]:
    """Yield the lines of the tables."""
    repeats = len(found.said["direct"])
    known = [("tensorflow", "TensorFlow"), ("uvicorn", "uvicorn"), ("grpcio", "grpcio")]
    packages = ", ".join(f"{shown} {importlib.metadata.version(name)}" for name, shown in known)
    yield f"Machine: {machine.describe()}; Python {platform.python_version()}, {packages}."
    yield "The model of the flights example, a dense network over 36 raw columns; clients and"
    yield f"servers on this machine, everybody in turn, the median of {repeats} runs; all answers"
    yield "the same. A single client is Python (`http.client`, the stock gRPC stub), many are"
    yield "`wrk`. Every other server loads the same SavedModel and calls `serving_default` or"
    yield "`predict_rows`, whichever is faster for so many rows, with the settings that of those"
    yield "tried were its fastest:"
    yield ""
    yield "- naive: a FastAPI `def` handler on uvicorn that calls the model for each request"
    for peer in _ran(found):
        yield f"- {peer.name} {peer.requirement.partition('==')[2]}: {peer.settings}"
    yield ""
    yield from _one_client(found)
    yield from _many_clients(found)
    yield from _transform(found)
    for target in targets(found):
        yield f"- {target}"
    for name, words in found.failures.items():
        yield f"- {name} does not run here: {_last_line(words)}"


def _one_client(found: Found) -> Iterator[str]:
    direct, p99 = found.times("direct", "direct")
    yield "| one row, one client | p50 | p99 | times the direct call |"
    yield "|---|---|---|---|"
    yield f"| the exported signature, called directly | {_ms(direct)} | {_ms(p99)} | |"
    for name, words in _names(found, grpc=True):
        p50, p99 = found.times(name, "one")
        yield f"| {words} | {_ms(p50)} | {_ms(p99)} | {p50 / direct:.1f}× |"
    yield ""


def _many_clients(found: Found) -> Iterator[str]:
    naive = found.value(NAIVE.name, "per_second")
    yield f"| {CLIENTS} clients, a row each | requests/s | p50 | p99 | times the naive server |"
    yield "|---|---|---|---|---|"
    for name, words in _names(found, grpc=False):
        speed, p50, p99 = (found.value(name, what) for what in ("per_second", "p50", "p99"))
        yield f"| {words} | {speed:,.0f} | {p50:.1f} ms | {p99:.1f} ms | {speed / naive:.1f}× |"
    speed = found.value("grpc", "per_second")
    yield f"| `skewless serve`, gRPC, from a client in Python | {speed:,.0f} | | | |"
    yield ""


def _transform(found: Found) -> Iterator[str]:
    yield "| the transform of a raw row, in the server's process | p50 | p99 |"
    yield "|---|---|---|"
    for part, words in PARTS.items():
        p50, p99 = found.times("direct", part)
        yield f"| {words} | {_ms(p50)} | {_ms(p99)} |"
    yield ""


def _names(found: Found, *, grpc: bool) -> Iterator[tuple[str, str]]:
    """Yield the servers that ran, and their names in the tables."""
    if grpc:
        yield "grpc", "`skewless serve`, gRPC, a serialized Example"
    yield OURS.name, "`skewless serve`, REST, a raw row"
    yield NAIVE.name, "the naive server"
    for peer in _ran(found):
        yield peer.name, f"{peer.name}, its batching on"


def _ran(found: Found) -> Iterator[Contender]:
    for peer in PEERS:
        if peer.name in found.said and peer.name not in found.failures:
            yield peer


def figures(found: Found) -> list[Figure]:
    """Return what was measured as figures; ratios are over the direct call or the naive server."""
    direct, _ = found.times("direct", "direct")
    naive = found.value(NAIVE.name, "per_second")
    made = [Figure("serving", "one_client", "direct", 1, direct, "ms p50")]
    for name, _ in _names(found, grpc=True):
        p50, p99 = found.times(name, "one")
        values = ((p50, "ms p50"), (p99, "ms p99"), (p50 / direct, "ratio"))
        made += [Figure("serving", "one_client", name, 1, *value) for value in values]
    for name, _ in _names(found, grpc=False):
        speed, p99 = found.value(name, "per_second"), found.value(name, "p99")
        values = ((speed, "requests/s"), (p99, "ms p99"), (speed / naive, "ratio"))
        made += [Figure("serving", f"{CLIENTS}_clients", name, 1, *value) for value in values]
    speed = found.value("grpc", "per_second")
    made.append(Figure("serving", f"{CLIENTS}_clients", "grpc", 1, speed, "requests/s"))
    for part in PARTS:
        p50, p99 = found.times("direct", part)
        values = ((p50, "ms p50"), (p99, "ms p99"))
        made += [Figure("serving", "transform", part, 1, *value) for value in values]
    return made


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3f} ms" if milliseconds < 0.1 else f"{milliseconds:.2f} ms"


def _said(words: str, is_met: bool, target: str) -> str:
    return f"{words}; target {target}: {'met' if is_met else 'not met'}"


def _last_line(words: str) -> str:
    return (words.strip().splitlines() or [""])[-1][:200]
