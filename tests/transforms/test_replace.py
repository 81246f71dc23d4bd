import apache_beam as beam
import pyarrow as pa
from apache_beam.testing.util import assert_that, equal_to

from skewless.schema import make_feature, make_schema
from skewless.transforms.replace import ReplaceRows, without_rows
from skewless.transforms.rows import Rejected, with_origin
from skewless.transforms.sources.csv import ReadCsv


def batch() -> pa.RecordBatch:
    rows = pa.RecordBatch.from_pydict({"a": [1, 2, 3]})
    return with_origin(rows, "f.csv", pa.array([0, 10, 20]))


def test_only_rows_of_the_same_file_and_offset_go() -> None:
    kept = without_rows(batch(), {("f.csv", 10), ("other.csv", 20)})
    assert kept.column("a").to_pylist() == [1, 3]


def test_nothing_to_drop_is_the_same_batch() -> None:
    rows = batch()
    assert without_rows(rows, {("f.csv", 11)}) is rows


def test_repaired_row_takes_the_place_of_the_rejected_one(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\nx\n3\ny\n")
    schema = make_schema([make_feature("a", pa.int64(), required=True)])
    bad = Rejected("Parse", str(path), 4, "a", "x", "expected an integer", b'{"a": "2"}')
    still = Rejected("Parse", str(path), 8, "a", "y", "expected an integer", b'{"a": "z"}')
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | ReplaceRows(ReadCsv(path, schema=schema), (bad, still))
        values = rows.rows | beam.FlatMap(lambda b: b.column("a").to_pylist())
        assert_that(values, equal_to([1, 2, 3]), label="Kept")
        rejected = rows.rejected | beam.Flatten() | "Value" >> beam.Map(lambda r: r.value)
        assert_that(rejected, equal_to(["z"]), label="Rejected")
        counts = rows.counts | "Counts" >> beam.Flatten() | "N" >> beam.Map(lambda c: c.n)
        assert_that(counts, equal_to([4]), label="Counted")
