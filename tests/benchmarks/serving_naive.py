"""The obvious server of a model: FastAPI on uvicorn, a call of the model for each request.

The handler is a plain `def`, so FastAPI runs it in its pool of threads.
"""

from __future__ import annotations

import sys
from typing import Any

import fastapi
import pydantic
import uvicorn

from tests.benchmarks.serving_model import Model

app = fastapi.FastAPI()
model = Model()


class Asked(pydantic.BaseModel):
    """The body of a request."""

    instances: list[dict[str, Any]]


class Answered(pydantic.BaseModel):
    """The body of an answer."""

    predictions: list[float]


@app.post("/v1/models/flights:predict")
def predict(asked: Asked) -> Answered:
    """Answer with a prediction for each row."""
    return Answered(predictions=model.predict(asked.instances))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
