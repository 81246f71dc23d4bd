"""What a model must reach to be published, and whether it did. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from skewless.errors import RecipeError

__all__ = [
    "LABEL",
    "METRICS",
    "PREDICTION",
    "Blessing",
    "Evaluation",
    "Threshold",
    "at_least",
    "at_most",
    "decide",
    "improves",
]

LABEL = "label"
PREDICTION = "prediction"

# The metrics of each task. Classes are decided at a probability of 0.5 (binary) or by the
# highest probability (multiclass, where all but accuracy are means over the classes).
METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": (
        "auc",
        "auc_pr",
        "precision",
        "recall",
        "f1",
        "accuracy",
        "calibration",
        "mean_label",
        "mean_prediction",
        "example_count",
    ),
    "multiclass": (
        "auc",
        "auc_pr",
        "precision",
        "recall",
        "f1",
        "accuracy",
        "calibration",
        "example_count",
    ),
    "regression": ("mae", "rmse", "r2", "mean_label", "mean_prediction", "example_count"),
}
_HIGHER_IS_BETTER = {"auc", "auc_pr", "precision", "recall", "f1", "accuracy", "r2"}
_LOWER_IS_BETTER = {"mae", "rmse"}

# {"overall": {metric: value}, "slices": [{"slice": {column: value}, "metrics": {…}}]}
Metrics = Mapping[str, Any]
Slice = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One thing that a model must reach; made by `at_least`, `at_most` and `improves`."""

    metric: str
    kind: Literal["at_least", "at_most", "improves"]
    value: float
    slice: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        known = {name for names in METRICS.values() for name in names}
        if self.metric not in known:
            raise _no_such_metric(self.metric, known, str(self))
        if not math.isfinite(self.value):
            raise RecipeError(f"{self}: expected a finite number")
        if self.kind == "improves" and self.metric not in _HIGHER_IS_BETTER | _LOWER_IS_BETTER:
            raise RecipeError(
                f"{self}: neither more nor less {self.metric} is better; "
                "use at_least and at_most instead"
            )

    def __str__(self) -> str:
        return f'{self.kind}("{self.metric}", {self.value:g}{_where(self.slice, ", ")})'


def at_least(metric: str, value: float, slice: Slice | None = None) -> Threshold:
    """Require that a metric is no less than a value.

    Args:
        metric: A metric of the model's task, e.g. `auc`.
        value: The least value that will do.
        slice: The slice it is about, e.g. `{"origin": "EWR"}`; all rows when absent.

    Raises:
        RecipeError: If there is no such metric.

    >>> str(at_least("auc", 0.65, slice={"origin": "EWR"}))
    'at_least("auc", 0.65, origin=EWR)'
    """
    return Threshold(metric, "at_least", value, _slice_key(slice))


def at_most(metric: str, value: float, slice: Slice | None = None) -> Threshold:
    """Require that a metric is no more than a value (arguments as for `at_least`)."""
    return Threshold(metric, "at_most", value, _slice_key(slice))


def improves(metric: str, by: float = 0.0, slice: Slice | None = None) -> Threshold:
    """Require that a metric is better than the baseline's by at least `by`.

    0 means no worse. Without a baseline, as at the first run, this asks for nothing.
    """
    return Threshold(metric, "improves", by, _slice_key(slice))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What to measure on the test rows, and what the model must reach.

    Args:
        slices: Raw columns to slice by; a tuple of columns for their combinations. Kept as
            tuples of columns.
        thresholds: What must hold for the model to be published. With none, it always is.

    Raises:
        RecipeError: If a slice is given twice, or a threshold is about another slice.

    >>> Evaluation(["origin"], [at_least("auc", 0.65)]).slices
    (('origin',),)
    """

    slices: Sequence[str | Sequence[str]] = ()
    thresholds: Sequence[Threshold] = ()

    def __post_init__(self) -> None:
        slices = (self.slices,) if isinstance(self.slices, str) else self.slices
        normal = tuple((s,) if isinstance(s, str) else tuple(s) for s in slices)
        object.__setattr__(self, "slices", normal)
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        where = f"Evaluation(slices={list(slices)!r})"
        groups = [frozenset(columns) for columns in normal]
        for columns, group in zip(normal, groups, strict=True):
            if not columns or len(group) < len(columns) or groups.count(group) > 1:
                raise RecipeError(f"{where}: name every slice, and every column in it, once")
            if {LABEL, PREDICTION} & group:
                raise RecipeError(
                    f'{where}: "{LABEL}" and "{PREDICTION}" are what is compared; '
                    "rename the raw column to slice by it"
                )
        for threshold in self.thresholds:
            if threshold.slice and frozenset(dict(threshold.slice)) not in groups:
                raise RecipeError(
                    f"{threshold}: there are no slices by {', '.join(dict(threshold.slice))}; "
                    f"add them to {where}"
                )


class Blessing(NamedTuple):
    """The decision: may the model be published, and what it rests on, a line each."""

    blessed: bool
    reasons: tuple[str, ...]


def decide(
    metrics: Metrics, thresholds: Iterable[Threshold], baseline: Metrics | None = None
) -> Blessing:
    """Decide whether a model with these metrics may be published.

    Args:
        metrics: The content of `metrics.json`.
        thresholds: What must hold; all of it.
        baseline: The metrics of the model published before, where there is one.

    Returns:
        The decision. It never stays open: without a baseline the thresholds alone decide,
        and without thresholds the model is blessed; the reasons say so.

    Raises:
        RecipeError: If the model's task has no such metric.

    >>> decide({"overall": {"auc": 0.6}, "slices": []}, [at_least("auc", 0.65)]).reasons
    ('auc is 0.6, less than 0.65', 'no baseline: decided by the thresholds alone')
    """
    thresholds = tuple(thresholds)
    if not thresholds:
        return Blessing(True, ("no thresholds were set",))
    verdicts = [_judge(threshold, metrics, baseline) for threshold in thresholds]
    reasons = tuple(reason for _, reason in verdicts)
    if baseline is None:
        reasons += ("no baseline: decided by the thresholds alone",)
    return Blessing(all(passed for passed, _ in verdicts), reasons)


def _judge(threshold: Threshold, metrics: Metrics, baseline: Metrics | None) -> tuple[bool, str]:
    """Say whether one threshold holds, and why."""
    if threshold.metric not in metrics["overall"]:
        raise _no_such_metric(threshold.metric, metrics["overall"], str(threshold))
    name = threshold.metric + _where(threshold.slice, " where ")
    value = _value(metrics, threshold)
    if value is None:
        return False, f"{name} cannot be computed: too few rows, or of one class only"
    if threshold.kind == "at_least":
        return _compare(name, value, threshold.value, at_least=True)
    if threshold.kind == "at_most":
        return _compare(name, value, threshold.value, at_least=False)
    before = None if baseline is None else _value(baseline, threshold)
    if before is None:
        return True, f"{name} is {value:.6g}, and no baseline has it to compare with"
    rises = threshold.metric in _HIGHER_IS_BETTER
    bound = before + threshold.value if rises else before - threshold.value
    passed, reason = _compare(name, value, bound, at_least=rises)
    return passed, f"{reason} (the baseline's {before:.6g} bettered by {threshold.value:g})"


def _compare(name: str, value: float, bound: float, *, at_least: bool) -> tuple[bool, str]:
    passed = value >= bound if at_least else value <= bound
    relation = (
        ("at least" if at_least else "at most")
        if passed
        else ("less than" if at_least else "more than")
    )
    return passed, f"{name} is {value:.6g}, {relation} {bound:.6g}"


def _value(metrics: Metrics, threshold: Threshold) -> float | None:
    """Return the metric a threshold is about, or None where it is undefined."""
    found = metrics["overall"] if not threshold.slice else {}
    for entry in metrics["slices"] if threshold.slice else ():
        if entry["slice"] == dict(threshold.slice):
            found = entry["metrics"]
    value = found.get(threshold.metric)
    return None if value is None or math.isnan(value) else float(value)


def _slice_key(columns: Slice | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in (columns or {}).items()))


def _where(columns: Iterable[tuple[str, str]], before: str) -> str:
    text = ", ".join(f"{name}={value}" for name, value in columns)
    return before + text if text else ""


def _no_such_metric(name: str, known: Iterable[str], where: str) -> RecipeError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"the metrics are {', '.join(names)}"
    return RecipeError(f'{where}: there is no metric "{name}"; {hint}')
