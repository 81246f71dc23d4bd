"""Measure a stream, and reads of the online store: python -m tests.benchmarks.streaming.

Prints the table of docs/streaming.md, writes it there, and says whether the targets are met.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import datetime
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import skewless as sk
from tests import flights
from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT, Measured, measure
from tests.benchmarks.stream_source import percentile
from tests.benchmarks.work import Job
from tests.servers.redis import redis

EVENTS, FEW_EVENTS = 100_000, 1_000
TARGET, TIMES = 5_000, 10
LIMIT = 600.0
REPEATS = 3
DOCS = ROOT / "docs" / "streaming.md"
_TABLE = re.compile(r"(<!-- stream -->\n).*?(<!-- end -->\n)", re.DOTALL)
_RECIPE = ROOT / "examples" / "flights" / "recipe.py"


def main() -> int:
    """Measure, write, and say whether the targets were met."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run, _ = flights_run(folder)
        rows: list[str] = []
        ours = _measure("skewless", 0, run, _events(folder / "many", EVENTS), EVENTS)
        theirs = _measure("obvious", 0, run, _events(folder / "few", FEW_EVENTS), FEW_EVENTS)
        half = _measure("skewless", TARGET / 2, run, folder / "many", EVENTS)
        speed, slow = _speed(ours), _speed(theirs)
        rows += [
            f"| events a second through `skewless stream` | {speed:,.0f} |",
            f"| one element and one call of the graph an event | {slow:,.0f} |",
            f"| times | {speed / slow:.0f}× |",
            f"| from an event to its example, at {TARGET / 2:,.0f} events/s | p50 "
            f"{1e3 * half.found['p50']:.0f} ms, p99 {1e3 * half.found['p99']:.0f} ms |",  # type: ignore[operator]
            f"| most memory | {ours.megabytes:,.0f} MB |",
        ]
        rows += _reads(run, folder)
        text = "\n".join([_about(), "", "| what | measured |", "|---|---|", *rows, ""])
        print(text)
        DOCS.write_text(_TABLE.sub(lambda match: match[1] + text + match[2], DOCS.read_text()))
        missed = [what for what, met in (
            (f"{speed:,.0f} events/s of {TARGET:,}", speed >= TARGET),
            (f"{speed / slow:.1f}× of {TIMES}×", speed >= TIMES * slow),
        ) if not met]  # fmt: skip
        print("missed: " + ", ".join(missed) if missed else "the stream met its targets")
        return int(bool(missed))


def _about() -> str:
    return (
        f"Machine: {machine.describe()}; {machine.versions()}. The flights of the example as JSON "
        "messages\nin the order of their departure, through parsing, validation, deduplication, "
        "the join with\nthe weather, eighteen aggregates, the transform graph and files, on "
        "the in-process runner."
    )


def flights_run(
    folder: pathlib.Path, command: str = "transform", seed: int = 2013
) -> tuple[pathlib.Path, pathlib.Path]:
    """Make the transform graph of two weeks of flights; return the run and its recipe.

    Args:
        folder: Where all of it goes.
        command: Of `skewless`; `run` makes a model, too.
        seed: The recipe's.
    """
    csv = flights.write_csv(folder / "flights.csv", rows=12_000)
    recipe = folder / "recipe"
    recipe.mkdir()
    for file in ("recipe.py", "data.py"):
        shutil.copy(_RECIPE.parent / file, recipe / file)
    text = (recipe / "recipe.py").read_text()
    text = text.replace("data.flights_csv()", repr(str(csv)))
    text = text.replace('"2013-10-01"', '"2013-01-10"').replace('"2013-11-15"', '"2013-01-12"')
    (recipe / "recipe.py").write_text(text.replace("seed=2013", f"seed={seed}"))
    words = [sys.executable, "-m", "skewless", command, str(recipe / "recipe.py")]
    subprocess.run([*words, "--output", str(folder / "runs")], check=True, capture_output=True)
    (manifest,) = (folder / "runs" / "flights").glob("*/manifest.json")
    return manifest.parent, recipe / "recipe.py"


def _events(folder: pathlib.Path, count: int) -> pathlib.Path:
    """Write the first flights as JSON lines, in the order of their departure."""
    folder.mkdir()
    table = flights.departures(flights.table_of(flights.write_csv(folder / "flights.csv")))
    flights.write_json_lines(table.slice(0, count), folder / "events.jsonl")
    return folder


def _measure(
    variant: str, rate: float, run: pathlib.Path, data: pathlib.Path, rows: int
) -> Measured:
    found = []
    for _ in range(REPEATS if not rate else 1):
        options = (variant, str(rate), str(run))
        found.append(
            measure("stream_work", Job("flights", rows, data, data / "out", options), LIMIT)
        )
        print(f"stream {variant:9} {json.dumps(found[-1].found)} {found[-1].failure}", flush=True)
    return sorted(found, key=_speed)[len(found) // 2]


def _speed(one: Measured) -> float:
    return float(one.found["events"]) / float(one.found["stream_seconds"])  # type: ignore[arg-type]


# --- Reads of the store ------------------------------------------------------------------


def _reads(run: pathlib.Path, folder: pathlib.Path) -> list[str]:
    rows = []
    (folder / "redis").mkdir()
    with redis(folder / "redis") as server:
        for name, store in (("SQLite", str(folder / "online.db")), ("Redis", server.url)):
            command = [sys.executable, "-m", "skewless", "backfill"]
            recipe = str(folder / "recipe" / "recipe.py")
            options = ["--run", str(run), "--store", store]
            subprocess.run([*command, recipe, *options], check=True, capture_output=True)
            features = sk.online_features(run, store)
            for keys in (1, 100):
                times = sorted(_timed(features, keys))
                rows.append(
                    f"| `features_at`, {keys} key{'s' * (keys > 1)}, 18 aggregates, {name} | p50 "
                    f"{percentile(times, 50):.2f} ms, p99 {percentile(times, 99):.2f} ms |"
                )
    return [*rows, "| Feast, one row of precomputed values, as published | p50 0.98 ms |"]


def _timed(features: Any, keys: int) -> Iterator[float]:
    """Yield how long reads take, in milliseconds."""
    now = datetime.datetime(2013, 1, 14, 12, tzinfo=datetime.UTC)
    asked = {
        "origin": (["JFK", "LGA", "EWR"] * keys)[:keys],
        "carrier": (["UA", "B6", "EV", "DL"] * keys)[:keys],
        "tailnum": [f"N{14228 + i}" for i in range(keys)],
    }
    for _ in range(50):
        features.features_at(asked, now)
    for _ in range(1_000):
        began = time.perf_counter()
        features.features_at(asked, now)
        yield 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
