"""Metrics of a model over slices of the test rows, and the decision to publish it."""

from skewless.transforms.evaluation.decision import (
    Blessing,
    Evaluation,
    Threshold,
    at_least,
    at_most,
    decide,
    improves,
)

__all__ = [
    "Blessing",
    "Evaluation",
    "Threshold",
    "at_least",
    "at_most",
    "decide",
    "improves",
]
