"""Feature pipelines on Apache Beam without training/serving skew, and the proof of it."""

__version__ = "0.1.0"
