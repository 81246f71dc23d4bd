"""The model on Ray Serve: a deployment with its dynamic request batching.

Run by Ray's Python in an environment of its own: serving_ray PORT.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from tests.benchmarks.serving_model import Model


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Flights:
    """The model as Ray Serve loads it."""

    def __init__(self, path: str) -> None:
        self._model = Model(path)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        """Return a prediction for each row."""
        return self._model.predict(rows)

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Answer with a prediction for each row."""
        asked = await request.json()
        return {"predictions": [await self.predict(row) for row in asked["instances"]]}


def main(port: str) -> None:
    """Serve until told to stop."""
    ray.init(include_dashboard=False, num_cpus=os.cpu_count(), log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(port)},
        logging_config={"enable_access_log": False},
    )
    serve.run(Flights.bind(os.environ["SERVING_MODEL"]), name="flights", route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
