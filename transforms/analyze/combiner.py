"""What an analyzer does with the batches of a phase: accumulate, merge, extract.

The methods are those of tf.Transform's own combiners and of Beam's CombineFn, so that one
of tf.Transform's can stand wherever one of ours does.
"""

from __future__ import annotations

import abc
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Array", "Combiner", "PerKey", "Wrapped"]

Array = npt.NDArray[Any]


class Combiner(abc.ABC):
    """One analyzer's accumulator: picklable, mergeable in any order and any grouping.

    Accumulators are picklable and bounded in the number of rows. `add_input` and
    `merge_accumulators` may change and return what they were given.
    """

    # How many passes over the rows it may take in all.
    most_passes: int = 1

    @abc.abstractmethod
    def create_accumulator(self) -> Any:
        """Return the accumulator of no rows."""

    @abc.abstractmethod
    def add_input(self, accumulator: Any, batch_values: Sequence[Array]) -> Any:
        """Return the accumulator with the arrays of one batch added."""

    @abc.abstractmethod
    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        """Return the accumulator of all rows of the accumulators; there may be none."""

    @abc.abstractmethod
    def extract_output(self, accumulator: Any) -> Sequence[Any]:
        """Return the analyzer's outputs."""

    def refine(self, accumulator: Any) -> Combiner | None:  # noqa: ARG002 - most have enough
        """Return what must see all rows once more to finish, or None when this is enough."""
        return None


class Wrapped(Combiner):
    """A combiner of tf.Transform, or of a user of its, as it is.

    Args:
        combiner: An `analyzer_nodes.Combiner`.
        one_zero: Whether a zero has no sign, and NaN one form only: which of them the least
            or greatest of several is depends on their order.
    """

    def __init__(self, combiner: Any, *, one_zero: bool = False) -> None:
        self._combiner = combiner
        self._one_zero = one_zero

    def create_accumulator(self) -> Any:
        """Return the accumulator of no rows."""
        return self._combiner.create_accumulator()

    def add_input(self, accumulator: Any, batch_values: Sequence[Array]) -> Any:
        """Return the accumulator with the arrays of one batch added."""
        return self._combiner.compact(self._combiner.add_input(accumulator, batch_values))

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        """Return the accumulator of all rows of the accumulators."""
        accumulators = list(accumulators)
        if not accumulators:
            return self.create_accumulator()
        return self._combiner.merge_accumulators(accumulators)

    def extract_output(self, accumulator: Any) -> Sequence[Any]:
        """Return the analyzer's outputs."""
        # Some take an accumulator for empty only when they merge it.
        merged = self._combiner.merge_accumulators([accumulator])
        outputs: Sequence[Any] = self._combiner.extract_output(merged)
        return [_one_zero(output) for output in outputs] if self._one_zero else outputs


def _one_zero(values: Array) -> Array:
    if not np.issubdtype(values.dtype, np.floating):
        return values
    one_nan: Array = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    return one_nan + values.dtype.type(0)  # type: ignore[no-any-return]


class PerKey(Combiner):
    """The same combiner for each key apart; the first array of a batch holds the keys.

    The only output is a list of (key, outputs), sorted by key. The accumulator holds one
    for each key.

    Args:
        combiner: What to do with the rows of one key.
        by_row: Whether it takes one row at a time (as tf.Transform's combiners do) rather
            than all rows of a key together.
    """

    def __init__(self, combiner: Combiner, *, by_row: bool = False) -> None:
        self._combiner = combiner
        self._by_row = by_row
        self._refined: dict[Any, Combiner] | None = None
        self._finished: dict[Any, Sequence[Any]] = {}
        self.most_passes = combiner.most_passes

    def create_accumulator(self) -> dict[Any, Any]:
        """Return the accumulator of no keys."""
        return {}

    def add_input(
        self, accumulator: dict[Any, Any], batch_values: Sequence[Array]
    ) -> dict[Any, Any]:
        """Return the accumulator with each key's rows added to it."""
        keys, *arrays = batch_values
        groups = zip(keys, range(len(keys)), strict=True) if self._by_row else _groups(keys)
        for key, rows in groups:
            combiner = self._combiner_of(key)
            if combiner is not None:
                before = accumulator[key] if key in accumulator else combiner.create_accumulator()
                accumulator[key] = combiner.add_input(before, [array[rows] for array in arrays])
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[dict[Any, Any]]) -> dict[Any, Any]:
        """Return the accumulator of all keys."""
        of_key: dict[Any, list[Any]] = {}
        for accumulator in accumulators:
            for key, value in accumulator.items():
                of_key.setdefault(key, []).append(value)
        return {key: self._known(key).merge_accumulators(values) for key, values in of_key.items()}

    def refine(self, accumulator: dict[Any, Any]) -> Combiner | None:
        """Return what must see the rows of the keys that are not finished once more."""
        finished, refined = dict(self._finished), {}
        for key, value in accumulator.items():
            combiner = self._known(key)
            again = combiner.refine(value)
            if again is None:
                finished[key] = combiner.extract_output(value)
            else:
                refined[key] = again
        if not refined:
            return None
        result = PerKey(self._combiner, by_row=self._by_row)
        result._refined, result._finished = refined, finished
        return result

    def extract_output(self, accumulator: dict[Any, Any]) -> Sequence[Any]:
        """Return the list of (key, outputs)."""
        outputs = dict(self._finished)
        for key, value in accumulator.items():
            outputs[key] = self._known(key).extract_output(value)
        return [sorted(outputs.items(), key=operator.itemgetter(0))]

    def _combiner_of(self, key: Any) -> Combiner | None:
        return self._combiner if self._refined is None else self._refined.get(key)

    def _known(self, key: Any) -> Combiner:
        return self._combiner_of(key) or self._combiner


def _groups(keys: Array) -> Iterator[tuple[Any, Array]]:
    """Yield each key with the numbers of its rows, in order."""
    if not len(keys):
        return
    encoded = pa.array(keys).dictionary_encode()
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))
    names = encoded.dictionary.to_pylist()
    yield from zip(names, np.split(order, ends[:-1]), strict=True)
