"""A running server asked over gRPC, with TensorFlow's own tensors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from skewless.errors import RunError
from skewless.pipeline.json_answers import Arrays
from skewless.pipeline.server_clients import (
    TIMEOUT,
    TRIES,
    Client,
    Rows,
    RunningServer,
    Target,
    not_served,
)

__all__ = ["make_grpc_client"]

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _GrpcClient:
    protocol = "gRPC"

    def __init__(self, server: RunningServer, target: Target) -> None:
        self._address, self._target = server.grpc_address, target
        if server.secure:
            authority = server.certificate_authority
            roots = None if authority is None else authority.read_bytes()
            credentials = grpc.ssl_channel_credentials(roots)
            self._channel = grpc.secure_channel(self._address, credentials, _UNLIMITED)
        else:
            self._channel = grpc.insecure_channel(self._address, _UNLIMITED)
        bearer = None if server.token is None else f"Bearer {server.token}"
        self._metadata = [] if bearer is None else [("authorization", bearer)]
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus

    def greet(self) -> None:
        request = get_model_status_pb2.GetModelStatusRequest()
        self._of_target(request.model_spec)
        self._call(self._status, request)

    def transform(self, rows: Rows, at: slice) -> Any:
        inputs = {name: values[at] for name, values in rows.arrays.items()}
        return self._ask("transform", inputs)

    def predict(self, rows: Rows, at: slice) -> Any:
        examples = np.array(rows.examples[at], object)
        return self._ask("serving_default", {"examples": examples})

    def gather(self, answers: Sequence[Any], like: Arrays) -> Arrays:
        for name in like:
            if not all(name in answer for answer in answers):
                raise RunError(
                    f"server {self._address}: its answers for version {self._target.version} "
                    f'have no "{name}"'
                )
        return {name: np.concatenate([answer[name] for answer in answers]) for name in like}

    def close(self) -> None:
        self._channel.close()

    def _ask(self, signature: str, inputs: Arrays) -> Any:
        request = predict_pb2.PredictRequest()
        self._of_target(request.model_spec)
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            dtype = tf.string if values.dtype == object else None
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype, values.shape))
        outputs = self._call(self._predict, request).outputs
        return {name: tf.make_ndarray(tensor) for name, tensor in outputs.items()}

    def _of_target(self, spec: Any) -> None:
        spec.name, spec.version.value = self._target

    def _call(self, method: Any, request: Any) -> Any:
        tried = 1
        while True:
            try:
                return method(request, timeout=TIMEOUT, metadata=self._metadata)
            except grpc.RpcError as error:
                pause = _pause(error)
                if pause is None or tried == TRIES:
                    raise RunError(f"server {self._address}: {self._refusal(error)}") from None
            tried += 1
            time.sleep(pause)

    def _refusal(self, error: Any) -> str:
        code, said = error.code(), " ".join((error.details() or "").split())[:300]
        if code == grpc.StatusCode.NOT_FOUND:
            return not_served(self._target, said)
        if code == grpc.StatusCode.UNAVAILABLE and _pause(error) is None:
            return (
                f"it does not answer over gRPC ({said}); start it with `skewless serve`, or give "
                "--server-grpc HOST:PORT, or none"
            )
        return f"it answers {code.name}: {said}"


def _pause(error: Any) -> float | None:
    """Return for how many seconds a busy server wants to be left alone; None if it is not busy."""
    said = dict(error.trailing_metadata() or ()).get("retry-after")
    if said is not None and said.isdecimal():
        return float(said)
    return 1.0 if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else None


def make_grpc_client(server: RunningServer, target: Target) -> Client:
    """Return a client that asks over gRPC.

    Args:
        server: The server, with an address of gRPC.
        target: What it is asked of.
    """
    return _GrpcClient(server, target)
