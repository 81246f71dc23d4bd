"""TensorFlow Serving's gRPC services behind a port."""

from __future__ import annotations

import concurrent.futures
import hmac
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from skewless.errors import RecipeError, RunError
from skewless.models.serving.grpc_service import ModelService, PredictionService
from skewless.models.serving.limits import Limits
from skewless.models.serving.model import ServedModel

__all__ = ["GrpcServer"]

_THREADS = 64
_LOOK_SECONDS = 0.5
_HEALTH = "/grpc.health.v1.Health/"


class GrpcServer:
    """Serves a model over gRPC, with the standard health service.

    Args:
        model: The model.
        host: The address to listen on; `0.0.0.0` or `::` for all.
        port: The port; 0 for any that is free.
        certfile: A certificate and its chain, PEM, for TLS; None for none.
        keyfile: Its key, PEM.
        token: What a request must bear, but for those of health; None takes any.
        limits: How much a request may hold.
        timeout: For how many seconds an answer is wanted, at most; None as the client says.
    """

    def __init__(
        self,
        model: ServedModel,
        host: str = "127.0.0.1",
        port: int = 0,
        certfile: str | None = None,
        keyfile: str | None = None,
        *,
        token: str | None = None,
        limits: Limits | None = None,
        timeout: float | None = None,
    ) -> None:
        limits = limits or Limits()
        self._model = model
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._files = (certfile, keyfile)
        # A thread that answers runs the model itself, or waits for the batch it is in.
        self._server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
            interceptors=[] if token is None else [_Token(token.strip())],
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction = PredictionService(model, limits, timeout)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            prediction, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(model, limits, timeout), self._server
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._stopped = threading.Event()

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            RecipeError: If the certificate or its key cannot be used.
            RunError: If the address cannot be listened on.
        """
        credentials = _credentials(*self._files)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(self._address)
            else:
                port = self._server.add_secure_port(self._address, credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise RunError(
                f"cannot listen on {self._address}; choose an address of this machine and a "
                "free port, and for TLS a certificate with its key"
            )
        self._server.start()
        threading.Thread(target=self._tell_health, name="grpc health", daemon=True).start()
        return int(port)

    def stop(self, grace: float = 30.0) -> None:
        """Take no more requests, answer those that are there, and close.

        Args:
            grace: After how many seconds those that are not answered are given up.
        """
        self._stopped.set()
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()

    def _tell_health(self) -> None:
        statuses = health_pb2.HealthCheckResponse
        while True:
            status = statuses.SERVING if self._model.ready else statuses.NOT_SERVING
            for service in ("", "tensorflow.serving.PredictionService"):
                self._health.set(service, status)
            if self._stopped.wait(_LOOK_SECONDS):
                return


class _Token(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers who bears the token."""

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if details.method.startswith(_HEALTH):
            return continuation(details)
        for key, value in details.invocation_metadata:
            if key == "authorization" and hmac.compare_digest(value.encode(), self._wanted):
                return continuation(details)
        return grpc.unary_unary_rpc_method_handler(_unauthenticated)


def _unauthenticated(_: Any, context: grpc.ServicerContext) -> None:
    context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "expected the metadata authorization: Bearer <token>"
    )


def _credentials(certfile: str | None, keyfile: str | None) -> grpc.ServerCredentials | None:
    if certfile is None:
        return None
    try:
        certificate = pathlib.Path(certfile).read_bytes()
        key = pathlib.Path(keyfile or certfile).read_bytes()
    except OSError as error:
        raise RecipeError(f"certificate {certfile}: cannot be read: {error}") from None
    return grpc.ssl_server_credentials([(key, certificate)])
