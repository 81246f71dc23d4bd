"""Serve a folder as `skewless serve` does, at a fixed time: serving_soak_server FOLDER STORE NOW.

Prints its ports, and serves until it is told to stop.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import functools
import json
import logging
import pathlib
import signal
import sys

from skewless.models.serving.metrics import Metrics
from skewless.models.serving.model import ServedModel
from skewless.models.serving.server import Listening, Server
from skewless.pipeline.serving import StoreEnrichment


def main(folder: str, store: str, now: str) -> None:
    """Serve until SIGTERM."""
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    clock = functools.partial(int, now)
    enrich = functools.partial(StoreEnrichment, store=store, clock=clock)
    metrics = Metrics()
    model = ServedModel(pathlib.Path(folder), observers=[metrics], enrich=enrich)
    server = Server(model, Listening(rest_port=0, grpc_port=0), metrics.exposition)
    server.start()
    print(json.dumps([server.rest_port, server.grpc_port]), flush=True)
    signal.sigwait(wanted)
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
