from __future__ import annotations

import json
import math
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that

from skewless.errors import DataError, RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import FILE, OFFSET, Count, Rejected
from skewless.transforms.sources.parquet import ReadParquet

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("x", pa.float32(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("us", tz="UTC"), required=False),
    ]
)


def write(path: pathlib.Path, x: list[float | None]) -> None:
    rows = len(x)
    table = pa.table(
        {
            "n": pa.array(range(rows), pa.int32()),
            "x": pa.array(x, pa.float64()),
            "s": pa.array(["a", ""] * rows).dictionary_encode()[:rows],
            "t": pa.array([1_500] * rows, pa.int64()).cast(pa.timestamp("ns")),
            "other": pa.nulls(rows),
        }
    )
    pq.write_table(table, path, row_group_size=2)


def test_row_groups_are_cast_and_numbered(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, [1.5, math.nan, None, 1e300, math.inf])

    def check(batches: list[pa.RecordBatch]) -> None:
        rows = sorted((r for b in batches for r in b.to_pylist()), key=lambda r: r["n"])
        assert [r["n"] for r in rows] == [0, 1, 2, 4]
        assert [r["x"] for r in rows] == [1.5, None, None, math.inf]
        assert [r["s"] for r in rows] == ["a", None, "a", "a"]
        assert {r["t"].microsecond for r in rows} == {1}
        assert [r[OFFSET] for r in rows] == [0, 1, 2, 4]
        assert {r[FILE] for r in rows} == {str(path)}

    def check_rejected(found: list[Rejected]) -> None:
        (row,) = found
        assert row[:6] == ("Parse", str(path), 3, "x", "1e+300", "expected a number (float)")
        assert json.loads(row.payload)["n"] == 3

    def check_counts(counts: list[Count]) -> None:
        assert sum(c.n for c in counts) == 5

    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | ReadParquet(path, schema=SCHEMA)
        assert_that(result.rows, check, label="rows")
        assert_that(result.rejected[0], check_rejected, label="rejected")
        assert_that(result.counts[0], check_counts, label="counts")


def test_rejected_rows_can_be_repaired(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.parquet"
    write(path, [1e300])
    source = ReadParquet(path, schema=SCHEMA)
    (piece,) = source.file_format().pieces(str(path), 0)
    (outcome,) = source.file_format().read(piece, SCHEMA)
    assert source.read_rejected(outcome.rejected, SCHEMA).rejected[0].column == "x"
    payload = outcome.rejected[0].payload.replace(b"1e+300", b"2.5")
    again = source.read_rejected([outcome.rejected[0]._replace(payload=payload)], SCHEMA)
    assert again.kept.to_pylist()[0]["x"] == 2.5
    assert again.kept[FILE].to_pylist() == [str(path)]


def test_a_value_that_python_cannot_hold_is_rejected(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.parquet"
    invalid = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())
    columns = {
        "t": pa.array([2**62, 0, 1]).cast(pa.timestamp("us")),
        "s": invalid,
        "l": pa.array([[b"a"], [b"b"], [b"\xff"]]),
    }
    pq.write_table(pa.table(columns), path)
    schema = make_schema(
        [
            make_feature("t", pa.timestamp("us", tz="UTC"), required=True),
            make_feature("s", pa.string(), required=True),
            make_feature("l", pa.list_(pa.string()), required=True),
        ]
    )
    source = ReadParquet(path, schema=schema)
    (piece,) = source.file_format().pieces(str(path), 0)
    (outcome,) = source.file_format().read(piece, schema)
    assert outcome.kept.num_rows == 0
    assert [(row.column, row.value) for row in outcome.rejected] == [
        ("t", f"<value out of range: {2**62}>"),
        ("s", "\\xff"),
        ("l", '["\\\\xff"]'),
    ]


def test_wide_row_groups_come_in_bounded_batches(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"n": np.arange(100_000)}), path)
    schema = make_schema([make_feature("n", pa.int64(), required=True)])
    source = ReadParquet(path, schema=schema)
    (piece,) = source.file_format().pieces(str(path), 0)
    outcomes = list(source.file_format().read(piece, schema))
    assert max(o.kept.num_rows for o in outcomes) <= 65_536
    offsets = np.concatenate([o.kept[OFFSET].to_numpy() for o in outcomes])
    assert (offsets == np.arange(100_000)).all()


def test_small_row_groups_are_read_together(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.parquet"
    sizes = [10, 65_526, 1, 65_536, 65_537, 3]
    kinds = pa.array(["a", "b"] * 100_000).dictionary_encode()
    with pq.ParquetWriter(path, pa.schema([("n", pa.int64()), ("k", kinds.type)])) as writer:
        for number, size in enumerate(sizes):
            start = sum(sizes[:number])
            part = {"n": np.arange(start, start + size), "k": kinds.slice(start, size)}
            writer.write_table(pa.table(part), row_group_size=size)
    schema = make_schema(
        [
            make_feature("n", pa.int64(), required=True),
            make_feature("k", pa.string(), required=True),
        ]
    )
    source = ReadParquet(path, schema=schema).file_format()
    pieces = list(source.pieces(str(path), 0))
    assert [(piece.start, piece.stop) for piece in pieces] == [
        (0, 2),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 6),
    ]
    batches = [o.kept for piece in pieces for o in source.read(piece, schema)]
    assert [batch.num_rows for batch in batches] == [65_536, 1, 65_536, 65_536, 1, 3]
    whole = pa.concat_tables([pa.table(batch.drop_columns([FILE])) for batch in batches])
    assert whole["n"].to_pylist() == whole[OFFSET].to_pylist() == list(range(sum(sizes)))
    assert whole["k"].to_pylist() == kinds.to_pylist()[: sum(sizes)]


def test_unusable_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"n,x\n1,2\n")
    with pytest.raises(DataError, match="not a Parquet file"):
        _ = beam.Pipeline("FnApiRunner") | ReadParquet(path, schema=SCHEMA)
    write(path, [1.0])
    schema = make_schema([make_feature("othr", pa.int64(), required=False)])
    with pytest.raises(RecipeError, match='did you mean "other"'):
        _ = beam.Pipeline("FnApiRunner") | ReadParquet(path, schema=schema)
    source = ReadParquet(path, schema=make_schema([make_feature("s", pa.int64(), required=False)]))
    (piece,) = source.file_format().pieces(str(path), 0)
    with pytest.raises(DataError, match='column "s" has type string'):
        list(source.file_format().read(piece, source.raw_schema()))
