"""The metrics of each task, from what batches of rows add up to.

Every accumulator is exact (counts, or integers in fixed point), so neither sharding nor
order can change a bit of a result. A row costs a few array operations; where TensorFlow
Model Analysis (TFMA) has a metric of the same name, it is defined alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from skewless.exact import FINEST, exact_sum
from skewless.transforms.evaluation.areas import (
    BucketCounts,
    count_buckets,
    mean_areas,
    merge_counts,
)

__all__ = ["SliceRows", "metrics_combiner", "on_grid"]

_NAN = float("nan")


class SliceRows(NamedTuple):
    """The rows of one slice in one batch.

    Attributes:
        label: Of shape [rows]; finite, and for a classifier one of the classes.
        prediction: Of shape [rows], or [rows, classes] for several classes; finite, and for
            a classifier probabilities that are `on_grid`.
    """

    label: npt.NDArray[np.float32]
    prediction: npt.NDArray[Any]


def on_grid(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Round probabilities to multiples of 2**-24, the spacing of float32 just below 1.

    Sums of up to 2**29 of them are exact in float64, and so the same in any order.
    """
    rounded: npt.NDArray[np.float64] = np.round(probabilities.astype(np.float64) * 2.0**24)
    return rounded / 2.0**24


def metrics_combiner(task: str, classes: int) -> beam.CombineFn:
    """Return what combines `SliceRows` to the task's metrics by name, NaN where undefined.

    Args:
        task: `binary`, `multiclass` or `regression`.
        classes: The number of classes; multiclass only.
    """
    if task == "regression":
        return _RegressionMetrics()
    return _BinaryMetrics() if task == "binary" else _ClassMetrics(classes)


class _Counts(NamedTuple):
    """What the metrics of a classifier are made of.

    `decided` are rows by label and decided class, of shape [classes, classes]; `sums` those
    of the probabilities, of shape [classes], or [1] for a binary model.
    """

    decided: npt.NDArray[np.int64]
    buckets: BucketCounts
    sums: npt.NDArray[np.float64]


class _Classifier(beam.CombineFn):  # type: ignore[misc]
    """Count rows by class and probability; what to make of the counts is left open."""

    def __init__(self, classes: int, probabilities: int) -> None:
        self._classes = classes
        self._probabilities = probabilities

    def create_accumulator(self) -> _Counts:
        decided = np.zeros((self._classes, self._classes), np.int64)
        return _Counts(decided, BucketCounts(), np.zeros(self._probabilities))

    def add_input(self, counts: _Counts, rows: SliceRows) -> _Counts:
        label = rows.label.astype(np.int64)
        if rows.prediction.ndim == 1:
            probabilities = rows.prediction[:, np.newaxis]
            is_class, decided = label[:, np.newaxis] == 1, rows.prediction > 0.5
        else:
            probabilities = rows.prediction
            is_class = label[:, np.newaxis] == np.arange(self._classes)
            decided = probabilities.argmax(axis=1)
        pairs = np.bincount(label * self._classes + decided, minlength=self._classes**2)
        added = _Counts(
            pairs.reshape(self._classes, self._classes),
            count_buckets(is_class, probabilities),
            probabilities.sum(axis=0),
        )
        return self.merge_accumulators([counts, added])

    def merge_accumulators(self, accumulators: Iterable[_Counts]) -> _Counts:
        decided, buckets, sums = zip(*accumulators, strict=True)
        return _Counts(np.sum(decided, axis=0), merge_counts(buckets), np.sum(sums, axis=0))


class _BinaryMetrics(_Classifier):
    """All rests on the probability of class 1, which is decided above 0.5."""

    def __init__(self) -> None:
        super().__init__(classes=2, probabilities=1)

    def extract_output(self, counts: _Counts) -> dict[str, float]:
        auc, auc_pr = mean_areas(counts.buckets)
        (_, false_positives), (false_negatives, right) = counts.decided.tolist()
        rows, positives = int(counts.decided.sum()), false_negatives + right
        total = float(counts.sums[0])
        return {
            "auc": auc,
            "auc_pr": auc_pr,
            "precision": _share(right, right + false_positives),
            "recall": _share(right, positives),
            "f1": _share(2 * right, 2 * right + false_positives + false_negatives),
            "accuracy": _share(int(np.trace(counts.decided)), rows),
            "calibration": _share(total, positives),
            "mean_label": _share(positives, rows),
            "mean_prediction": _share(total, rows),
            "example_count": float(rows),
        }


class _ClassMetrics(_Classifier):
    """Accuracy, and all else of a binary model as plain means over the classes.

    Precision, recall and F1: a class that a slice has neither as label nor as prediction
    does not count there; where a class is never predicted (or never a label) its precision
    (or recall) is 0. AUC, of both curves: of a class's probability, its rows against the
    rest; a class that no row has, or every row, does not count. Calibration: the sum of a
    class's probability over its number of rows; a class that no row has does not count.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes)

    def extract_output(self, counts: _Counts) -> dict[str, float]:
        auc, auc_pr = mean_areas(counts.buckets)
        right, labels = np.diag(counts.decided), counts.decided.sum(axis=1)
        predicted = counts.decided.sum(axis=0)
        had, seen = labels > 0, labels + predicted > 0
        return {
            "auc": auc,
            "auc_pr": auc_pr,
            "precision": float(np.mean(right[seen] / np.maximum(predicted[seen], 1))),
            "recall": float(np.mean(right[seen] / np.maximum(labels[seen], 1))),
            "f1": float(np.mean(2 * right[seen] / (labels + predicted)[seen])),
            "accuracy": float(right.sum() / labels.sum()),
            "calibration": float(np.mean(counts.sums[had] / labels[had])),
            "example_count": float(labels.sum()),
        }


def _share(part: float, whole: int) -> float:
    return part / whole if whole else _NAN


class _Sums(NamedTuple):
    """Exact sums over rows, in units of 2**`FINEST` but for the first."""

    rows: int = 0
    absolute_errors: int = 0
    squared_errors: int = 0
    labels: int = 0
    squared_labels: int = 0
    predictions: int = 0


class _RegressionMetrics(beam.CombineFn):  # type: ignore[misc]
    """Mean absolute error, root of the mean squared error, R², and the two means.

    R² is 1 minus the squared errors' share of the labels' squared deviations from their
    mean; it is NaN where all labels are the same. Squares of float32 are exact in float64.
    """

    def create_accumulator(self) -> _Sums:
        return _Sums()

    def add_input(self, sums: _Sums, rows: SliceRows) -> _Sums:
        label = rows.label.astype(np.float64)
        prediction = rows.prediction.astype(np.float64)
        error = prediction - label
        added = (abs(error), error**2, label, label**2, prediction)
        return self.merge_accumulators([sums, _Sums(len(label), *map(exact_sum, added))])

    def merge_accumulators(self, accumulators: Iterable[_Sums]) -> _Sums:
        return _Sums(*map(sum, zip(*accumulators, strict=True)))

    def extract_output(self, sums: _Sums) -> dict[str, float]:
        unit = Fraction(1, 2**-FINEST)
        means = [Fraction(total, sums.rows) * unit for total in sums[1:]]
        absolute_error, squared_error, label, squared_label, prediction = means
        variance = squared_label - label**2
        return {
            "mae": float(absolute_error),
            "rmse": float(squared_error) ** 0.5,
            "r2": float(1 - squared_error / variance) if variance > 0 else _NAN,
            "mean_label": float(label),
            "mean_prediction": float(prediction),
            "example_count": float(sums.rows),
        }
