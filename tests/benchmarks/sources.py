"""Measure every batch source beside Beam's own connector: python -m tests.benchmarks.sources.

Needs the servers of the integration tests, and installs them. It writes the table in
docs/sources.md, and its figures into build/bench.json beside those that are there.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from skewless.schema import format_schema
from tests import flights
from tests.benchmarks import machine
from tests.benchmarks.figures import Figure, Sample, figures, write_json
from tests.benchmarks.measure import ROOT, measure
from tests.benchmarks.read_source import NAMES
from tests.benchmarks.transform import line, sample
from tests.benchmarks.work import Job
from tests.servers.bigquery import PROJECT, emulator
from tests.servers.postgresql import PASSWORD, postgresql

REPEATS = 3
LIMIT = 300.0
# How many times as fast as Beam's connector each is to be, at least.
TARGETS = {"bigquery": 5.0, "avro": 3.0, "tfrecord": 3.0}
BEAM = {
    "csv": "ReadFromCsv",
    "json": "ReadFromJson",
    "parquet": "ReadFromParquet",
    "avro": "ReadFromAvro",
    "tfrecord": "ReadFromTFRecord, then tf.train.Example.FromString",
    "bigquery": "ReadFromBigQuery, DIRECT_READ",
    "postgresql": "a DB-API loop (psycopg, server-side cursor)",
    "http": "there is none",
}
OURS = {
    "csv": "ReadCsv",
    "json": "ReadJsonLines",
    "parquet": "ReadParquet",
    "avro": "ReadAvro",
    "tfrecord": "ReadTFRecord",
    "bigquery": "ReadBigQuery",
    "postgresql": "ReadDatabase",
    "http": "ReadHttp",
}
DOCS = ROOT / "docs" / "sources.md"
_TABLE = re.compile(r"(<!-- measured -->\n).*(<!-- end -->\n)", re.DOTALL)


def main() -> int:
    """Measure, write, and say whether every target was met."""
    os.environ["DATABASE_PASSWORD"] = PASSWORD
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        data = pathlib.Path(folder)
        address, rows = servers.enter_context(_provided(data))
        for kind in NAMES:
            for _ in range(REPEATS):
                for variant in ("skewless", "beam"):
                    if variant == "skewless" or kind != "http":
                        samples.append(_measure(kind, variant, address, rows, data))
    found = figures(samples)
    _keep(found)
    speeds = {(f.case, f.variant): f.value for f in found if f.unit == "rows/s"}
    text = _markdown(samples, speeds)
    print(text)
    DOCS.write_text(_TABLE.sub(lambda match: match[1] + text + match[2], DOCS.read_text()))
    missed = [
        f"{kind}: {speeds[kind, 'skewless'] / speeds[kind, 'beam']:.2f}"
        for kind in NAMES
        if (kind, "beam") in speeds
        and speeds[kind, "skewless"] < TARGETS.get(kind, 1.0) * speeds[kind, "beam"]
    ]
    print("missed: " + ", ".join(missed) if missed else "every source met its target")
    return int(bool(missed))


@contextlib.contextmanager
def _provided(folder: pathlib.Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Put the flights everywhere; give where, and how many there are."""
    csv = flights.write_csv(folder / "flights.csv")
    (folder / "schema.pbtxt").write_text(format_schema(flights.schema_of(csv)))
    table = flights.table_of(csv)
    flights.write_json_lines(table, folder / "flights.jsonl")
    flights.write_parquet(table, folder / "flights.parquet")
    flights.write_avro(table, folder / "flights.avro")
    flights.write_tfrecord(table, folder / "flights.tfrecord.gz")
    with (
        emulator(folder) as bigquery,
        postgresql() as database,
        flights.served(flights.json_lines(table)) as url,
    ):
        flights.load_bigquery(table, bigquery)
        flights.load_postgresql(table, database)
        address = {
            "folder": str(folder),
            "table": f"{PROJECT}.{flights.TABLE}",
            **bigquery.where,
            "uri": database.uri,
            "url": url,
        }
        yield address, table.num_rows


def _measure(
    kind: str, variant: str, address: dict[str, Any], rows: int, data: pathlib.Path
) -> Sample:
    options = (kind, variant, json.dumps(address))
    found = measure("read_source", Job("flights", rows, data, data / "out", options), LIMIT)
    print(f"source {kind:10} {variant:8} {line(found)}", flush=True)
    return sample("sources", kind, variant, rows, found)


def _keep(found: list[Figure]) -> None:
    """Put the figures in the place of earlier ones of this suite."""
    path = ROOT / "build" / "bench.json"
    others = json.loads(path.read_text()) if path.exists() else []
    kept = [Figure(**one) for one in others if one["suite"] != "sources"]
    write_json([*kept, *found], path)


def _markdown(samples: list[Sample], speeds: dict[tuple[str, str], float]) -> str:
    lines = [
        f"Machine: {machine.describe()}; {machine.versions()}. {samples[0].rows:,} flights of 19 "
        "columns, read and",
        "counted on the in-process runner; the median of three runs each, in processes of their "
        "own, one after the other.",
        "BigQuery is the emulator of the tests, PostgreSQL a real one, HTTP a server in Python; "
        "all on this machine.",
        "",
        "| skewless | rows/s | beside | rows/s | times |",
        "|---|---|---|---|---|",
    ]
    for kind in NAMES:
        ours, theirs = speeds.get((kind, "skewless")), speeds.get((kind, "beam"))
        failed = next((s.failure for s in samples if s[1:3] == (kind, "beam") and s.failure), "")
        beside = f"{theirs:,.0f}" if theirs else failed.splitlines()[-1][:60] if failed else "–"
        times = f"{ours / theirs:.1f}×" if ours and theirs else "–"
        shown = f"{ours:,.0f}" if ours else "failed"
        lines.append(f"| `{OURS[kind]}` | {shown} | {BEAM[kind]} | {beside} | {times} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
