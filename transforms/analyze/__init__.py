"""Fit a transform graph on the training rows, in tf.Transform's own format."""

from skewless.transforms.analyze.analyze import Analyze
from skewless.transforms.analyze.exportable import check_exportable

__all__ = ["Analyze", "check_exportable"]
