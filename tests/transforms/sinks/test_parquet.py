import pathlib

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.testing.util import assert_that, equal_to

from skewless.transforms.rows import FILE, OFFSET, with_origin
from skewless.transforms.sinks.parquet import WriteParquet


def batches(n: int) -> list[pa.RecordBatch]:
    return [
        with_origin(
            pa.RecordBatch.from_pydict({"a": list(range(i * 100, i * 100 + 100))}),
            f"f{i}.csv",
            pa.array(range(100)),
        )
        for i in range(n)
    ]


def test_parts_hold_every_row_with_its_origin(tmp_path: pathlib.Path) -> None:
    with beam.Pipeline("FnApiRunner") as begin:
        parts = begin | beam.Create(batches(5)) | WriteParquet(str(tmp_path), part_bytes=3000)
        assert_that(parts | beam.Map(lambda p: p.rows) | beam.CombineGlobally(sum), equal_to([500]))
    files = list(tmp_path.iterdir())
    assert len(files) > 1
    table = pa.concat_tables([pq.read_table(f) for f in files])
    assert sorted(table.column("a").to_pylist()) == list(range(500))
    for row in table.to_pylist():
        assert row[FILE] == f"f{row['a'] // 100}.csv"
        assert row[OFFSET] == row["a"] % 100


def test_features_can_be_written_too(tmp_path: pathlib.Path) -> None:
    """Lists of numbers and bytes as `ApplyTransform` gives them, without an origin."""
    features = pa.record_batch(
        {
            "x": pa.array([[0.5], [], [1.5, 2.5]], pa.large_list(pa.float32())),
            "id": pa.array([[1], [2], [-3]], pa.large_list(pa.int64())),
            "word": pa.array([[b"a"], None, [b"\xff"]], pa.large_list(pa.large_binary())),
        }
    )
    with beam.Pipeline("FnApiRunner") as begin:
        parts = begin | beam.Create([features] * 3) | WriteParquet(str(tmp_path))
        assert_that(parts | beam.Map(lambda p: p.rows) | beam.CombineGlobally(sum), equal_to([9]))
    table = pa.concat_tables([pq.read_table(f) for f in tmp_path.iterdir()])
    assert table.equals(pa.Table.from_batches([features] * 3))
