from __future__ import annotations

import gzip
import io
import json
import pathlib
import tempfile
from typing import Any

import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import DataError
from skewless.schema import column_names, make_feature, make_schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET, Count, Outcome
from skewless.transforms.sources.tfrecord import ReadTFRecord
from skewless.transforms.sources.tfrecord_file import read_records

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("x", pa.float32(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("s", tz="UTC"), required=False),
        make_feature("many", pa.list_(pa.int64()), required=False),
    ]
)


def example(**features: Any) -> bytes:
    """Return a serialized Example; the type of the first value says which list it is."""
    found = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], float):
            found[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        elif values and isinstance(values[0], (str, bytes)):
            coded = [v.encode() if isinstance(v, str) else v for v in values]
            found[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=coded))
        elif values:
            found[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            found[name] = tf.train.Feature()
    return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def write(path: pathlib.Path, records: list[bytes]) -> None:
    compressed = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), compressed) as writer:
        for record in records:
            writer.write(record)


def read(source: ReadTFRecord) -> list[Outcome]:
    file_format, schema = source.file_format(), source.raw_schema()
    (path,) = source.patterns
    pieces = list(file_format.pieces(path, pathlib.Path(path).stat().st_size))
    return [outcome for piece in pieces for outcome in file_format.read(piece, schema)]


def kept(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in outcome.kept.to_pylist()]


@pytest.mark.parametrize("name", ["in.tfrecord", "in.tfrecord.gz"])
def test_a_pipeline_reads_and_rejects(eager: Any, name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    records = [
        example(n=1, x=0.5, s="a", t="1970-01-01T00:00:05Z", many=[1, 2], other=b"\xff"),
        b"\xffno example",
        example(n=2, x=3, s="", t=6, many=[]),
        example(n=[1, 2]),
        example(x="much"),
        example(),
    ]
    write(path, records)
    found = eager(lambda pipeline: pipeline | ReadTFRecord(str(path), schema=SCHEMA))
    rows = sorted((r for b in found.rows for r in b.to_pylist()), key=lambda row: row[OFFSET])
    assert [row["n"] for row in rows] == [1, 2, None]
    assert [row["x"] for row in rows] == [0.5, 3.0, None]
    assert [row["s"] for row in rows] == ["a", None, None]
    assert [row["t"] and row["t"].second for row in rows] == [5, 6, None]
    assert [row["many"] or [] for row in rows] == [[1, 2], [], []]
    assert rows[0][OFFSET] == 0
    assert {row[FILE] for row in rows} == {str(path)}
    rejected = sorted(found.rejected, key=lambda row: row.offset)
    assert [(row.column, row.value) for row in rejected[:2]] == [("", ""), ("n", "[1, 2]")]
    assert rejected[0].payload == records[1]
    assert "tf.train.Example" in rejected[0].reason
    assert json.loads(rejected[1].payload)["n"] == [1, 2]
    assert sum(count.n for count in found.counts) == 6
    assert {count[:3] for count in found.counts} == {("", "Read", "read")}
    assert isinstance(found.counts[0], Count)


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(1, 25), st.integers(1, 90))
def test_records_are_those_of_tensorflow(
    records: list[bytes], most_rows: int, chunk_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "in.tfrecord"
        write(path, records)
        with path.open("rb") as file:
            found = list(read_records(file, "in", most_rows, chunk_bytes=chunk_bytes))
    assert [content for part in found for content in part.contents] == records
    sizes = [16 + len(record) for record in records]
    offsets = [offset for part in found for offset in part.offsets]
    assert offsets == [sum(sizes[:i]) for i in range(len(records))]
    assert all(0 < len(part.contents) <= most_rows for part in found)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("cut", "the record at byte 0 is cut short"),
        ("length", "the record at byte 0 cannot be one"),
        ("body", "the record at byte 0 is damaged"),
        ("text", "the record at byte 0 cannot be one"),
    ],
)
def test_a_damaged_file_is_named(damage: str, words: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.tfrecord"
    write(path, [example(n=1, s="some text")])
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-3]
    elif damage == "length":
        data[0] ^= 1
    elif damage == "body":
        data[20] ^= 1
    else:
        data = bytearray(b"n,x\n1,2\n3,4\n5,6\n")
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as raised:
        read(ReadTFRecord(str(path), schema=SCHEMA))
    assert str(path) in str(raised.value)


def test_a_gzip_file_cut_short_is_named(tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "in.tfrecord"
    write(plain, [example(n=i, s="x" * 100) for i in range(100)])
    path = tmp_path / "cut.tfrecord.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()[:-10]))
    with pytest.raises(DataError, match="is cut short"):
        read(ReadTFRecord(str(path), schema=SCHEMA))


@pytest.mark.parametrize(
    ("features", "column"),
    [({"n": "one"}, "n"), ({"x": "much"}, "x"), ({"s": 1}, "s"), ({"t": 0.5}, "t")],
)
def test_a_feature_of_another_kind_is_a_rejected_row(
    features: dict[str, Any], column: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "in.tfrecord"
    write(path, [example(**features), example(**features), example(many=[1])])
    outcomes = read(ReadTFRecord(str(path), schema=SCHEMA))
    assert [row["many"] for row in kept(outcomes)] == [[1]]
    assert [row.column for outcome in outcomes for row in outcome.rejected] == [column] * 2


def test_a_schema_is_inferred(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.tfrecord"
    write(path, [example(n=1, x=0.5, s="12", many=[1, 2]), example(n=2, s="b", many=[3, 4, 5])])
    schema = infer_schema(ReadTFRecord(str(path)))
    assert sorted(column_names(schema)) == ["many", "n", "s", "x"]
    types = {feature.name: feature for feature in schema.feature}
    assert types["s"].type == make_feature("s", pa.string(), required=True).type
    assert types["many"].value_count.min == 0
    assert not types["many"].HasField("shape")


def test_an_empty_file_has_no_rows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.tfrecord"
    path.write_bytes(b"")
    assert kept(read(ReadTFRecord(str(path), schema=SCHEMA))) == []
    assert list(read_records(io.BytesIO(), "in")) == []
