import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_transform import analyzers, tf_utils
from tensorflow_transform.beam import analyzer_impls

from skewless.errors import DataError
from skewless.transforms.analyze.vocabulary import MutualInformation, TokenCounts, TokenWeights

FORMULA = analyzer_impls._calculate_mutual_information_for_feature_value
RECOMMEND = analyzers.calculate_recommended_min_diff_from_avg
EVERY = tf_utils.GLOBAL_Y_COUNT_SENTINEL_STRING

TOKENS = st.sampled_from([b"a", b"b", b"", b"\xff"])
WEIGHTS = st.floats(-(2.0**60), 2.0**60, width=32)
ROWS = st.lists(st.tuples(TOKENS, st.integers(-1, 2), WEIGHTS))


def objects(tokens):
    found = np.empty(len(tokens), object)
    found[:] = tokens
    return found


def counted(rows):
    tokens = [token for token, *_ in rows]
    distinct = sorted(set(tokens))
    return [objects(distinct), np.array([tokens.count(token) for token in distinct], np.int64)]


def weighed(rows):
    return [objects([row[0] for row in rows]), np.array([row[2] for row in rows], np.float32)]


def labelled(rows):
    labels = np.array([row[1] for row in rows], np.int64)
    tokens, weights = weighed(rows)
    return [tokens, labels, weights, labels, weights]


def information(weighted=True, **options):
    return MutualInformation(FORMULA, RECOMMEND, EVERY, weighted=weighted, **options)


def sums_alone(one, every, adjusted, least):
    """Stand for the formula: whatever it makes of this cannot depend on anything else."""
    token, found = one
    numbers = [found.count, *found.mean.tolist(), found.weight, *every.mean.tolist(), least]
    return token, (repr(numbers), None, found.count)


def run(combiner, batches):
    accumulator = combiner.create_accumulator()
    for batch in batches:
        accumulator = combiner.add_input(accumulator, batch)
    (found,) = combiner.extract_output(accumulator)
    return found


def as_dict(found):
    return dict(zip(found.tokens, found.counts, strict=True))


@pytest.mark.parametrize(
    ("combiner", "arrays"),
    [
        (TokenCounts(), counted),
        (TokenWeights(), weighed),
        (MutualInformation(sums_alone, float, EVERY, weighted=True), labelled),
    ],
)
@given(rows=ROWS, data=st.data())
def test_batches_shards_and_order_do_not_change_a_bit(combiner, arrays, rows, data):
    shuffled = data.draw(st.permutations(rows))
    accumulators = []
    for shard in range(3):
        accumulator = combiner.create_accumulator()
        for batch in range(2):
            accumulator = combiner.add_input(accumulator, arrays(shuffled[shard::3][batch::2]))
        accumulators.append(pickle.loads(pickle.dumps(accumulator)))
    first = combiner.merge_accumulators(iter(accumulators[1:]))
    (found,) = combiner.extract_output(combiner.merge_accumulators([accumulators[0], first]))
    assert as_dict(found) == as_dict(run(combiner, [arrays(rows)]))


@given(rows=ROWS)
def test_counts_and_weights_are_exact(rows):
    tokens = [token for token, *_ in rows]
    assert as_dict(run(TokenCounts(), [counted(rows)])) == {
        token: tokens.count(token) for token in tokens
    }
    weights = {name: [Fraction(w) for token, _, w in rows if token == name] for name in tokens}
    assert as_dict(run(TokenWeights(), [weighed(rows)])) == {
        token: float(sum(found)) for token, found in weights.items()
    }


def test_integers_are_tokens_too():
    tokens = np.array([3, -1, 3], np.int64)
    assert as_dict(run(TokenCounts(), [[tokens[:2], np.array([2, 1])]])) == {3: 2, -1: 1}
    weights = np.array([0.1, 0.5, 0.2], np.float32)
    found = as_dict(run(TokenWeights(), [[tokens, weights]]))
    assert found == {3: math.fsum([weights[0], weights[2]]), -1: 0.5}
    assert all(type(weight) is float for weight in found.values())


@pytest.mark.parametrize("combiner", [TokenCounts(), TokenWeights(), information()])
def test_nothing_at_all_is_an_empty_vocabulary(combiner):
    (found,) = combiner.extract_output(combiner.merge_accumulators([]))
    assert (list(found.tokens), list(found.counts)) == ([], [])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named(wrong):
    with pytest.raises(DataError, match=f"a weight is {wrong}"):
        run(TokenWeights(), [[objects([b"a"] * 40), np.array([1.0] * 39 + [wrong])]])
    with pytest.raises(DataError, match=f"a weight is {wrong}"):
        run(information(), [labelled([(b"a", 1, wrong)])])


# Ten tokens of 600 rows, some of which say something of the label.
_RANDOM = np.random.default_rng(6)
_WHICH = _RANDOM.integers(0, 10, 600)
ROW_TOKENS = objects([f"t{which}".encode() for which in _WHICH])
ROW_LABELS = (_RANDOM.random(600) < 0.05 + 0.09 * _WHICH).astype(np.int64) * 2
ROW_WEIGHTS = _RANDOM.choice([0.5, 1.0, 2.25], 600).astype(np.float32)
SEVERAL = np.stack([ROW_LABELS, np.where(_WHICH > 7, 1, -1)], axis=1)


def of_tf_transform(labels, weights, adjusted, least):
    """Return what tf.Transform makes of three batches, by its own functions."""
    accumulators = {}
    combine = analyzer_impls._WeightedMeanCombineFn((None,), weights is not None)
    for at in np.array_split(np.arange(600), 3):
        reduced = reduced_batch(labels, weights, at)
        arrays = [reduced.unique_x, reduced.summed_positive_per_x_and_y, reduced.counts_per_x]
        if weights is not None:
            arrays.insert(1, reduced.summed_weights_per_x)
        arrays = [array.numpy() for array in arrays]
        for token, value in analyzer_impls._flatten_to_key_and_means_accumulator_list(
            arrays, weights is not None
        ):
            before = accumulators.get(token, combine.create_accumulator())
            accumulators[token] = combine.add_input(before, value)
    found = {token: combine.extract_output(value) for token, value in accumulators.items()}
    every = found.pop(EVERY)
    if least is None:
        least = RECOMMEND(every.count * every.weight)
    results = [FORMULA(item, every, adjusted, least) for item in found.items()]
    return {token: (value, frequency) for token, (value, _, frequency) in results}


def reduced_batch(labels, weights, at):
    y = tf.constant(labels[at])
    if labels.ndim > 1:
        there = np.argwhere(labels[at] >= 0)
        y = tf.SparseTensor(there, labels[at][tuple(there.T)], labels[at].shape)
    return tf_utils.reduce_batch_weighted_cooccurrences(
        tf.constant(list(ROW_TOKENS[at])), y, None if weights is None else tf.constant(weights[at])
    )


# tf.Transform has something to say of several labels, by a name that Python has given up.
@pytest.mark.filterwarnings("ignore:The 'warn' function:DeprecationWarning")
@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("least", [None, 0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", [ROW_LABELS, SEVERAL], ids=["one", "several"])
def test_what_tokens_say_of_labels_is_what_tf_transform_finds(labels, weighted, least, adjusted):
    expected = of_tf_transform(labels, ROW_WEIGHTS if weighted else None, adjusted, least)
    batches = []
    for at in np.array_split(np.arange(600), 4):
        if weighted:
            batches.append(
                [ROW_TOKENS[at], labels[at], ROW_WEIGHTS[at], labels[at], ROW_WEIGHTS[at]]
            )
        else:
            reduced = reduced_batch(labels, None, at)
            arrays = (reduced.unique_x, reduced.summed_positive_per_x_and_y, reduced.counts_per_x)
            batches.append([array.numpy() for array in arrays])
    found = run(information(weighted, adjusted=adjusted, min_diff_from_avg=least), batches)
    assert set(found.tokens) == set(expected)
    assert len(found.tokens) == 10
    for token, value, frequency in zip(*found, strict=True):
        assert (value, frequency) == pytest.approx(expected[token], rel=1e-6, abs=1e-5)


def test_a_token_without_weight_says_nothing():
    rows = [(b"a", 0, 0.0), (b"b", 1, 1.0), (b"c", 0, 1.0)]
    found = run(information(min_diff_from_avg=0), [labelled(rows)])
    assert as_dict(found)[b"a"] == 0


def test_a_token_that_a_row_has_twice_is_an_error_of_the_data():
    rows = [(b"a", 0, 1.0)]
    tokens, labels, weights, *_ = labelled(rows * 3)
    with pytest.raises(DataError, match="repeated tokens per row"):
        run(information(), [[tokens, labels, weights, labels[:1], weights[:1]]])
