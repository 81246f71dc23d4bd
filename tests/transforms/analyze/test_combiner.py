import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_transform import analyzers

from skewless.transforms.analyze.combiner import Combiner, PerKey, Wrapped


class Total(Combiner):
    """Adds int64 values."""

    def create_accumulator(self):
        return 0

    def add_input(self, accumulator, batch_values):
        return accumulator + int(batch_values[0].sum())

    def merge_accumulators(self, accumulators):
        return sum(accumulators)

    def extract_output(self, accumulator):
        return [np.int64(accumulator)]


class AboveMean(Total):
    """Counts, in a second pass, what is above the mean of the first."""

    most_passes = 2

    def __init__(self, mean=None):
        self.mean = mean

    def create_accumulator(self):
        return (0, 0)

    def add_input(self, accumulator, batch_values):
        values = batch_values[0]
        if self.mean is None:
            return (accumulator[0] + int(values.sum()), accumulator[1] + len(values))
        return (accumulator[0] + int((values > self.mean).sum()), 0)

    def merge_accumulators(self, accumulators):
        return tuple(map(sum, zip((0, 0), *accumulators, strict=True)))

    def refine(self, accumulator):
        # With one value there is nothing more to find out.
        if self.mean is None and accumulator[1] > 1:
            return AboveMean(accumulator[0] / accumulator[1])
        return None

    def extract_output(self, accumulator):
        return [np.int64(accumulator[0] if self.mean is not None else 0)]


def in_passes(combiner, batches):
    """Return the output after as many passes as the combiner asks for."""
    for _ in range(combiner.most_passes):
        parts = [combiner.add_input(combiner.create_accumulator(), batch) for batch in batches]
        merged = combiner.merge_accumulators(pickle.loads(pickle.dumps(parts)))
        refined = combiner.refine(merged)
        if refined is None:
            return combiner.extract_output(merged)
        combiner = pickle.loads(pickle.dumps(refined))
    raise AssertionError("it wants more passes than it said")


keyed = st.lists(
    st.tuples(st.sampled_from([b"", b"a", b"b", b"\xff"]), st.integers(-9, 9)), max_size=40
)


@given(keyed, st.integers(1, 7), st.booleans())
def test_each_key_has_a_combiner_of_its_own(rows, size, by_row):
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    arrays = [
        [
            np.array([key for key, _ in batch], object),
            np.array([value for _, value in batch], np.int64),
        ]
        for batch in batches
    ]
    (found,) = in_passes(PerKey(Total(), by_row=by_row), arrays)
    expected = {key: 0 for key, _ in rows}
    for key, value in rows:
        expected[key] += value
    assert [(key, int(total)) for key, (total,) in found] == sorted(expected.items())


def test_only_the_keys_that_need_it_are_refined():
    batches = [
        [np.array([b"a", b"b", b"a"], object), np.array([1, 5, 3])],
        [np.array([b"a"], object), np.array([9])],
    ]
    combiner = PerKey(AboveMean())
    merged = combiner.merge_accumulators(
        [combiner.add_input(combiner.create_accumulator(), batch) for batch in batches]
    )
    refined = combiner.refine(merged)
    assert list(refined.add_input({}, batches[0])) == [b"a"]
    (found,) = in_passes(PerKey(AboveMean()), batches)
    assert [(key, int(output[0])) for key, output in found] == [(b"a", 1), (b"b", 0)]


def test_no_rows_are_no_keys():
    combiner = PerKey(Total())
    nothing = [np.array([], object), np.array([], np.int64)]
    assert combiner.add_input({}, nothing) == {}
    assert combiner.merge_accumulators([]) == {}
    assert combiner.extract_output({}) == [[]]


def test_a_combiner_of_tf_transform_merges_nothing_to_nothing():
    least = Wrapped(analyzers.NumPyCombiner(np.min, np.inf, [np.float32], [()]))
    assert least.extract_output(least.merge_accumulators([]))[0] == np.inf
    parts = [
        least.add_input(least.create_accumulator(), [np.float32(value)]) for value in (3, 1, 2)
    ]
    assert least.extract_output(least.merge_accumulators(parts))[0] == pytest.approx(1)


@pytest.mark.parametrize("fn", [np.min, np.max])
def test_the_order_does_not_choose_among_zeros_or_nans(fn):
    combiner = Wrapped(analyzers.NumPyCombiner(fn, np.inf, [np.float32], [()]), one_zero=True)
    for values in ([0.0, -0.0], [-0.0, 0.0], [-0.0], [np.nan, 1], [1, -np.nan]):
        parts = [
            combiner.add_input(combiner.create_accumulator(), [np.float32(value)])
            for value in values
        ]
        (found,) = combiner.extract_output(combiner.merge_accumulators(parts))
        expected = np.float32(np.nan if np.isnan(values).any() else 0)
        assert found.tobytes() == expected.tobytes()
