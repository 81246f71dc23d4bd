import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from skewless.parity import PAD_TO, pad_rows, slice_rows

rows_of_lists = st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=4), max_size=40)

KINDS = ["dense", "sparse", "ragged"]


def as_tensors(lists):
    """Return the same rows in each of the three kinds of tensor (dense: first value or 0)."""
    ragged = tf.RaggedTensor.from_row_lengths(
        tf.constant([v for row in lists for v in row], tf.float32),
        tf.constant([len(row) for row in lists], tf.int64),
    )
    return {
        "dense": tf.constant([row[0] if row else 0.0 for row in lists], tf.float32),
        "sparse": ragged.to_sparse(),
        "ragged": ragged,
    }


def assert_same(ours, expected):
    if isinstance(expected, tf.SparseTensor):
        np.testing.assert_array_equal(ours.indices, expected.indices)
        np.testing.assert_array_equal(ours.values, expected.values)
        assert ours.dense_shape[0] == expected.dense_shape[0]
    elif isinstance(expected, tf.RaggedTensor):
        np.testing.assert_array_equal(ours.row_splits, expected.row_splits)
        np.testing.assert_array_equal(ours.flat_values, expected.flat_values)
    else:
        np.testing.assert_array_equal(ours, expected)


def sizes(value):
    """Return the number of rows, and of values where these are not the rows."""
    if isinstance(value, tf.SparseTensor):
        return int(value.dense_shape[0]), len(value.values)
    if isinstance(value, tf.RaggedTensor):
        return int(value.nrows()), len(value.flat_values)
    return len(value), len(value)


@given(
    rows_of_lists,
    st.sampled_from([["dense"], ["sparse"], ["ragged"], ["dense", "sparse", "ragged"]]),
)
def test_padding_fills_up_to_a_multiple_and_slicing_takes_it_off(lists, kinds):
    tensors = {kind: as_tensors(lists)[kind] for kind in kinds}
    padded = pad_rows(tensors, PAD_TO)
    assert {sizes(value)[0] % PAD_TO for value in padded.values()} == {0}
    assert {sizes(value)[1] % PAD_TO for value in padded.values()} == {0}
    assert len({sizes(value)[0] for value in padded.values()}) == 1
    for kind, value in padded.items():
        assert_same(slice_rows(value, tf.constant(len(lists), tf.int64)), tensors[kind])


@given(rows_of_lists)
def test_padded_tensors_are_well_formed(lists):
    padded = pad_rows(as_tensors(lists), PAD_TO)
    sparse, ragged = padded["sparse"], padded["ragged"]
    tf.sparse.to_dense(sparse, validate_indices=True)
    assert np.all(np.diff(ragged.row_splits) >= 0)
    assert int(ragged.row_splits[-1]) == len(ragged.flat_values)
    given_values = set(np.float32([v for row in lists for v in row]).tolist())
    assert set(sparse.values.numpy().tolist()) <= given_values
    assert set(ragged.flat_values.numpy().tolist()) <= given_values


@pytest.mark.parametrize("n", [1, 5, 16, 17])
def test_rows_without_a_single_value(n):
    tensors = as_tensors([[]] * n)
    padded = pad_rows(tensors, PAD_TO)
    for kind, value in padded.items():
        assert sizes(value)[0] % PAD_TO == 0
        assert_same(slice_rows(value, tf.constant(n, tf.int64)), tensors[kind])


def test_no_rows_stay_no_rows():
    for value in pad_rows(as_tensors([]), PAD_TO).values():
        assert sizes(value) == (0, 0)


def test_padding_to_one_changes_nothing():
    tensors = as_tensors([[1.0, 2.0], []])
    padded = pad_rows(tensors, 1)
    assert all(padded[kind] is tensors[kind] for kind in tensors)


def test_shapes_inside_a_function_stay_known():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, 3])])
    def padded(one, matrix):
        out = pad_rows({"one": one, "matrix": matrix}, PAD_TO)
        assert out["one"].shape.as_list() == [None]
        assert out["matrix"].shape.as_list() == [None, 3]
        return out

    out = padded(tf.range(5.0), tf.ones([5, 3]))
    assert out["one"].numpy().tolist() == [0, 1, 2, 3, 4] + [4] * 11
    assert out["matrix"].shape == [16, 3]


def test_a_row_gets_the_same_bits_in_any_batch_only_when_padded():
    values = np.random.default_rng(0).normal(size=1_001).astype(np.float32)

    @tf.function(
        input_signature=[tf.TensorSpec([None]), tf.TensorSpec([], tf.int32)], autograph=False
    )
    def sigmoid(x, rows):
        return tf.sigmoid(x)[:rows]

    def differing(compute):
        together = compute(values)
        alone = np.concatenate([compute(values[i : i + 7]) for i in range(0, 1_001, 7)])
        return int(np.count_nonzero(together.view(np.int32) != alone.view(np.int32)))

    def plain(x):
        return sigmoid(x, len(x)).numpy()

    def padded(x):
        return sigmoid(pad_rows({"x": tf.constant(x)}, PAD_TO)["x"], len(x)).numpy()

    assert differing(plain) > 0
    assert differing(padded) == 0
