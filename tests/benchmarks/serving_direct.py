"""Call the model in this process, without a server: serving_direct VERSION ASKED.

Prints JSON, milliseconds of each call: of the exported signature called directly, and of the
transform of a raw row as the server does it, with what that is made of: mostly the transform
graph's operations, some two thousand of them; lookups in vocabularies are three of these.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import json
import pathlib
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import tensorflow as tf

from skewless.models.serving.functions import row_function
from skewless.models.serving.packing import Packed
from skewless.models.serving.servable import Servable

CALLS, WARM_UP = 2_000, 200


def main(version: str, path: str) -> None:
    """Measure."""
    rows, examples, _ = pickle.loads(pathlib.Path(path).read_bytes())
    model = tf.saved_model.load(version)
    signature = model.signatures["serving_default"]

    def direct(example: bytes) -> float:
        return float(signature(examples=tf.constant([example]))["prediction"].numpy()[0])

    print(json.dumps({"direct": _timed(direct, examples), **_transform(version, rows)}))


def _transform(version: str, rows: Sequence[bytes]) -> dict[str, list[float]]:
    servable = Servable(version)
    reader, layout = servable.reader, servable.layout
    parsed = [orjson.loads(row) for row in rows]
    packed = [reader.read([row]) for row in parsed]
    outputs = servable.signature_defs["transform"].outputs

    def nothing(**columns: tf.Tensor) -> dict[str, tf.Tensor]:
        column = next(c for c in columns.values() if c.dtype == tf.float32)
        return {name: tf.identity(column) for name in outputs}

    def transform(row: dict[str, Any]) -> object:
        return servable.call_rows("transform", reader.read([row]))

    def read(row: dict[str, Any]) -> object:
        return reader.read([row])

    def graph(one: Packed) -> object:
        return servable.call_rows("transform", one)

    return {
        "transform": _timed(transform, parsed),
        "json": _timed(orjson.loads, rows),
        "read": _timed(read, parsed),
        "graph": _timed(graph, packed),
        "floor": _timed(row_function(nothing, layout), packed),
    }


def _timed(call: Callable[[Any], object], arguments: Sequence[Any]) -> list[float]:
    """Return how long calls take, each with the next argument."""
    taken = []
    for number in range(WARM_UP + CALLS):
        argument = arguments[number % len(arguments)]
        began = time.perf_counter()
        call(argument)
        taken.append(1e3 * (time.perf_counter() - began))
    return taken[WARM_UP:]


if __name__ == "__main__":
    main(*sys.argv[1:])
