import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_transform import analyzers

from skewless.errors import DataError, RecipeError
from skewless.transforms.analyze import ordered, quantiles
from skewless.transforms.analyze.quantiles import PASSES, Quantiles

VALUES = st.floats(width=32) | st.integers(-3, 3).map(float)
WEIGHTS = st.floats(allow_infinity=False, width=32) | st.integers(0, 3).map(float)


@pytest.fixture
def small_tables(monkeypatch):
    """Tables of some cells, so that tiny data take every road."""
    monkeypatch.setattr(ordered, "WAITING", 5)
    monkeypatch.setattr(quantiles, "_DISTINCT_IN_A_LATER_PASS", 4)


def by_definition(values, weights, parts, ranks):
    """Return the least values of which more than r / n of the weight is no greater."""
    pairs = zip(values + 0.0, weights, strict=True)
    rows = sorted((v, Fraction(w)) for v, w in pairs if w > 0 and not np.isnan(v))
    total = sum(weight for _, weight in rows)
    found = []
    for rank in ranks:
        up_to = itertools.accumulate(weight for _, weight in rows)
        beyond = [i for i, weight in enumerate(up_to) if weight > Fraction(rank, parts) * total]
        found.append(rows[min(beyond, default=-1)][0])
    return found


def finished(combiner, batches):
    """Run all passes, each batch an accumulator, and return output and number of passes."""
    for passed in range(1, PASSES + 1):
        accumulators = []
        for batch in batches:
            added = combiner.add_input(combiner.create_accumulator(), batch)
            accumulators.append(pickle.loads(pickle.dumps(added)))
        merged = combiner.merge_accumulators(accumulators)
        further = combiner.refine(merged)
        if further is None:
            return combiner.extract_output(merged)[0], passed
        combiner = pickle.loads(pickle.dumps(further))
    raise AssertionError("too many passes")


def split(data, arrays):
    """Return the rows in another order and in batches."""
    size = len(arrays[0])
    order = data.draw(st.permutations(range(size)))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    bounds = [0, *cuts, size]
    shuffled = [np.asarray(array)[list(order)] for array in arrays]
    return [[array[low:high] for array in shuffled] for low, high in itertools.pairwise(bounds)]


@pytest.mark.usefixtures("small_tables")
@pytest.mark.parametrize("distinct", [2, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_quantiles_are_those_of_the_definition_in_any_order_and_sharding(distinct, dtype, data):
    rows = data.draw(st.lists(st.tuples(VALUES, WEIGHTS), min_size=1, max_size=40))
    parts = data.draw(st.integers(2, 12))
    weighted = data.draw(st.booleans())
    values = np.array([value for value, _ in rows])
    weights = np.array([weight for _, weight in rows]) if weighted else np.ones(len(rows))
    combiner = Quantiles(
        parts, dtype, [parts + 1], 1, weighted, include_max_and_min=True, distinct=distinct
    )
    found, _ = finished(combiner, split(data, [values, weights]))
    assert found.dtype == dtype
    kept = (weights > 0) & ~np.isnan(values)
    if kept.any():
        expected = by_definition(values, weights, parts, range(parts + 1))
    else:
        expected = np.zeros(parts + 1)
    assert found.tobytes() == np.array(expected, dtype).tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_tf_transforms_sketch_agrees_where_its_error_is_nothing(data):
    whole = st.integers(0, 5).map(float)
    rows = data.draw(st.lists(st.tuples(VALUES, whole), min_size=1, max_size=40))
    parts = data.draw(st.integers(2, 12))
    values = np.array([value + 0.0 for value, _ in rows], np.float32)
    weights = np.array([weight for _, weight in rows], np.float32)
    for weighted in (False, True):
        shape = [1, parts - 1]
        theirs = analyzers.QuantilesCombiner(parts, 1e-5, np.float32, weighted, shape)
        expected = theirs.add_input(theirs.create_accumulator(), [values, weights])
        ours = Quantiles(parts, np.float32, shape, 1, weighted)
        found = ours.add_input(ours.create_accumulator(), [values, weights])
        (one,), (other,) = ours.extract_output(found), theirs.extract_output(expected)
        assert one.tobytes() == other.tobytes()
        assert one.shape == other.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64])
def test_tf_transforms_sketch_agrees_on_columns_of_any_type(dtype):
    values = np.random.default_rng(0).integers(0, 200, [500, 2, 3]).astype(dtype)
    weights = np.arange(500)
    for weighted in (False, True):
        theirs = analyzers.QuantilesCombiner(
            4, 1e-5, np.float32, weighted, feature_shape=[2, 3], output_shape=[2, 3, 3]
        )
        expected = theirs.add_input(theirs.create_accumulator(), [values, weights])
        ours = Quantiles(4, np.float32, [2, 3, 3], 6, weighted)
        found, passes = finished(
            ours, [[values[:123], weights[:123]], [values[123:], weights[123:]]]
        )
        assert np.array_equal(found, theirs.extract_output(expected)[0])
        assert passes == 1


def test_no_values_are_zeros_or_the_error_given():
    empty = [np.array([np.nan])]
    assert finished(Quantiles(3, np.float32, [1, 2]), [empty])[0].tolist() == [[0.0, 0.0]]
    assert finished(Quantiles(3, np.float32, [1, 2]), [])[0].tolist() == [[0.0, 0.0]]
    two = finished(Quantiles(2, np.float32, [2, 1], 2), [[np.array([[np.nan, 5], [np.nan, 6]])]])
    assert two[0].tolist() == [[0.0], [6.0]]
    strict = Quantiles(2, np.float64, [3], include_max_and_min=True, error=DataError("nothing"))
    for values in ([np.nan], [1, np.inf]):
        with pytest.raises(DataError, match="nothing"):
            finished(strict, [[np.array(values)]])
    assert finished(strict, [[np.array([2.0])]])[0].tolist() == [2, 2, 2]


def test_a_long_integer_is_rounded_as_the_sketch_rounds_it():
    # First to float64, then to float32: at once, this one would be rounded up.
    number = 2**60 + 2**36 + 1
    (found,), _ = finished(Quantiles(2, np.float32, [1]), [[np.array([number])]])
    assert found == np.float32(np.float64(number)) != np.float32(2**60 + 2**37)


def test_a_value_beyond_float32_is_infinite_without_a_warning():
    (found,), _ = finished(Quantiles(2, np.float32, [1]), [[np.array([1e300])]])
    assert found == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [2, 100])
def test_continuous_values_take_two_passes(dtype, parts):
    values = np.random.default_rng(0).lognormal(3, 2, 200_000).astype(dtype)
    batches = [[part] for part in np.array_split(values, 7)]
    found, passes = finished(Quantiles(parts, dtype, [parts - 1]), batches)
    at = [rank * len(values) // parts for rank in range(1, parts)]
    assert np.array_equal(found, np.sort(values)[at])
    assert passes == 2


def test_values_at_every_scale_take_no_more_passes_than_promised(monkeypatch):
    monkeypatch.setattr(quantiles, "_DISTINCT_IN_A_LATER_PASS", 8)
    keys = np.random.default_rng(0).integers(2**53, 2**63, 2_000).astype(np.uint64)
    values = np.concatenate([-ordered.as_values(keys), ordered.as_values(keys | 2**63)])
    combiner = Quantiles(50, np.float64, [49], distinct=8)
    found, passes = finished(combiner, [[values]])
    assert np.array_equal(found, np.sort(values)[[rank * 80 for rank in range(1, 50)]])
    assert passes == PASSES


@pytest.mark.usefixtures("small_tables")
def test_weights_of_another_scale_keep_their_place_in_a_later_pass():
    values = np.arange(64.0)
    weights = np.where(values < 8, 2.0**-60, np.where(values < 40, 1.0, 2.0**40))
    combiner = Quantiles(3, np.float32, [2], has_weights=True, distinct=4)
    found, passes = finished(combiner, [[values, weights]])
    assert found.tolist() == by_definition(values, weights, 3, [1, 2])
    assert passes > 1


def test_many_quantiles():
    values = np.random.default_rng(0).normal(size=30_000)
    found, _ = finished(Quantiles(10_000, np.float64, [9_999], distinct=2**10), [[values]])
    assert np.array_equal(found, np.sort(values)[3::3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_accumulator_is_no_larger_than_it_says(dtype, weighted):
    rng = np.random.default_rng(0)
    combiner = Quantiles(2, dtype, [1], 1, weighted, distinct=2**14)
    accumulator = combiner.create_accumulator()
    held = []
    for _ in range(40):
        batch = [rng.normal(size=2_000).astype(dtype), 1 - rng.random(2_000)]
        accumulator = combiner.add_input(accumulator, batch)
        held.append(len(pickle.dumps(accumulator)))
    assert 0.3 < max(held) / Quantiles.bytes_of_column(dtype, weighted, 2**14) < 1


def test_output_before_the_passes_are_done_is_refused():
    combiner = Quantiles(2, np.float32, [1], distinct=2)
    values = combiner.add_input(combiner.create_accumulator(), [np.arange(9.0)])
    with pytest.raises(RuntimeError, match="refine"):
        combiner.extract_output(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, np.float32, [0]), r"num_quantiles=1"),
        ((2, np.int64, [1]), r"dtype=int64"),
        ((2, np.float32, [1], 1, False, False, None, 1), r"distinct=1"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Quantiles(*arguments)


@pytest.mark.parametrize(
    ("weights", "message"), [([1.0, np.inf], "infinite"), ([1.0], "1 weights for 2 values")]
)
def test_impossible_weights(weights, message):
    combiner = Quantiles(2, np.float32, [1], has_weights=True)
    with pytest.raises(DataError, match=message):
        combiner.add_input(combiner.create_accumulator(), [np.ones(2), np.array(weights)])
