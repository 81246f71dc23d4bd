"""The graph is a plain function here: what is tested is what becomes of its rows."""

import errno
import pathlib

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to

from skewless.errors import RunError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import FILE, OFFSET, with_origin
from skewless.transforms.sinks import examples
from skewless.transforms.sinks.examples import WriteExamples
from skewless.transforms.sinks.rejected import read_rejected_file

ROWS = 250


class Graph:
    """Doubles `a`, and fails on a batch with a negative one, as a graph does."""

    def __init__(self) -> None:
        self.columns: list[list[str]] = []

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.columns.append(batch.schema.names)
        values = batch.column("a").to_pylist()
        if min(values, default=0) < 0:
            raise tf.errors.InvalidArgumentError(None, None, "a is negative")
        return pa.record_batch({"f": pa.array([[v * 2] for v in values], pa.list_(pa.int64()))})


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph = Graph()
    schema = make_schema([make_feature("a", pa.int64(), required=True)])
    monkeypatch.setattr(examples, "load_transform", lambda path: graph)
    monkeypatch.setattr(examples, "read_raw_schema", lambda path: schema)
    return graph


def write_rows(path: pathlib.Path, values: list[int]) -> None:
    batch = pa.record_batch({"a": values, "other": [str(value) for value in values]})
    origin = with_origin(batch, "f.csv", pa.array(range(len(values)), pa.int64()))
    path.parent.mkdir(parents=True)
    # Row groups of their own sizes, as a run's parts have.
    pq.write_table(pa.Table.from_batches([origin]), path, row_group_size=37)


def run(root: pathlib.Path) -> pathlib.Path:
    """Write the examples of the one part there is; return its path."""
    parts = [str(path) for path in root.glob("rows/*/part-*")]
    (root / "rejected").mkdir(exist_ok=True)
    target = root / "examples" / "train" / "part-00000.tfrecord.gz"
    write = WriteExamples("graph", str(root / "examples"), str(root / "rejected"), batch_rows=100)
    with beam.Pipeline("FnApiRunner") as begin:
        written = begin | beam.Create(parts) | write
        assert_that(written, equal_to([str(target)]))
    return target


def features_in(path: pathlib.Path) -> list[int]:
    dataset = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
    found = [tf.train.Example.FromString(record.numpy()) for record in dataset]
    return [example.features.feature["f"].int64_list.value[0] for example in found]


def test_features_stand_in_the_order_of_the_rows(graph: Graph, tmp_path: pathlib.Path) -> None:
    write_rows(tmp_path / "rows/train/part-00000.parquet", list(range(ROWS)))
    assert features_in(run(tmp_path)) == [2 * value for value in range(ROWS)]
    assert list((tmp_path / "rejected").iterdir()) == []
    # In even batches, of the columns that the graph needs.
    assert graph.columns == [["a"]] * 3


def test_a_row_that_the_graph_cannot_take_leaves_both(graph: Graph, tmp_path: pathlib.Path) -> None:
    values = [-value if value in (3, 120, 249) else value for value in range(ROWS)]
    source = tmp_path / "rows/train/part-00000.parquet"
    write_rows(source, values)
    target = run(tmp_path)
    good = [value for value in values if value >= 0]
    assert features_in(target) == [2 * value for value in good]
    rows = pq.read_table(source).to_pylist()
    assert [row["a"] for row in rows] == good
    assert all(row["other"] == str(row["a"]) and row[FILE] == "f.csv" for row in rows)
    assert [row[OFFSET] for row in rows] == [i for i, v in enumerate(values) if v >= 0]
    (lines,) = (tmp_path / "rejected").iterdir()
    assert lines.name == "train-part-00000.jsonl"
    rejected = read_rejected_file(lines)
    assert [row.offset for row in rejected] == [3, 120, 249]
    assert b'"other": "-120"' in rejected[1].payload


def test_a_part_that_is_there_is_left_as_it_is(graph: Graph, tmp_path: pathlib.Path) -> None:
    write_rows(tmp_path / "rows/train/part-00000.parquet", [1, 2])
    target = tmp_path / "examples/train/part-00000.tfrecord.gz"
    target.parent.mkdir(parents=True)
    target.write_text("made before")
    assert run(tmp_path).read_text() == "made before"
    assert graph.columns == []


def test_a_full_disk_leaves_no_part(
    graph: Graph, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is met in another thread than the one that tells of it."""

    def write(self: object, features: pa.RecordBatch) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(examples.TFRecordFile, "write", write)
    write_rows(tmp_path / "rows/train/part-00000.parquet", [1, 2])
    with pytest.raises(RunError, match=r"part-00000\.tfrecord\.gz.*free some space"):
        examples.write_examples(
            str(tmp_path / "rows/train/part-00000.parquet"),
            transform_graph="graph",
            directory=str(tmp_path / "examples"),
            rejected=str(tmp_path / "rejected"),
            batch_rows=100,
        )
    assert list((tmp_path / "examples/train").iterdir()) == []
