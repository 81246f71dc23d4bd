import functools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_transform import analyzers, tf_utils

from skewless.errors import RecipeError
from skewless.transforms.analyze import l_moments as module
from skewless.transforms.analyze import ordered
from skewless.transforms.analyze.l_moments import LMoments, l_moments
from skewless.transforms.analyze.ordered import Column, Scope, as_keys, as_values

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-3, 3).map(float)


def tukey(dtype, shape, eight):
    combiner = analyzers._LMomentsCombiner(dtype, shape)
    return combiner.extract_output(analyzers._LMomentsAccumulator(*eight))


def unchanged(eight):
    return eight


def by_definition(values):
    """Return the L-moments by their sums over all subsamples: Hosking (1990), equation 3.2."""
    values = sorted(map(Fraction, map(float, values)))
    size, moments = len(values), []
    for order in range(1, 5):
        total = Fraction(0)
        for i, value in enumerate(values):
            # C(i, order - 1 - k) values are below and C(size - 1 - i, k) above in a subsample.
            total += value * sum(
                (-1) ** k
                * math.comb(order - 1, k)
                * math.comb(i, order - 1 - k)
                * math.comb(size - 1 - i, k)
                for k in range(order)
            )
        ways = order * math.comb(size, order)
        moments.append(total / ways if ways else Fraction(0))
    return moments


def cells_of(values, scope):
    column = Column()
    column.add(as_keys(values), np.abs(values).astype(np.float64), scope)
    return column.cells(scope)


@settings(max_examples=200, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=30), st.sampled_from([np.float32, np.float64]))
def test_l_moments_of_few_distinct_values_are_exact(values, dtype):
    count, moments = l_moments(cells_of(np.array(values, dtype), Scope(64, 64)))
    assert count == len(values)
    assert moments == by_definition(values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "uniform"])
def test_l_moments_of_many_values_are_within_the_stated_error(kind, dtype):
    values = getattr(np.random.default_rng(0), kind)(size=2_000).astype(dtype)
    cells = cells_of(values, Scope(200, 200))
    first = cells.prefixes << cells.prefixes.dtype.type(cells.shift)
    last = first | first.dtype.type(2**cells.shift - 1)
    widths = as_values(last).astype(float) - as_values(first)
    shares = cells.counts / len(values)
    bound = 33 * np.sum(shares**2 * np.abs(widths))
    _, found = l_moments(cells)
    errors = [abs(a - b) for a, b in zip(found, by_definition(values), strict=True)]
    assert cells.shift
    assert errors[0] == 0
    assert 0 < max(errors) < bound < 0.1


def test_l_moments_of_many_values_show_no_error_in_float32():
    values = np.random.default_rng(0).normal(size=100_000)
    _, found = l_moments(cells_of(values, module._SCOPE))
    _, exact = l_moments(cells_of(values, Scope(None, 2)))
    assert [float(a) for a in found] == pytest.approx([float(a) for a in exact], rel=2e-8)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_output_does_not_depend_on_order_and_sharding(data):
    rows = data.draw(st.lists(FLOATS | st.just(math.nan), min_size=1, max_size=30))
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    values = np.array(rows, np.float32)
    combiner = LMoments(np.float32, (), unchanged)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SCOPE", Scope(8, 8))
        patch.setattr(ordered, "WAITING", 4)
        whole = combiner.add_input(combiner.create_accumulator(), [values])
        parts = [
            pickle.loads(pickle.dumps(combiner.add_input(combiner.create_accumulator(), [part])))
            for part in (values[order[cut:]], values[order[:cut]])
        ]
        one = combiner.extract_output(whole)
        other = combiner.extract_output(combiner.merge_accumulators(parts))
    assert np.array(one).tobytes() == np.array(other).tobytes()


def test_tf_transform_agrees_on_one_batch():
    values = np.random.default_rng(0).lognormal(size=(300, 2))
    count_and_moment = tf_utils.reduce_batch_count_l_moments(
        tf.constant(values), reduce_instance_dims=False
    )
    theirs = [np.array(tensor) for tensor in count_and_moment]
    ours = LMoments(np.float64, (2,), unchanged)
    found = ours.extract_output(ours.add_input(ours.create_accumulator(), [values]))
    assert np.allclose(found, theirs[::2] + theirs[1::2], rtol=1e-12)
    made = LMoments(np.float64, (2,), functools.partial(tukey, np.float64, (2,)))
    outputs = made.extract_output(made.add_input(made.create_accumulator(), [values]))
    expected = tukey(np.float64, (2,), theirs[::2] + theirs[1::2])
    assert np.allclose(outputs, expected, rtol=1e-9)


def test_no_values_are_the_identity():
    for shape in ((), (2,), (None,)):
        combiner = LMoments(np.float32, shape, functools.partial(tukey, np.float32, shape))
        location, scale, left, right = combiner.extract_output(combiner.merge_accumulators([]))
        assert np.shape(location) == (() if None in shape else shape)
        assert np.all(location == 0)
        assert np.all(scale == 1)
        assert not np.any([left, right])


def test_padding_is_no_value_and_the_widest_instance_counts():
    combiner = LMoments(np.float32, (None,), unchanged)
    narrow = [np.array([[1, 7], [3, 9]]), np.array([[True, False], [True, True]])]
    wide = [np.array([[5.0, 9.0, 4.0]])]
    accumulators = [
        combiner.add_input(combiner.create_accumulator(), batch) for batch in (narrow, wide)
    ]
    eight = combiner.extract_output(combiner.merge_accumulators(accumulators))
    assert eight[0].tolist() == [3, 2, 1]
    assert eight[4].tolist() == [3, 9, 4]


def test_half_precision():
    combiner = LMoments(np.float16, (), unchanged)
    added = combiner.add_input(combiner.create_accumulator(), [np.arange(3000) % 3])
    eight = combiner.extract_output(added)
    assert eight[4] == 1
    assert eight[4].dtype == np.float16
    assert eight[3] == np.inf  # so many quadruplets are beyond float16


def test_integers_are_refused():
    with pytest.raises(RecipeError, match="dtype=int64"):
        LMoments(np.int64, (), unchanged)
