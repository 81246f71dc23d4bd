"""The metrics of each task as TFMA computes them, and the few that it lacks.

One extract holds many rows of one slice. TFMA's own binary metrics see such an extract as
one example with many outputs and flatten it, which is many times faster than an extract a
row; the metrics defined here work on the whole arrays. Every accumulator is exact (counts,
or integers in fixed point), so neither sharding nor order can change a bit of a result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.proto import config_pb2

from skewless.transforms.evaluation.areas import (
    BucketCounts,
    count_buckets,
    mean_areas,
    merge_counts,
)
from skewless.transforms.evaluation.decision import METRICS

__all__ = ["ClassMetrics", "RegressionMetrics", "eval_config", "on_grid"]

# What an extract calls its weights; all of them are 1, so that their sum counts its rows.
_WEIGHTS = "rows"

_BINARY = (
    ("AUC", {"name": "auc"}),
    ("AUCPrecisionRecall", {"name": "auc_pr"}),
    ("Precision", {"name": "precision", "thresholds": [0.5]}),
    ("Recall", {"name": "recall", "thresholds": [0.5]}),
    ("F1Score", {"name": "f1", "thresholds": [0.5]}),
    ("BinaryAccuracy", {"name": "accuracy"}),
    ("Calibration", {"name": "calibration"}),
    ("MeanLabel", {"name": "mean_label"}),
    ("MeanPrediction", {"name": "mean_prediction"}),
)


def eval_config(task: str, classes: int, slices: Iterable[Sequence[str]]) -> config_pb2.EvalConfig:
    """Return TFMA's configuration: the task's metrics, overall and by slice.

    Args:
        task: `binary`, `multiclass` or `regression`.
        classes: The number of classes; multiclass only.
        slices: The columns of each slice.
    """
    configs = {
        "binary": _BINARY,
        "multiclass": (("ClassMetrics", {"classes": classes}),),
        "regression": (("RegressionMetrics", {}),),
    }[task]
    metrics = [
        config_pb2.MetricConfig(
            class_name=name,
            config=json.dumps(arguments),
            module=__name__ if name in __all__ else "",
        )
        for name, arguments in (*configs, ("ExampleCount", {"name": "example_count"}))
    ]
    return config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(example_weight_key=_WEIGHTS)],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=columns) for columns in slices),
        ],
    )


def on_grid(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Round probabilities to multiples of 2**-24, the spacing of float32 just below 1.

    Sums of up to 2**29 of them are exact in float64, and so the same in any order.
    """
    rounded: npt.NDArray[np.float64] = np.round(probabilities.astype(np.float64) * 2.0**24)
    return rounded / 2.0**24


# TFMA calls a metric's function by the names of its parameters, used or not.
# ruff: noqa: ARG001


class ClassMetrics(metric_types.Metric):  # type: ignore[misc]
    """Accuracy, and all else of a binary model as plain means over the classes.

    Precision, recall and F1: a class that a slice has neither as label nor as prediction
    does not count there; where a class is never predicted (or never a label) its precision
    (or recall) is 0. AUC, of both curves: of a class's probability, its rows against the
    rest; a class that no row has, or every row, does not count. Calibration: the sum of a
    class's probability over its number of rows; a class that no row has does not count.
    """

    def __init__(self, classes: int, name: str = "classes") -> None:
        super().__init__(_class_computations, name=name, classes=classes)


def _class_computations(
    name: str, classes: int, example_weighted: bool
) -> list[metric_types.MetricComputation]:
    return [
        _computation(("accuracy", "precision", "recall", "f1"), _CountClasses(classes)),
        _computation(("auc", "auc_pr", "calibration"), _CountProbabilities(classes)),
    ]


class RegressionMetrics(metric_types.Metric):  # type: ignore[misc]
    """Mean absolute error, root of the mean squared error, R², and the two means.

    R² is 1 minus the squared errors' share of the labels' squared deviations from their
    mean; it is NaN where all labels are the same. Squares of float32 are exact in float64.
    """

    def __init__(self, name: str = "regression") -> None:
        super().__init__(_regression_computations, name=name)


def _regression_computations(
    name: str, example_weighted: bool
) -> list[metric_types.MetricComputation]:
    names = [name for name in METRICS["regression"] if name != "example_count"]
    return [_computation(names, _SumErrors())]


def _computation(names: Iterable[str], combiner: beam.CombineFn) -> metric_types.MetricComputation:
    keys = [_key(name) for name in names]
    return metric_types.MetricComputation(keys=keys, preprocessors=None, combiner=combiner)


def _key(name: str) -> metric_types.MetricKey:
    return metric_types.MetricKey(name, example_weighted=True)


class _CountClasses(beam.CombineFn):  # type: ignore[misc]
    """Count rows by label and predicted class: int64 of shape [classes, classes]."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def create_accumulator(self) -> npt.NDArray[np.int64]:
        return np.zeros((self._classes, self._classes), np.int64)

    def add_input(self, counts: npt.NDArray[np.int64], inputs: Any) -> npt.NDArray[np.int64]:
        label = np.asarray(inputs.label).astype(np.int64)
        at = label * self._classes + np.asarray(inputs.prediction).argmax(axis=1)
        added = np.bincount(at, minlength=self._classes**2)
        return counts + added.reshape(self._classes, self._classes)

    def merge_accumulators(
        self, accumulators: Iterable[npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        return sum(accumulators, start=self.create_accumulator())

    def extract_output(
        self, counts: npt.NDArray[np.int64]
    ) -> Mapping[metric_types.MetricKey, float]:
        right, labels, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        seen = labels + predicted > 0
        right, labels, predicted = right[seen], labels[seen], predicted[seen]
        return {
            _key("accuracy"): float(right.sum() / labels.sum()),
            _key("precision"): float(np.mean(right / np.maximum(predicted, 1))),
            _key("recall"): float(np.mean(right / np.maximum(labels, 1))),
            _key("f1"): float(np.mean(2 * right / (labels + predicted))),
        }


class _Probabilities(NamedTuple):
    """What AUC and calibration are made of; the last two of shape [classes]."""

    buckets: BucketCounts
    rows: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]


class _CountProbabilities(beam.CombineFn):  # type: ignore[misc]
    """Count rows by class and bucket of probability; sum probabilities, which are `on_grid`."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def create_accumulator(self) -> _Probabilities:
        nothing = np.zeros(self._classes)
        return _Probabilities(BucketCounts(), nothing.astype(np.int64), nothing)

    def add_input(self, counts: _Probabilities, inputs: Any) -> _Probabilities:
        label = np.asarray(inputs.label).astype(np.int64)
        probabilities = np.asarray(inputs.prediction)
        rows = np.bincount(label, minlength=self._classes)
        added = (count_buckets(label, probabilities), rows, probabilities.sum(axis=0))
        return self.merge_accumulators([counts, _Probabilities(*added)])

    def merge_accumulators(self, accumulators: Iterable[_Probabilities]) -> _Probabilities:
        buckets, rows, sums = zip(*accumulators, strict=True)
        return _Probabilities(merge_counts(buckets), np.sum(rows, axis=0), np.sum(sums, axis=0))

    def extract_output(self, counts: _Probabilities) -> Mapping[metric_types.MetricKey, float]:
        auc, auc_pr = mean_areas(counts.buckets)
        seen = counts.rows > 0
        return {
            _key("auc"): auc,
            _key("auc_pr"): auc_pr,
            _key("calibration"): float(np.mean(counts.sums[seen] / counts.rows[seen])),
        }


class _Sums(NamedTuple):
    """Exact sums over rows, in units of `_UNIT` but for the first."""

    rows: int = 0
    absolute_errors: int = 0
    squared_errors: int = 0
    labels: int = 0
    squared_labels: int = 0
    predictions: int = 0


class _SumErrors(beam.CombineFn):  # type: ignore[misc]
    """Sum what the metrics of a regression are made of."""

    def create_accumulator(self) -> _Sums:
        return _Sums()

    def add_input(self, sums: _Sums, inputs: Any) -> _Sums:
        label = np.asarray(inputs.label, np.float32).astype(np.float64)
        prediction = np.asarray(inputs.prediction, np.float32).astype(np.float64)
        error = prediction - label
        added = (abs(error), error**2, label, label**2, prediction)
        return self.merge_accumulators([sums, _Sums(len(label), *map(_exact_sum, added))])

    def merge_accumulators(self, accumulators: Iterable[_Sums]) -> _Sums:
        return _Sums(*map(sum, zip(*accumulators, strict=True)))

    def extract_output(self, sums: _Sums) -> Mapping[metric_types.MetricKey, float]:
        means = [Fraction(total, sums.rows) * _UNIT for total in sums[1:]]
        absolute_error, squared_error, label, squared_label, prediction = means
        variance = squared_label - label**2
        return {
            _key("mae"): float(absolute_error),
            _key("rmse"): float(squared_error) ** 0.5,
            _key("r2"): float(1 - squared_error / variance) if variance > 0 else float("nan"),
            _key("mean_label"): float(label),
            _key("mean_prediction"): float(prediction),
        }


# No float64 has a finer bit than this.
_UNIT = Fraction(1, 2**1074)


def _exact_sum(values: npt.NDArray[np.float64]) -> int:
    """Return the sum of finite float64s, in units of `_UNIT`, without any rounding."""
    fraction, exponent = np.frexp(values)
    whole = (fraction * 2.0**53).astype(np.int64)
    total = 0
    for power in np.unique(exponent):
        same = whole[exponent == power]
        # In halves of 27 and 26 bits, so that int64 holds the sums of 2**36 rows.
        halves = (int((same >> 26).sum()) << 26) + int((same & (2**26 - 1)).sum())
        # frexp calls 2**-1074 0.5 * 2**-1073, hence a shift below 0 for subnormals only,
        # whose lowest bits are zeros.
        shift = int(power) - 53 + 1074
        total += halves << shift if shift >= 0 else halves >> -shift
    return total
