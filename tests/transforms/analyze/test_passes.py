import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from skewless.transforms.analyze.combiner import Combiner
from skewless.transforms.analyze.passes import RunPhases
from skewless.transforms.analyze.plan import Binding, Fold, Phase, Reference
from skewless.transforms.cache import CacheRows


class Feed:
    """Gives a column less a constant that an earlier phase found."""

    def __init__(self, less=None):
        self.less = less

    def load(self, known, arrays):
        constant = known[self.less].value if self.less else 0
        return lambda batch: {name: batch.column(name).to_numpy() - constant for name in arrays}


class Median(Combiner):
    """The lower median, found one bit a pass."""

    most_passes = 8

    def __init__(self, low=0, high=128):
        self.low, self.high = low, high

    def create_accumulator(self):
        return np.zeros(2, np.int64)

    def add_input(self, accumulator, batch_values):
        below = batch_values[0] < (self.low + self.high) // 2
        return accumulator + np.array([below.sum(), len(below)])

    def merge_accumulators(self, accumulators):
        return sum(accumulators, np.zeros(2, np.int64))

    def refine(self, accumulator):
        if self.high - self.low <= 1 or not accumulator[1]:
            return None
        middle = (self.low + self.high) // 2
        left = accumulator[0] > (accumulator[1] - 1) // 2
        return Median(self.low, middle) if left else Median(middle, self.high)

    def extract_output(self, accumulator):
        return [np.int64(self.low)]


def median_of(name, column, less=None):
    return Phase(
        frozenset({column}),
        Feed(less),
        (Fold(name, Median(), (column,)),),
        (),
        (Binding(name, 9, Reference(name, 0)),),
    )


def batches(values, size):
    rows = pa.record_batch({"x": pa.array(values, pa.int64())})
    return [rows.slice(at, size) for at in range(0, len(values), size)]


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2] if values else 0


def found(folder, values, size=3):
    phases = (median_of("m", "x"), median_of("again", "x", less="m"))
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | beam.Create(batches(values, size), reshuffle=False)
        known = rows | CacheRows(str(folder / "rows")) | RunPhases(phases, str(folder / "phases"))
        expected = lower_median(values)
        above = lower_median([max(value - expected, 0) for value in values])
        assert_that(
            known | beam.Map(lambda all: {name: int(one.value) for name, one in all.items()}),
            equal_to([{"m": expected, "again": above}]),
        )


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_combiner_gets_as_many_passes_as_it_asks_for(tmp_path, size):
    found(tmp_path, [5, 90, 17, 3, 64, 64, 12], size)


def test_no_rows_are_an_answer_too(tmp_path):
    found(tmp_path, [])
