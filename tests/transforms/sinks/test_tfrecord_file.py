import gzip
import io
import pathlib

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.io.tfrecordio import _TFRecordUtil
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.transforms.sinks.tf_example import encode_examples
from skewless.transforms.sinks.tfrecord_file import TFRecordFile, TFRecordOptions, frame_records

FEATURES = pa.record_batch(
    {
        "x": pa.array(np.linspace(-1, 1, 20_000, dtype=np.float32)),
        "id": pa.array(np.arange(20_000) % 300),
    }
)


def file_of(options: TFRecordOptions, *batches: pa.RecordBatch) -> bytes:
    file = io.BytesIO()
    records = TFRecordFile(file, options)
    for batch in batches:
        records.write(batch)
    records.close()
    assert records.bytes == len(file.getvalue())
    return file.getvalue()


@given(st.lists(st.binary(max_size=300), max_size=8), st.booleans())
def test_frames_are_those_that_beam_reads(records: list[bytes], alike: bool) -> None:
    records = [records[0]] * len(records) if alike and records else records
    file = io.BytesIO(frame_records(pa.array(records, pa.large_binary())).tobytes())
    assert [_TFRecordUtil.read_record(file) for _ in records] == records
    assert file.read() == b""


def test_a_slice_of_records() -> None:
    records = pa.array([b"one", b"three", b"", b"four"], pa.large_binary())
    whole, part = frame_records(records), frame_records(records.slice(1, 2))
    assert part.tobytes() == whole[16 + 3 : -(16 + 4)].tobytes()


def test_the_bytes_of_tensorflows_own_writer(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "theirs.tfrecord"
    batch = FEATURES.slice(0, 500)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in encode_examples(batch).to_pylist():
            writer.write(record)
    assert file_of(TFRecordOptions(""), batch) == path.read_bytes()


@pytest.mark.parametrize("level", [1, 3, 4, 9])
def test_every_level_holds_the_same(level: int) -> None:
    plain = file_of(TFRecordOptions(""), FEATURES)
    packed = file_of(TFRecordOptions(compression_level=level), FEATURES)
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 3
    assert packed == file_of(TFRecordOptions(compression_level=level), FEATURES)
    # No time and no name of a file: nothing in it but the features.
    assert packed[3:8] == bytes(5)


@pytest.mark.parametrize("kind", ["GZIP", ""])
def test_tensorflow_reads_it(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / f"part{TFRecordOptions(kind).suffix}"
    path.write_bytes(file_of(TFRecordOptions(kind), FEATURES, FEATURES.slice(5, 7)))
    dataset = tf.data.TFRecordDataset(str(path), compression_type=kind).batch(30_000)
    spec = {
        "x": tf.io.FixedLenFeature([], tf.float32),
        "id": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_example(next(iter(dataset)), spec)
    for name, column in zip(FEATURES.schema.names, FEATURES.columns, strict=True):
        values = column.to_numpy()
        np.testing.assert_array_equal(parsed[name], np.concatenate([values, values[5:12]]))


@pytest.mark.parametrize("options", [TFRecordOptions(), TFRecordOptions(compression_level=6)])
def test_no_rows_are_a_file_too(options: TFRecordOptions) -> None:
    assert gzip.decompress(file_of(options)) == b""
    assert gzip.decompress(file_of(options, FEATURES.slice(0, 0))) == b""


def test_wrong_options() -> None:
    with pytest.raises(RecipeError, match=r'compression_type="ZLIB".*expected "GZIP"'):
        TFRecordOptions("ZLIB")
    with pytest.raises(RecipeError, match=r"compression_level=0.*expected 1"):
        TFRecordOptions(compression_level=0)
