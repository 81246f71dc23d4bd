"""Areas under the curves of each class against the rest, from exact counts of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BucketCounts", "count_buckets", "mean_areas", "merge_counts"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# As fine as TFMA's areas of a binary model; a probability of 1 has a bucket of its own.
_BUCKETS = 10_000 + 1


class BucketCounts(NamedTuple):
    """How many rows fall where: only what occurs, so that a small slice stays small.

    A place is a class, a bucket of its probability, and whether the row is of that class.
    There are at most as many as probabilities, and 20,002 (320 kB) for each class.
    """

    places: Ints = np.zeros(0, np.int64)
    rows: Ints = np.zeros(0, np.int64)


def count_buckets(is_class: Bools, probabilities: npt.NDArray[np.float64]) -> BucketCounts:
    """Count the rows of each place.

    Args:
        is_class: Whether a row is of a class, of shape [rows, classes].
        probabilities: From 0 to 1, of shape [rows, classes].
    """
    classes = np.arange(probabilities.shape[1])
    buckets = (probabilities * (_BUCKETS - 1)).astype(np.int64)
    places = 2 * (classes * _BUCKETS + buckets) + is_class
    return BucketCounts(*np.unique(places, return_counts=True))


def merge_counts(counts: Iterable[BucketCounts]) -> BucketCounts:
    """Add counts up."""
    places, rows = map(np.concatenate, zip(BucketCounts(), *counts, strict=True))
    found, at = np.unique(places, return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, at, rows)
    return BucketCounts(found, total)


def mean_areas(counts: BucketCounts) -> tuple[float, float]:
    """Return the mean areas under the ROC and the precision-recall curves.

    Means over the classes, one against the rest; a class that no row has, or every row, has
    no area and does not count. Both are NaN where no class is left.

    >>> mean_areas(count_buckets(np.array([[False], [True]]), np.array([[0.1], [0.8]])))
    (1.0, 1.0)
    """
    areas = [
        (_roc_area(positives, negatives), _precision_recall_area(positives, negatives))
        for positives, negatives in _by_class(counts)
        if positives.any() and negatives.any()
    ]
    if not areas:
        return float("nan"), float("nan")
    roc, precision_recall = np.mean(areas, axis=0)
    return float(roc), float(precision_recall)


def _by_class(counts: BucketCounts) -> Iterator[tuple[Ints, Ints]]:
    """Yield each class's rows, and the rest's, in its buckets that have any, highest first."""
    owners, places = np.divmod(counts.places, 2 * _BUCKETS)
    for owner in np.unique(owners):
        dense = np.zeros(2 * _BUCKETS, np.int64)
        dense[places[owners == owner]] = counts.rows[owners == owner]
        pairs = dense.reshape(_BUCKETS, 2)[::-1]
        negatives, positives = pairs[pairs.any(axis=1)].T
        yield positives, negatives


def _roc_area(positives: Ints, negatives: Ints) -> float:
    """Sum trapezoids: within a bucket, true and false positives rise together."""
    right = np.cumsum(positives) - positives / 2
    return float(negatives @ right / positives.sum() / negatives.sum())


def _precision_recall_area(positives: Ints, negatives: Ints) -> float:
    """Interpolate within a bucket as TFMA does, after Davis and Goadrich (2006).

    There the true positives are a line over the predicted ones, and precision is a curve.
    """
    predicted = positives + negatives
    after = np.cumsum(predicted)
    before = after - predicted
    slope = positives / predicted
    intercept = np.cumsum(positives) - positives - slope * before
    growth = np.log(after / np.where(before > 0, before, after))
    return float(np.sum(slope * (positives + intercept * growth)) / positives.sum())
