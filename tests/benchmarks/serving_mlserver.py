"""The model on MLServer: a custom runtime, with its adaptive batching.

A row is one element of the input `rows`, as JSON text: what MLServer puts together fastest.
Run by MLServer in an environment of its own; `serving_contenders` writes its settings.
"""

from __future__ import annotations

import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from tests.benchmarks.serving_model import Model


class Flights(MLModel):
    """The model as MLServer loads it."""

    async def load(self) -> bool:
        """Load the model."""
        self._flights = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer with a prediction for each row."""
        rows = [json.loads(text) for text in StringCodec.decode_input(payload.inputs[0])]
        found = self._flights.predict(rows)
        output = {"name": "prediction", "shape": [len(found)], "datatype": "FP32", "data": found}
        return InferenceResponse(model_name=self.name, outputs=[output])
