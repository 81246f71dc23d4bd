import pickle
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tensorflow_transform import analyzers, tf_utils

from skewless.errors import DataError
from skewless.transforms.analyze.moments import Covariance, MeanAndVariance, Pca, Sum

ANY = st.floats(width=32)
TABLE = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=ANY)
# A spread that float32 still adds up well, so that tf.Transform's result is near the true one.
TAME = np.random.default_rng(4).normal(3, 2, size=(50, 4)).astype(np.float32)
GAPS = np.where(np.random.default_rng(5).random(TAME.shape) < 0.3, np.nan, TAME)
GAPS[0, 0], GAPS[:, 3] = np.inf, np.nan


def run(combiner, batches):
    accumulator = combiner.create_accumulator()
    for batch in batches:
        accumulator = combiner.add_input(accumulator, [batch])
    return combiner.extract_output(accumulator)


def in_pieces(combiner, table, seed):
    """Return the outputs for shuffled rows in shards of batches, pickled between."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(table)
    accumulators = []
    for shard in np.array_split(shuffled, random.integers(1, 4)):
        accumulator = combiner.create_accumulator()
        for batch in np.array_split(shard, random.integers(1, 4)):
            accumulator = combiner.add_input(accumulator, [batch])
        accumulators.append(pickle.loads(pickle.dumps(accumulator)))
    random.shuffle(accumulators)
    merged = combiner.merge_accumulators(iter(accumulators))
    return combiner.extract_output(combiner.merge_accumulators([merged]))


def assert_same_bytes(one, other):
    for mine, theirs in zip(one, other, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.tobytes() == theirs.tobytes()


def of_tft(batches, dtype, elementwise):
    shape = batches[0].shape[1:] if elementwise else ()
    combiner = analyzers.WeightedMeanAndVarCombiner(dtype, shape)
    accumulator = combiner.create_accumulator()
    for batch in batches:
        reduced = tf_utils.reduce_batch_count_mean_and_var(tf.constant(batch), not elementwise)
        inputs = [tensor.numpy() for tensor in reduced]
        accumulator = combiner.add_input(accumulator, [*inputs, np.zeros([], np.float32)])
    return combiner.extract_output(accumulator)


# tf.Transform divides by the count of the column that has no values.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("table", [TAME, GAPS], ids=["whole", "gaps"])
@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_and_variance_are_those_of_tf_transform(table, elementwise, dtype):
    batches = np.array_split(table.astype(dtype), 3)
    mine = run(MeanAndVariance(dtype, (4,) if elementwise else ()), batches)
    for found, expected in zip(mine, of_tft(batches, dtype, elementwise), strict=True):
        assert (found.dtype, found.shape) == (dtype, np.shape(expected))
        np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=1e-5)


@pytest.mark.parametrize("elementwise", [False, True])
@given(table=TABLE, seed=st.integers(0, 2**32))
@example(table=np.float32([[3e38], [-3e38], [1e-45]]), seed=0)
def test_batches_shards_and_order_do_not_change_a_bit(elementwise, table, seed):
    shape = table.shape[1:] if elementwise else ()
    for combiner in (MeanAndVariance(np.float32, shape), Sum(np.float32, shape)):
        assert_same_bytes(run(combiner, [table]), in_pieces(combiner, table, seed))


@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1))
def test_mean_variance_and_sum_are_rounded_once(values):
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    batch = np.array(values, np.float32)
    wide = run(MeanAndVariance(np.float64), [batch])
    assert [output.item() for output in wide] == [float(mean), float(variance)]
    assert run(Sum(np.float64), [batch])[0] == float(sum(exact))


def test_what_does_not_fit_is_the_largest_there_is():
    mean, variance = run(MeanAndVariance(np.float32), [np.float32([3e38, -3e38])])
    assert (mean, variance) == (0, np.finfo(np.float32).max)


def test_no_values_give_zeros():
    for shape, outputs in (((), 0.0), ((2,), [0.0, 0.0]), ((None,), [])):
        combiner = MeanAndVariance(np.float32, shape)
        empty = combiner.merge_accumulators([])
        assert [output.tolist() for output in combiner.extract_output(empty)] == [outputs] * 2
    assert run(MeanAndVariance(np.float32), [np.float32([np.nan])])[0] == 0
    assert run(MeanAndVariance(np.float32, (2,)), [np.zeros((0, 2))])[0].tolist() == [0, 0]


def test_batches_of_other_widths_are_as_if_filled_with_missing_values():
    narrow, wide = np.float32([[1, 2]]), np.float32([[3, 4, 5], [5, np.nan, 7]])
    for batches in ([narrow, wide], [wide, narrow]):
        mean, variance = run(MeanAndVariance(np.float32, (None,)), batches)
        assert mean.tolist() == [3, 3, 6]
        assert variance.tolist() == [np.float32(8 / 3), 1, 1]


def test_elements_may_have_any_rank():
    table = TAME.reshape(50, 2, 2)
    for found, flat in zip(
        run(MeanAndVariance(np.float32, (2, 2)), [table]),
        run(MeanAndVariance(np.float32, (4,)), [TAME]),
        strict=True,
    ):
        assert found.tolist() == flat.reshape(2, 2).tolist()


@pytest.mark.parametrize("table", [TAME, GAPS], ids=["whole", "gaps"])
def test_the_mean_and_variance_of_a_key_are_those_of_tf_transform(table):
    keys = np.array(["a", "b"] * 25)
    column = table[:, 0].astype(np.float32)
    found = tf_utils.reduce_batch_count_mean_and_var_per_key(
        tf.constant(column), tf.constant(keys), True
    )
    for key, _, mean, variance in zip(*[tensor.numpy() for tensor in found], strict=True):
        mine = run(MeanAndVariance(np.float32), [column[keys == key.decode()]])
        np.testing.assert_allclose(mine, [mean, variance], rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, np.inf], np.inf),
        ([-np.inf, 1], -np.inf),
        ([np.inf, -np.inf], np.nan),
        ([np.nan, 1], np.nan),
        ([3e38, 3e38], np.inf),
        ([1e8, 1, -1e8], 1),
        ([], 0),
    ],
)
def test_sums_of_what_is_not_finite(values, expected):
    values = np.array(values, np.float32)
    (found,) = run(Sum(np.float32), [values[:1], values[1:]])
    np.testing.assert_equal(found, np.float32(expected))
    assert found.shape == ()
    (of_elements,) = run(Sum(np.float32, (2,)), [np.stack([values, values], axis=1)])
    np.testing.assert_equal(of_elements, np.float32([expected, expected]))


@pytest.mark.parametrize("shape", [(), (4,), None])
def test_sums_are_those_of_tf_transform(shape):
    batches = np.array_split(TAME, 3)
    combiner = analyzers.NumPyCombiner(np.sum, 0, [np.float32], [shape])
    accumulator = combiner.create_accumulator()
    for batch in batches:
        accumulator = combiner.add_input(accumulator, [batch.sum(axis=None if shape == () else 0)])
    for found, expected in zip(
        run(Sum(np.float32, shape), batches), combiner.extract_output(accumulator), strict=True
    ):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_sum_of_no_rows_is_as_tf_transform_has_it():
    for shape in ((), (2,), None):
        theirs = analyzers.NumPyCombiner(np.sum, 0, [np.float32], [shape])
        expected = theirs.extract_output(theirs.create_accumulator())
        assert_same_bytes(run(Sum(np.float32, shape), []), expected)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (Covariance(4, np.float64), analyzers.CovarianceCombiner((4, 4), np.float64)),
        (Covariance(4, np.float32), analyzers.CovarianceCombiner((4, 4), np.float32)),
        (Pca(4, 2, np.float64), analyzers.PCACombiner((4, 2), 2, np.float64)),
        (Pca(4, None, np.float64), analyzers.PCACombiner((4, 4), None, np.float64)),
    ],
)
def test_covariance_and_components_are_those_of_tf_transform(mine, theirs):
    batches = np.array_split(TAME * np.float32([1, 2, 3, 4]), 3)
    accumulator = theirs.create_accumulator()
    empty = theirs.extract_output(accumulator)
    for batch in batches:
        accumulator = theirs.add_input(accumulator, [batch])
    (expected,) = theirs.extract_output(accumulator)
    (found,) = run(mine, batches)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert_same_bytes(run(mine, []), empty)


@given(table=TABLE, seed=st.integers(0, 2**32))
def test_neither_batches_nor_order_change_a_covariance(table, seed):
    combiner = Covariance(table.shape[1], np.float32)
    assert_same_bytes(run(combiner, [table]), in_pieces(combiner, table, seed))


def test_the_diagonal_of_the_covariance_is_the_variance():
    table = TAME.astype(np.float64) * [1e-9, 1.0, 1e5, 1e9] + 1e7
    (covariance,) = run(Covariance(4, np.float64), [table])
    _, variance = run(MeanAndVariance(np.float64, (4,)), [table])
    assert np.diag(covariance).tolist() == variance.tolist()
    assert (covariance == covariance.T).all()


def test_what_is_not_finite_spoils_the_covariances_of_its_column_alone():
    (covariance,) = run(Covariance(2, np.float64), [np.array([[1.0, np.inf], [3.0, 0.0]])])
    np.testing.assert_equal(covariance, [[1, np.nan], [np.nan, np.nan]])


def test_components_of_what_is_not_finite_are_an_error_that_names_the_element():
    with pytest.raises(DataError, match="element 1 of the vectors is NaN or infinite"):
        run(Pca(2, 1), [np.array([[1.0, np.inf], [3.0, 0.0]])])
