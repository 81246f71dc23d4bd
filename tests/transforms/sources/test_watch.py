from __future__ import annotations

import json
import pathlib
import threading
import time

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.utils.timestamp import Timestamp

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import FILE, Rows
from skewless.transforms.sources.json_lines import ReadJsonLines

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("t", pa.timestamp("s", tz="UTC"), required=False),
    ]
)


def write(folder: pathlib.Path, name: str, *rows: object) -> None:
    """Write a file that appears whole."""
    partial = folder / f".{name}"
    partial.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    partial.rename(folder / name)


class _Keep(beam.DoFn):  # type: ignore[misc]
    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def process(self, batch: pa.RecordBatch, timestamp: Timestamp = beam.DoFn.TimestampParam):
        rows = [(row["n"], pathlib.Path(row[FILE]).name) for row in batch.to_pylist()]
        name = f"{time.monotonic_ns()}.json"
        (self._folder / name).write_text(json.dumps([timestamp.micros, rows]))


def run(source: ReadJsonLines, out: pathlib.Path) -> list[tuple[int, list[list[object]]]]:
    out.mkdir()
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | source
        assert isinstance(rows, Rows)
        assert not rows.rows.is_bounded
        _ = rows.rows | beam.ParDo(_Keep(out))
    return [tuple(json.loads(path.read_text())) for path in sorted(out.glob("*.json"))]


def test_files_are_read_once_as_they_arrive(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder, "a.jsonl", {"n": 1, "t": 0}, {"n": 2, "t": 59}, {"n": 3, "t": 60})

    def later() -> None:
        time.sleep(2)
        write(folder, "b.jsonl", {"n": 4, "t": 5})

    source = ReadJsonLines(
        f"{folder}/*.jsonl",
        schema=SCHEMA,
        event_time="t",
        watch_seconds=0.5,
        stop_after_seconds=5,
    )
    writer = threading.Thread(target=later)
    writer.start()
    found = run(source, tmp_path / "out")
    writer.join()
    assert sorted(found) == [
        (0, [[1, "a.jsonl"], [2, "a.jsonl"]]),
        (5_000_000, [[4, "b.jsonl"]]),
        (60_000_000, [[3, "a.jsonl"]]),
    ]


def test_a_stream_of_files_is_no_batch(tmp_path: pathlib.Path) -> None:
    source = ReadJsonLines(f"{tmp_path}/*.jsonl", schema=SCHEMA, watch_seconds=1)
    with beam.Pipeline("FnApiRunner") as pipeline, pytest.raises(RecipeError, match="has no end"):
        source.plan(pipeline)
