import dataclasses
import gzip
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from skewless.errors import DataError
from skewless.models.dataset import Examples, examples_dataset
from skewless.models.inputs import read_inputs


@pytest.fixture(scope="module")
def inputs(world):
    return read_inputs(world.transform_graph, "late")


def _rows(dataset):
    """Return all rows, each as one tuple of its numbers, ids and label."""
    return [
        (*numbers.tolist(), *ids.tolist(), int(label))
        for features, labels in dataset
        for numbers, ids, label in zip(
            features["numbers"].numpy(), features["ids"].numpy(), labels.numpy(), strict=True
        )
    ]


def test_rows_come_in_order_a_batch_at_a_time(world, inputs):
    dataset = examples_dataset(world.train_files, inputs, batch_size=250)
    assert [len(label) for _, label in dataset] == [250, 250, 100]
    parts = [examples_dataset([name], inputs, batch_size=64) for name in world.train_files]
    assert _rows(dataset) == [row for part in parts for row in _rows(part)]


def test_a_seed_is_an_order(world, inputs):
    def order(seed):
        files = world.train_files
        return _rows(examples_dataset(files, inputs, batch_size=64, shuffle_seed=seed))

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2)) == sorted(order(None))


def test_plain_files_are_read_too(world, inputs, raw, write, tmp_path):
    path = write(world.transform_graph, raw(50), tmp_path / "part.tfrecord")
    assert len(_rows(examples_dataset([path], inputs, batch_size=64))) == 50


@pytest.mark.parametrize("limit", [0, 2**30])
def test_epochs_differ_and_are_repeatable(world, inputs, limit):
    first = Examples(world.train_files, inputs, limit)
    again = Examples(world.train_files, inputs, limit)
    assert first.count == 600
    assert sum(first.label_counts.values()) == 600
    orders = [_rows(first.shuffled(64, seed=3, epoch=epoch)) for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert orders == [_rows(again.shuffled(64, seed=3, epoch=epoch)) for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(_rows(first.batches(100)))


def test_in_memory_the_order_does_not_depend_on_the_files(world, inputs):
    files = Examples(world.train_files, inputs)
    turned = Examples(world.train_files[::-1], inputs)
    assert _rows(files.shuffled(64, seed=0, epoch=0)) == _rows(turned.shuffled(64, seed=0, epoch=0))


def test_lists_of_other_lengths_meet_in_one_table(world, inputs):
    examples = Examples(world.train_files, inputs)
    (features, _), *_ = examples.batches(600)
    streamed = examples_dataset(world.train_files, inputs, batch_size=7)
    counts = [int(tf.math.count_nonzero(f["list_tags"])) for f, _ in streamed]
    assert int(tf.math.count_nonzero(features["list_tags"])) == sum(counts)


def test_no_files_are_no_rows(inputs):
    assert (Examples([], inputs).count, Examples([], inputs).label_counts) == (0, {})


def test_a_file_without_rows_is_no_rows(inputs, tmp_path):
    path = str(tmp_path / "empty.tfrecord.gz")
    tf.io.TFRecordWriter(path, tf.io.TFRecordOptions("GZIP")).close()
    for limit in (0, 2**30):
        assert Examples([path], inputs, limit).count == 0


def test_numbers_have_no_classes(make_world):
    world = make_world("regression")
    examples = Examples(world.train_files, read_inputs(world.transform_graph, "delay"))
    assert (examples.count, examples.label_counts) == (600, {})


def test_a_missing_file_is_named(inputs, tmp_path):
    with pytest.raises(DataError, match=r"no file .*gone\.tfrecord"):
        Examples([str(tmp_path / "gone.tfrecord.gz")], inputs)


def test_labels_that_are_numbers_have_a_scale_whatever_their_order(make_world, raw):
    world = make_world("regression")
    inputs = read_inputs(world.transform_graph, "delay")
    labels = raw(600).column("delay").to_numpy().astype(np.float64)
    for files in (world.train_files, world.train_files[::-1]):
        for limit in (0, 2**30):
            scale = Examples(files, inputs, limit).label_scale
            assert scale == pytest.approx((labels.mean(), labels.std()))
            assert scale == Examples(world.train_files, inputs).label_scale


def test_labels_that_are_all_the_same_have_a_deviation_of_one(
    make_world, with_column, write, tmp_path
):
    world = make_world("regression")
    rows = with_column(50, "delay", [0.1] * 50)
    path = write(world.transform_graph, rows, tmp_path / "same.tfrecord.gz")
    scale = Examples([path], read_inputs(world.transform_graph, "delay")).label_scale
    assert scale == (float(np.float32(0.1)), 1.0)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_file_that_is_cut_off_is_named(world, inputs, raw, write, tmp_path, limit):
    name = write(world.transform_graph, raw(8), tmp_path / "whole.tfrecord.gz")
    whole = pathlib.Path(name).read_bytes()
    path = tmp_path / "cut.tfrecord.gz"
    for length in {*range(0, len(whole), 25), *range(24), *range(len(whole) - 12, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.tfrecord\.gz cannot be read") as caught:
            Examples([str(path)], inputs, limit)
        assert "\n" not in str(caught.value)


def test_of_several_files_that_which_lost_rows_is_named(world, inputs, tmp_path):
    whole = pathlib.Path(world.train_files[1]).read_bytes()
    path = tmp_path / "cut.tfrecord.gz"
    path.write_bytes(whole[:15])
    with pytest.raises(DataError, match=r"cut\.tfrecord\.gz cannot be read to its end"):
        Examples([world.train_files[0], str(path), world.train_files[2]], inputs)


def test_a_file_without_rows_that_is_cut_off_is_named(inputs, tmp_path):
    whole = gzip.compress(b"")
    path = tmp_path / "cut.tfrecord.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.tfrecord\.gz cannot be read"):
            Examples([str(path)], inputs)


def test_files_written_one_after_another_are_one_file(world, inputs, tmp_path):
    joined = b"".join(pathlib.Path(name).read_bytes() for name in world.train_files)
    path = tmp_path / "joined.tfrecord.gz"
    path.write_bytes(joined)
    assert Examples([str(path)], inputs).count == 600
    path.write_bytes(joined[:-9])
    with pytest.raises(DataError, match=r"joined\.tfrecord\.gz cannot be read"):
        Examples([str(path)], inputs)


def test_examples_of_another_graph_are_refused(world, inputs):
    spec = {**inputs.feature_spec, "other": tf.io.FixedLenFeature([], tf.float32)}
    with pytest.raises(DataError, match="other"):
        Examples(world.train_files, dataclasses.replace(inputs, feature_spec=spec))


def test_float_bits_survive_the_table(world, inputs):
    streamed = _rows(examples_dataset(world.train_files, inputs, batch_size=600))
    table = _rows(Examples(world.train_files, inputs).batches(600))
    assert np.array_equal(sorted(streamed), sorted(table))
