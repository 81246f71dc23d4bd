"""Tokens counted, weighed, or weighed by what they say of a label, exactly.

The accumulators hold every distinct token, as those of tf.Transform do in all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless import exact
from skewless.errors import DataError
from skewless.transforms.analyze.combiner import Array, Combiner
from skewless.transforms.analyze.vocabulary_file import Vocabulary

__all__ = ["MutualInformation", "TokenCounts", "TokenWeights"]

Counts = dict[Any, int]


class TokenCounts(Combiner):
    """How often each token was seen: tf.Transform's order by frequency.

    The input is two arrays: distinct tokens (bytes or int64) and how often each was in the
    batch (int64). The only output is a `Vocabulary`.
    """

    def create_accumulator(self) -> Counts:
        """Return the accumulator of no tokens."""
        return {}

    def add_input(self, accumulator: Counts, batch_values: Sequence[Array]) -> Counts:
        """Return the accumulator with the tokens of a batch counted."""
        tokens, counts = (array.tolist() for array in batch_values)
        return _count(accumulator, zip(tokens, counts, strict=True))

    def merge_accumulators(self, accumulators: Iterable[Counts]) -> Counts:
        """Return the counts of all accumulators."""
        merged, *others = sorted(accumulators, key=len, reverse=True) or [{}]
        for other in others:
            merged = _count(merged, other.items())
        return merged

    def extract_output(self, accumulator: Counts) -> list[Vocabulary]:
        """Return the tokens with their counts."""
        return [Vocabulary(list(accumulator), list(accumulator.values()))]


def _count(counts: Counts, added: Iterable[tuple[Any, int]]) -> Counts:
    get = counts.get
    for token, count in added:
        counts[token] = get(token, 0) + count
    return counts


@dataclasses.dataclass
class _Table:
    """Exact sums by token; rows and columns beyond those that are used are 0.

    Attributes:
        rows: The row of each token.
        counts: How often it was seen, [capacity].
        sums: Other sums, [capacity, width].
    """

    rows: dict[Any, int]
    counts: npt.NDArray[np.int64]
    sums: exact.Scaled

    @classmethod
    def empty(cls) -> _Table:
        return cls({}, np.zeros(0, np.int64), exact.Scaled.zeros(0, 0))

    def add(self, tokens: Iterable[Any], counts: Array, sums: exact.Scaled) -> None:
        """Add counts [n] and sums [n, width] of distinct tokens."""
        rows = self.rows
        at = np.array([rows.setdefault(token, len(rows)) for token in tokens], np.int64)
        self._reserve(len(rows), sums.totals.shape[1])
        exponent = min(self.sums.exponent, sums.exponent)
        totals = self.sums.at(exponent)
        totals[at, : sums.totals.shape[1]] += sums.at(exponent)
        self.counts[at] += counts
        self.sums = exact.Scaled(totals, exponent)

    def _reserve(self, rows: int, width: int) -> None:
        capacity, before = self.sums.totals.shape
        if rows <= capacity and width <= before:
            return
        # Twice as many, or copying them would take longer the more there are.
        shape = (capacity if rows <= capacity else 2 * rows, max(width, before))
        counts, totals = np.zeros(shape[0], np.int64), np.zeros(shape, object)
        counts[:capacity], totals[:capacity, :before] = self.counts, self.sums.totals
        self.counts, self.sums = counts, self.sums._replace(totals=totals)

    def used(self) -> tuple[list[Any], npt.NDArray[np.int64], exact.Scaled]:
        """Return the tokens, their counts and their sums."""
        size = len(self.rows)
        sums = self.sums._replace(totals=self.sums.totals[:size])
        return list(self.rows), self.counts[:size], sums


class _ByToken(Combiner):
    """What accumulates a `_Table`."""

    def create_accumulator(self) -> _Table:
        """Return the accumulator of no tokens."""
        return _Table.empty()

    def merge_accumulators(self, accumulators: Iterable[_Table]) -> _Table:
        """Return the sums of all accumulators."""
        merged, *others = sorted(accumulators, key=_tokens_of, reverse=True) or [_Table.empty()]
        for other in others:
            merged.add(*other.used())
        return merged


def _tokens_of(table: _Table) -> int:
    return len(table.rows)


class TokenWeights(_ByToken):
    """The weight of each token in all: tf.Transform's order by weighted frequency.

    The input is two arrays: tokens (bytes or int64) as they come, and their weights
    (floats). The only output is a `Vocabulary`; each weight is rounded once, to float64.
    """

    def add_input(self, accumulator: _Table, batch_values: Sequence[Array]) -> _Table:
        """Return the accumulator with the weights of a batch added."""
        tokens, weights = batch_values
        names, groups = _grouped(tokens)
        sums = _group_sums(weights, groups, len(names))
        counts = np.bincount(groups, minlength=len(names))
        accumulator.add(names, counts, sums._replace(totals=sums.totals[:, None]))
        return accumulator

    def extract_output(self, accumulator: _Table) -> list[Vocabulary]:
        """Return the tokens with their weights."""
        tokens, _, sums = accumulator.used()
        weights = [
            float(exact.ratio(total, 1, exponent=sums.exponent)) for total in sums.totals.flat
        ]
        return [Vocabulary(tokens, weights)]


class _Labelled(NamedTuple):
    """A token as `WeightedMeanAndVarCombiner.accumulator_class` describes it."""

    count: Any
    mean: Any
    weight: Any


class MutualInformation(_ByToken):
    """What each token says of a label: tf.Transform's order by mutual information.

    The sums by token and label are exact. They are rounded to float32 once, as tf.Transform
    rounds its own, for the formula. The only output is a `Vocabulary` with frequencies.

    Without weights the input is what tf.Transform adds up itself for its analyzer, which
    is whole numbers: distinct tokens, among them the one for all rows; how often each has
    each label, [n, labels]; how often each was seen.

    With weights it is five arrays: tokens as they come, [n]; the label of each, int64 [n],
    or several, [n, k], where a negative one is none; the weight of each; and for all rows,
    whatever tokens they have, their labels, [rows] or [rows, k], and weights.

    Args:
        formula: `analyzer_impls._calculate_mutual_information_for_feature_value`.
        recommend: `analyzers.calculate_recommended_min_diff_from_avg`.
        everything: The token that stands for all rows.
        weighted: Which of the inputs it is.
        adjusted: Whether to subtract what chance would say.
        min_diff_from_avg: For the formula; None for the recommended one.
    """

    def __init__(
        self,
        formula: Callable[..., Any],
        recommend: Callable[[Any], Any],
        everything: bytes | int,
        *,
        weighted: bool = False,
        adjusted: bool = False,
        min_diff_from_avg: float | None = None,
    ) -> None:
        self._formula = formula
        self._recommend = recommend
        self._everything = everything
        self._weighted = weighted
        self._adjusted = adjusted
        self._min_diff_from_avg = min_diff_from_avg

    def add_input(self, accumulator: _Table, batch_values: Sequence[Array]) -> _Table:
        """Return the accumulator with the tokens and labels of a batch added."""
        if not self._weighted:
            tokens, positives, counts = batch_values
            whole = np.column_stack([counts, positives]).astype(np.int64).astype(object)
            accumulator.add(tokens.tolist(), counts.astype(np.int64), exact.Scaled(whole, 0))
            return accumulator
        tokens, labels, weights, row_labels, row_weights = batch_values
        names, groups = _grouped(tokens)
        _add_labelled(accumulator, names, groups, labels, weights)
        if len(row_labels):
            every = np.zeros(len(row_labels), np.int64)
            _add_labelled(accumulator, [self._everything], every, row_labels, row_weights)
        return accumulator

    def extract_output(self, accumulator: _Table) -> list[Vocabulary]:
        """Return the tokens with their mutual information and their frequencies."""
        tokens, counts, sums = accumulator.used()
        if self._everything not in accumulator.rows:
            return [Vocabulary([], [], [])]
        every = _labelled(accumulator.rows[self._everything], counts, sums)
        least = self._min_diff_from_avg
        if least is None:
            least = self._recommend(every.count * every.weight)
        found = Vocabulary([], [], [])
        for row, token in enumerate(tokens):
            if token == self._everything:
                continue
            one = (token, _labelled(row, counts, sums))
            try:
                _, (information, _, frequency) = self._formula(one, every, self._adjusted, least)
            except ValueError as error:
                raise DataError(f"tft.vocabulary: {error}") from error
            for column, value in zip(found, (token, information, frequency), strict=True):
                column.append(value)  # type: ignore[union-attr]
        return [found]


def _labelled(row: int, counts: npt.NDArray[np.int64], sums: exact.Scaled) -> _Labelled:
    weight, *positives = sums.totals[row].tolist()
    # Without any weight there is no mean; tf.Transform makes it 0.
    means = [exact.ratio(one, weight, np.float32) if weight else 0 for one in positives]
    mean_weight = exact.ratio(weight, int(counts[row]), np.float32, sums.exponent)
    return _Labelled(counts[row], np.array(means, np.float32), mean_weight)


def _add_labelled(
    table: _Table, tokens: Sequence[Any], groups: Array, labels: Array, weights: Array
) -> None:
    """Add for each group the weight in all, and the weight of each label."""
    count = len(tokens)
    width = int(labels.max(initial=-1)) + 1
    sums = _group_sums(weights, groups, count)
    totals = exact.Scaled(sums.totals[:, None], sums.exponent)
    several = labels[:, None] if labels.ndim == 1 else labels
    by_label = exact.Scaled.zeros(count, width)
    for one in several.T:
        there = one >= 0
        cells = groups[there] * width + one[there]
        sums = _group_sums(weights[there], cells, count * width)
        by_label = by_label.plus(sums._replace(totals=sums.totals.reshape(count, width)))
    exponent = min(totals.exponent, by_label.exponent)
    both = np.concatenate([totals.at(exponent), by_label.at(exponent)], axis=1)
    table.add(tokens, np.bincount(groups, minlength=count), exact.Scaled(both, exponent))


def _grouped(tokens: Array) -> tuple[list[Any], Array]:
    """Return the distinct tokens, and which of them each one is."""
    encoded = pa.array(tokens, pa.large_binary() if tokens.dtype == object else None)
    encoded = encoded.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _group_sums(weights: Array, groups: Array, count: int) -> exact.Scaled:
    try:
        return exact.group_sums(weights, groups, count)
    except ValueError:
        wrong = weights[~np.isfinite(weights)][0]
        raise DataError(
            f"tft.vocabulary: a weight is {wrong}; expected finite ones: "
            "replace it, or drop the row, before"
        ) from None
