"""What a stream writes: done twice, it is what it was."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skewless.transforms.live.outputs import (
    Graph,
    as_messages,
    short_version,
    write_examples,
    write_rejected,
)
from skewless.transforms.live.released import Released
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.rejected import read_rejected_file
from skewless.transforms.sources.tfrecord import ReadTFRecord
from tests.transforms.live.small import BEGIN, SECOND, batch_of, event, poison

VERSION = "runs/small/first"


def released(*events: dict[str, Any], number: int = 7) -> Released:
    rows = batch_of(events)
    return Released(number, rows, (), VERSION, features(rows))


def features(rows: pa.RecordBatch) -> pa.RecordBatch:
    values = [[n] for n in rows.column("n").to_pylist()]
    return pa.record_batch({"x": pa.array(values, pa.list_(pa.int64()))})


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def numbers(folder: pathlib.Path, pattern: str) -> list[int]:
    """Read `x` of all examples with the library's own reader."""
    import apache_beam as beam

    from skewless.schema import make_feature, make_schema

    schema = make_schema([make_feature("x", pa.int64(), required=True)])
    found: list[int] = []
    source = ReadTFRecord(str(folder / pattern), schema=schema)
    out = folder / "numbers"
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = (pipeline | source).rows | beam.FlatMap(lambda batch: batch["x"].to_pylist())
        _ = rows | beam.Map(json.dumps) | beam.io.WriteToText(str(out))
    for path in folder.glob("numbers*"):
        found += [json.loads(line) for line in path.read_text().split()]
        path.unlink()
    return sorted(found)


def test_examples_lie_by_version_and_window(tmp_path: pathlib.Path) -> None:
    one = released(event(0, 0), event(1, 9), event(2, 10), event(3, 35), event(4, None))
    for _ in range(2):
        write_examples(one, one.features, tmp_path, "b", 10 * SECOND)
    assert sorted(files(tmp_path)) == [
        "first/1970-01-01T000000Z/part-000000007.tfrecord.gz",
        "first/2020-09-13T122640Z/part-000000007.tfrecord.gz",
        "first/2020-09-13T122650Z/part-000000007.tfrecord.gz",
        "first/2020-09-13T122710Z/part-000000007.tfrecord.gz",
    ]
    assert BEGIN == 1_600_000_000  # 2020-09-13T12:26:40Z
    assert numbers(tmp_path, "first/*/*.tfrecord.gz") == [0, 1, 2, 3, 4]
    assert numbers(tmp_path, "first/2020-09-13T122640Z/*") == [0, 1]


@pytest.mark.parametrize(("at", "window"), [("b", 0), (None, 10 * SECOND)])
def test_examples_without_windows_lie_together(
    tmp_path: pathlib.Path, at: str | None, window: int
) -> None:
    one = released(event(0, 0), event(1, 900))
    write_examples(one, one.features, tmp_path, at, window)
    assert list(files(tmp_path)) == ["first/all/part-000000007.tfrecord.gz"]


def test_windows_shorter_than_a_second_have_names_of_their_own(tmp_path: pathlib.Path) -> None:
    one = released(event(0, 0), event(1, 0.25), event(2, 0.5), event(3, 1))
    write_examples(one, one.features, tmp_path, "b", SECOND // 2)
    assert len(files(tmp_path)) == 3
    assert numbers(tmp_path, "first/*/*.tfrecord.gz") == [0, 1, 2, 3]


@pytest.mark.parametrize("year", [-62_200_000_000, 300_000_000_000])
def test_times_that_python_cannot_hold_stop_nothing(tmp_path: pathlib.Path, year: int) -> None:
    one = released(event(0, 0), event(1, year - BEGIN))
    write_examples(one, one.features, tmp_path, "b", 60 * SECOND)
    assert len(files(tmp_path)) == 2


def test_rejected_rows_can_be_read_again(tmp_path: pathlib.Path) -> None:
    odd = Rejected("Parse", "topic", 3, "", "", "expected UTF-8", b"\xff\n\xe2\x80\xa8")
    one = Released(12, None, (poison(1), odd))
    for _ in range(2):
        write_rejected(one, tmp_path)
    assert list(files(tmp_path)) == ["part-000000012.jsonl"]
    assert read_rejected_file(tmp_path / "part-000000012.jsonl") == [poison(1), odd]
    write_rejected(Released(13, batch_of([event(0, 0)]), ()), tmp_path)
    assert len(files(tmp_path)) == 1


def test_a_file_that_was_cut_is_whole_after_the_second_write(tmp_path: pathlib.Path) -> None:
    one = released(event(0, 0))
    write_examples(one, one.features, tmp_path, None, 0)
    (name,) = files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:5])
    write_examples(one, one.features, tmp_path, None, 0)
    assert files(tmp_path) == {name: whole}


def test_messages_hold_rows_features_predictions_version_and_id() -> None:
    one = released(event(3, 0), event(4, None, "b"))
    predictions = {
        "prediction": np.array([0.25, 0.5], np.float32),
        "scores": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "class": np.array([b"x", b"y"], object),
    }
    assert one.features is not None
    first, second = as_messages(one, one.features, predictions).to_pylist()
    assert first | {"t": None, "b": None, "arrived": None} == {
        "k": "a",
        "t": None,
        "b": None,
        "arrived": None,
        "n": 3,
        "features.x": [3],
        "prediction": 0.25,
        "scores": [1.0, 2.0],
        "class": b"x",
        "_version": "first",
        "_id": "7-0",
    }
    assert second["_id"] == "7-1"
    # After a restart, without what is not in the store.
    again = Released.from_bytes(7, one.to_bytes())
    assert again.rows is not None
    assert as_messages(again, features(again.rows), predictions).equals(
        as_messages(one, one.features, predictions)
    )


def test_versions_are_the_last_part_of_their_path() -> None:
    assert short_version("gs://bucket/runs/flights/4d95") == "4d95"
    assert short_version("4d95") == "4d95"


def test_features_are_made_once_more_by_the_graph_that_took_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def load(path: str) -> Any:
        asked.append(path)
        return features

    monkeypatch.setattr("skewless.transforms.live.outputs.load_transform", load)
    versions = iter(["runs/first", "runs/second"])
    graph = Graph(lambda: next(versions), lambda version: f"{version}/transform_graph")
    rows = batch_of([event(5, 1)])
    accepted = graph(rows)
    assert accepted.version == "runs/first"
    assert accepted.features == features(rows)
    kept = Released(1, rows, (), accepted.version, accepted.features)
    assert graph.features(kept) is accepted.features
    assert graph.features(Released.from_bytes(1, kept.to_bytes())) == features(rows)
    assert asked == ["runs/first/transform_graph"] * 2
