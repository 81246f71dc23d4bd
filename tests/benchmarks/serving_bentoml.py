"""The model on BentoML: a service with a batchable API, its adaptive batching.

Run by BentoML in an environment of its own.
"""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np

from tests.benchmarks.serving_model import Model


# Of what was tried the fastest here: two workers, arrays as answers, and nothing written.
@bentoml.service(workers=2, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Flights:
    """The model as BentoML loads it."""

    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def predict(self, instances: list[dict[str, Any]]) -> np.ndarray:
        """Return a prediction for each row."""
        return np.array(self._model.predict(instances), np.float32)
