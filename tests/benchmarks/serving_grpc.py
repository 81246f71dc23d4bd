"""Ask a server by gRPC, with the stock stub: serving_grpc PORT ASKED SECONDS.

Prints JSON: milliseconds of each request of a single client, and the requests a second of many
in flight, from a process of Python, which takes its part of the processor.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import asyncio
import json
import math
import pathlib
import pickle
import sys
import time
from collections.abc import Sequence

import grpc
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from tests.benchmarks.serving_load import CLIENTS, TOLERANCE

CALLS, WARM_UP = 2_000, 200
_ONE = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])


def main(port: str, path: str, seconds: str) -> None:
    """Check the answers, and measure."""
    _, examples, expected = pickle.loads(pathlib.Path(path).read_bytes())
    address = f"127.0.0.1:{port}"
    with grpc.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        for example, value in zip(examples, expected, strict=True):
            answer = _prediction(stub.Predict(_request(example)))
            if not math.isclose(answer, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                raise RuntimeError(f"gRPC: {answer}, but directly {value}")
        taken = _one_client(stub, examples)
    per_second = asyncio.run(_many(address, examples, float(seconds)))
    print(json.dumps({"one": taken, "per_second": per_second}))


def _one_client(stub: PredictionServiceStub, examples: Sequence[bytes]) -> list[float]:
    taken = []
    for number in range(WARM_UP + CALLS):
        example = examples[number % len(examples)]
        began = time.perf_counter()
        _prediction(stub.Predict(_request(example)))
        taken.append(1e3 * (time.perf_counter() - began))
    return taken[WARM_UP:]


async def _many(address: str, examples: Sequence[bytes], seconds: float) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        end, answered = time.monotonic() + seconds, 0

        async def ask(number: int) -> None:
            nonlocal answered
            while time.monotonic() < end:
                number = (number + CLIENTS) % len(examples)
                _prediction(await stub.Predict(_request(examples[number])))
                answered += 1

        await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
        return answered / seconds


def _request(example: bytes) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "flights"
    request.inputs["examples"].CopyFrom(
        tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=_ONE, string_val=[example])
    )
    return request


def _prediction(response: PredictResponse) -> float:
    tensor = response.outputs["prediction"]
    return float(tensor.float_val[0]) if tensor.float_val else _content(tensor.tensor_content)


def _content(content: bytes) -> float:
    return float(memoryview(content).cast("f")[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
