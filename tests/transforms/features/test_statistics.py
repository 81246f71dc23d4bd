import pickle
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skewless.errors import DataError
from skewless.transforms.features.statistics import MomentsCombiner

VALUES = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1)
FITS = st.lists(st.floats(-1e150, 1e150), min_size=1)


def accumulate(combiner, values):
    return combiner.add_input(combiner.create_accumulator(), [np.array(values, np.float64)])


@settings(max_examples=100, deadline=None)
@given(values=VALUES)
@example(values=[5e-324, -5e-324, 1.7976931348623157e308])
@example(values=[1e308, 1e308, -1e308])
def test_the_sums_are_exact(values):
    count, total, squares, low, high = accumulate(MomentsCombiner("x"), values)
    exact = [Fraction(v) for v in values]
    assert count == len(values)
    assert Fraction(total, 2**1074) == sum(exact)
    assert Fraction(squares, 2**2148) == sum(v * v for v in exact)
    assert (low, high) == (min(values), max(values))


@settings(max_examples=50, deadline=None)
@given(values=FITS)
def test_mean_and_variance_are_the_exactly_rounded_ones(values):
    combiner = MomentsCombiner("x")
    count, mean, variance, _, _ = combiner.extract_output(accumulate(combiner, values))
    exact = [Fraction(v) for v in values]
    middle = sum(exact) / len(exact)
    assert mean == float(middle)
    assert variance == float(sum((v - middle) ** 2 for v in exact) / len(exact))
    assert (count.dtype, mean.dtype) == (np.int64, np.float64)


@settings(max_examples=50, deadline=None)
@given(values=FITS, shards=st.integers(1, 7), seed=st.integers())
def test_neither_shards_nor_order_change_a_bit(values, shards, seed):
    combiner = MomentsCombiner("x")
    whole = accumulate(combiner, values)
    shuffled = random.Random(seed).sample(values, len(values))
    parts = [accumulate(combiner, shuffled[i::shards]) for i in range(shards)]
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]
    assert combiner.merge_accumulators(iter(parts)) == whole


def test_an_accumulator_survives_the_cache():
    combiner = MomentsCombiner("x")
    coder = combiner.accumulator_coder
    for accumulator in (
        combiner.create_accumulator(),
        accumulate(combiner, [1e308, 5e-324, -0.1]),
    ):
        assert coder.decode_cache(coder.encode_cache(accumulator)) == accumulator


def test_no_value_at_all_is_named():
    combiner = MomentsCombiner('feature "f": column "x"')
    with pytest.raises(DataError, match=r'feature "f": column "x" has no value'):
        combiner.extract_output(accumulate(combiner, []))
