"""Flights as a stream: with skewless, and the obvious way, one event and one call at a time."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import time
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import BooleanCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from skewless.pipeline.execution import Execution
from skewless.pipeline.live import NewestRun, graph_of, live_rows
from skewless.pipeline.recipe import load_recipe
from skewless.schema import arrow_schema
from skewless.transforms.apply import load_transform
from skewless.transforms.live.microbatches import read_counts
from skewless.transforms.live.process import Outputs, WriteReleased, commit_rows
from skewless.transforms.live.released import Released
from skewless.transforms.online.open import open_store
from tests.benchmarks.measure import ROOT
from tests.benchmarks.stream_source import Lines, ReadLines, percentile, raw_lines
from tests.benchmarks.work import Job

RECIPE = ROOT / "examples" / "flights" / "recipe.py"
HOURS = (1, 3, 24)

# When each event was written, in this process.
_written: list[tuple[int, float]] = []


def run(job: Job) -> dict[str, Any]:
    variant, rate, run_folder = job.options
    lines = Lines(str(job.data / "events.jsonl"), float(rate), time.time())
    live = live_rows(load_recipe(RECIPE), pathlib.Path(run_folder), job.output, Execution())
    # The graph is loaded before the clock is started: a stream does that once in its life.
    graph = graph_of(NewestRun(run_folder, tuple(_columns(live))))
    load_transform(graph.path_of(graph.newest()))
    lines = dataclasses.replace(lines, began=time.time())
    if variant == "skewless":
        found = _skewless(job, lines, live, graph)
    else:
        found = _obvious(lines, live, graph)
    return found


def _columns(live: Any) -> list[str]:
    added = [column.name for plan in live.plans for column in plan.columns]
    return [f.name for f in live.schema.feature] + added + [f.name for f in live.last.feature]


def _skewless(job: Job, lines: Lines, live: Any, graph: Any) -> dict[str, Any]:
    address = str(job.output / "online.db")
    outputs = Outputs(graph, str(job.output / "out"), live.at, 0)
    began = time.time()
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | ReadLines(lines=lines, schema=live.schema)
        for number, released in enumerate(commit_rows(rows, live, address, graph)):
            written = released | f"Write{number}" >> WriteReleased(outputs)
            _ = written | f"Note{number}" >> beam.Map(_note)
            _ = released | f"Rows{number}" >> beam.Map(_note_rows)
    seconds = time.time() - began
    store = open_store(address)
    counts = read_counts(store)
    store.close()
    read = sum(n for (kind, _), n in counts.items() if kind == "read")
    if read != job.rows:
        raise ValueError(f"{read} of {job.rows} events were read")
    return {"events": read, "stream_seconds": seconds, **_latency(lines)}


_rows: dict[int, list[int]] = {}


def _note_rows(released: Released) -> None:
    if released.rows is not None:
        _rows[released.number] = released.rows.column("_offset").to_pylist()


def _note(number: int) -> None:
    _written.append((number, time.time()))


def _latency(lines: Lines) -> dict[str, float]:
    """Return from when an event came to when its example was written, in seconds."""
    if not lines.rate:
        return {}
    late = [
        when - (lines.began + offset / lines.rate)
        for number, when in _written
        for offset in _rows.get(number, [])
    ]
    # The first seconds are those of a pipeline that is being made.
    settled = late[len(late) // 10 :]
    return {"p50": percentile(settled, 50), "p99": percentile(settled, 99)}


# --- The obvious way -------------------------------------------------------------------


def _obvious(lines: Lines, live: Any, graph: Any) -> dict[str, Any]:
    types = arrow_schema(live.schema)
    path = graph.path_of(graph.newest())
    began = time.time()
    with beam.Pipeline("FnApiRunner") as pipeline:
        events = (
            pipeline
            | raw_lines(lines)
            | beam.FlatMap(_each)
            | beam.Map(json.loads)
            | beam.Map(_validated, types.names)
            | beam.Map(_with_id)
            | "Deduplicate" >> beam.ParDo(_Deduplicate())
        )
        for by in ("origin", "carrier", "tailnum"):
            events = (
                events
                | f"Key by {by}" >> beam.Map(_with_key, by)
                | f"Aggregate by {by}" >> beam.ParDo(_AggregateOne(by))
            )
        _ = events | "Transform" >> beam.ParDo(_TransformOne(path, types))
    return {"events": len(_written), "stream_seconds": time.time() - began}


def _each(lines: list[bytes]) -> list[bytes]:
    return lines


def _validated(event: dict[str, Any], names: list[str]) -> dict[str, Any]:
    unknown = [name for name in event if name not in names]
    if unknown or event.get("origin") is None:
        raise ValueError(unknown)
    return event


def _with_id(event: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return f"{event['carrier']}{event['flight']}{event['origin']}{event['time_hour']}", event


def _with_key(event: dict[str, Any], by: str) -> tuple[str, dict[str, Any]]:
    return str(event.get(by)), event


class _Deduplicate(beam.DoFn):  # type: ignore[misc]
    SEEN = ReadModifyWriteStateSpec("seen", BooleanCoder())

    def process(self, keyed: Any, seen: Any = beam.DoFn.StateParam(SEEN)) -> Any:  # noqa: B008
        if not seen.read():
            seen.write(True)
            yield keyed[1]


class _AggregateOne(beam.DoFn):  # type: ignore[misc]
    """The last day of each key, in this process, and six sums over it for each event.

    In the runner's state it would be read and written whole for each event, and slower yet.
    """

    def __init__(self, by: str) -> None:
        self._by = by

    def setup(self) -> None:
        self._past: dict[str, Any] = collections.defaultdict(collections.deque)

    def process(self, keyed: tuple[str, dict[str, Any]]) -> Any:
        key, event = keyed
        held = self._past[key]
        hour = np.datetime64(event["time_hour"].partition("+")[0].rstrip("Z"), "s")
        at = int(hour.astype(int)) + 60 * event["minute"]
        for hours in HOURS:
            delays = [d for time, d in held if at - hours * 3600 <= time < at]
            event[f"{self._by}_departures_{hours}h"] = len(delays)
            event[f"{self._by}_delay_{hours}h"] = sum(delays) / len(delays) if delays else None
        if event.get("dep_delay") is not None:
            held.append((at + 60 * int(event["dep_delay"]), event["dep_delay"]))
            while held and held[0][0] < at - 86_400:
                held.popleft()
        yield event


class _TransformOne(beam.DoFn):  # type: ignore[misc]
    def __init__(self, path: str, types: pa.Schema) -> None:
        self._path, self._types = path, types

    def setup(self) -> None:
        self._apply = load_transform(self._path)

    def process(self, event: dict[str, Any]) -> Any:
        for name in self._types.names:
            event.setdefault(name, None)
        time_hour = np.datetime64(event["time_hour"].partition("+")[0].rstrip("Z"), "s")
        event["time_hour"] = time_hour.item()
        for name in ("temp", "dewp", "humid", "wind_speed", "visib", "wind_gust", "pressure",
                     "precip", "wind_dir"):  # fmt: skip
            event.setdefault(name, None)
        _written.append((0, time.time()))
        yield self._apply(pa.RecordBatch.from_pylist([event]))
