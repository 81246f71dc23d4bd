import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to

from skewless.errors import RecipeError, RunError
from skewless.transforms.rows import with_origin
from skewless.transforms.sinks.tfrecord import Shard, WriteTFRecord, publish_shards
from skewless.transforms.sinks.tfrecord_file import TFRecordOptions

PLAIN = TFRecordOptions("")


def batches(n: int) -> list[pa.RecordBatch]:
    """Return batches of 100 rows: numbers, lists of other lengths, and what no gzip packs."""
    made, noise = [], np.random.default_rng(0)
    for start in range(0, n * 100, 100):
        numbers = range(start, start + 100)
        lists = pa.array([[float(i)] * (i % 3) for i in numbers], pa.large_list(pa.float32()))
        blobs = [noise.bytes(1_000) for _ in numbers]
        made.append(pa.record_batch({"i": [[i] for i in numbers], "l": lists, "noise": blobs}))
    return made


def numbers_in(record: bytes) -> int:
    features = tf.train.Example.FromString(record).features.feature
    (number,) = features["i"].int64_list.value
    assert features["l"].float_list.value == [float(number)] * (number % 3)
    assert set(features) == {"i", "l", "noise"}
    return number


def write(prefix: pathlib.Path, given: list[pa.RecordBatch], **arguments: object) -> None:
    with beam.Pipeline("FnApiRunner") as begin:
        written = (
            begin | beam.Create(given, reshuffle=False) | WriteTFRecord(str(prefix), **arguments)
        )
        rows = written | beam.Map(lambda shard: shard.rows) | beam.CombineGlobally(sum)
        assert_that(rows, equal_to([sum(batch.num_rows for batch in given)]))
        sizes = written | beam.Map(
            lambda s: (s.path, pathlib.Path(s.path).stat().st_size - s.bytes)
        )
        assert_that(sizes | beam.Values() | beam.Distinct(), equal_to([0] if given else []), "Size")


@pytest.mark.parametrize("options", [TFRecordOptions(), PLAIN])
def test_shards_hold_every_row_and_beam_reads_them(
    options: TFRecordOptions, tmp_path: pathlib.Path
) -> None:
    given = [with_origin(b, "f.csv", pa.array(range(100))) for b in batches(5)]
    write(tmp_path / "deep" / "train", given, options=options, shard_bytes=100_000)
    files = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert len(files) > 1
    suffix = options.suffix
    assert files == [f"train-{i:05d}-of-{len(files):05d}{suffix}" for i in range(len(files))]
    with beam.Pipeline("FnApiRunner") as begin:
        pattern = str(tmp_path / "deep" / "train-*")
        read = begin | beam.io.ReadFromTFRecord(pattern) | beam.Map(numbers_in)
        assert_that(read, equal_to(list(range(500))))


def test_no_rows_are_no_files(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "train", [])
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_not_mixed_with_new_ones(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "train", batches(1))
    write(tmp_path / "eval", batches(1))
    with pytest.raises(RecipeError, match=r"train-00000-of-00001.*delete them"):
        write(tmp_path / "train", batches(1))
    assert len(list(tmp_path.iterdir())) == 2


def shards(directory: pathlib.Path, n: int) -> list[Shard]:
    directory.mkdir()
    for i in range(n):
        (directory / str(i)).write_text(str(i))
    return [Shard(str(directory / str(i)), 1, 1) for i in range(n)]


@pytest.mark.parametrize("renamed", range(4))
def test_publishing_that_was_stopped_is_done_again(renamed: int, tmp_path: pathlib.Path) -> None:
    begun = shards(tmp_path / ".temporary", 3)
    (tmp_path / ".temporary" / "begun by a bundle that was done again").touch()
    for i in range(renamed):
        (tmp_path / ".temporary" / str(i)).rename(tmp_path / f"x-{i:05d}-of-00003.r")
    named = list(
        publish_shards(
            begun, prefix=str(tmp_path / "x"), suffix=".r", temporary=str(tmp_path / ".temporary")
        )
    )
    assert [pathlib.Path(shard.path).read_text() for shard in named] == ["0", "1", "2"]
    assert sorted(map(str, tmp_path.iterdir())) == [shard.path for shard in named]


def test_a_shard_that_is_lost_is_an_error(tmp_path: pathlib.Path) -> None:
    begun = shards(tmp_path / "t", 2)
    (tmp_path / "t" / "1").unlink()
    with pytest.raises(RunError, match="cannot write"):
        list(publish_shards(begun, prefix=str(tmp_path / "x"), suffix="", temporary=begun[0].path))


def test_where_nothing_can_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match=r"cannot write.*check the directory"):
        write(tmp_path / "file" / "train", batches(1))


def test_wrong_arguments() -> None:
    with pytest.raises(RecipeError, match='WriteTFRecord\\("out/"\\): expected how the paths'):
        WriteTFRecord("out/")
    with pytest.raises(RecipeError, match="shard_bytes=0"):
        WriteTFRecord("out/train", shard_bytes=0)
