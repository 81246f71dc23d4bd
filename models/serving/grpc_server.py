"""TensorFlow Serving's gRPC services behind a port."""

from __future__ import annotations

import concurrent.futures
import hmac
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from skewless.errors import RecipeError, RunError
from skewless.models.serving.grpc_service import (
    ModelService,
    PredictionService,
    handlers,
    retry_after,
)
from skewless.models.serving.limits import Limits
from skewless.models.serving.model import ServedModel

__all__ = ["GrpcServer"]

_THREADS = 64
_LOOK_SECONDS = 0.5
_HEALTH = "grpc.health.v1.Health"


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
        most_calls: How many calls are taken at a time; those beyond are refused.

    Raises:
        RecipeError: If `most_calls` is less than 1.
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
        most_calls: int = 1024,
    ) -> None:
        if most_calls < 1:
            raise RecipeError(f"GrpcServer(most_calls={most_calls}): expected at least 1")
        limits = limits or Limits()
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._files = (certfile, keyfile)
        # A thread that answers runs the model itself, or waits for the batch it is in.
        self._pool = _Pool(min(_THREADS, most_calls))
        # Health and refusals do not wait for those.
        self._side = concurrent.futures.ThreadPoolExecutor(4, "grpc aside")
        self._health = _Health(model)
        self._server = grpc.server(
            self._pool,
            handlers=[
                handlers(PredictionService(model, limits, timeout)),
                handlers(ModelService(model, limits, timeout)),
                _health_handlers(self._health, self._side),
            ],
            interceptors=[_Gate(token, self._pool, most_calls, self._side)],
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
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
        self._health.look()
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
        for pool in (self._pool, self._side):
            pool.shutdown(wait=False)

    def _tell_health(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self._health.look()


class _Pool(concurrent.futures.ThreadPoolExecutor):
    """Threads, and how many calls are on one or wait for one."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "grpc")
        self.calls = 0
        self._counting = threading.Lock()

    def submit(self, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with self._counting:
            self.calls += 1
        future = super().submit(*args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: concurrent.futures.Future[Any]) -> None:
        with self._counting:
            self.calls -= 1


class _Health(health.HealthServicer):  # type: ignore[misc]
    """The standard service of health, which says whether a model is ready."""

    def __init__(self, model: ServedModel) -> None:
        super().__init__()
        self._model = model
        self._told: bool | None = None
        self._looking = threading.Lock()

    def look(self) -> None:
        """Look at the model, and tell those who watch if it is not as it was."""
        statuses = health_pb2.HealthCheckResponse
        with self._looking:
            ready = self._model.ready
            if ready is self._told:
                return
            self._told = ready
            for service in ("", PredictionService.NAME, ModelService.NAME):
                self.set(service, statuses.SERVING if ready else statuses.NOT_SERVING)

    def check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer as things are now."""
        self.look()
        return self.Check(request, context)


class _Aside:
    """A method that does not wait for the threads of the others."""

    def __init__(
        self, method: Callable[..., Any], pool: concurrent.futures.ThreadPoolExecutor
    ) -> None:
        self._method = method
        # gRPC's name.
        self.experimental_thread_pool = pool

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._method(request, context)


def _health_handlers(
    servicer: _Health, pool: concurrent.futures.ThreadPoolExecutor
) -> grpc.GenericRpcHandler:
    types = {
        "request_deserializer": health_pb2.HealthCheckRequest.FromString,
        "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
    }
    return grpc.method_handlers_generic_handler(
        _HEALTH,
        {
            "Check": grpc.unary_unary_rpc_method_handler(_Aside(servicer.check, pool), **types),
            "Watch": grpc.unary_stream_rpc_method_handler(servicer.Watch, **types),
        },
    )


class _Gate(grpc.ServerInterceptor):  # type: ignore[misc]
    """Lets those in who bear the token, as long as there is room."""

    def __init__(
        self,
        token: str | None,
        pool: _Pool,
        most_calls: int,
        side: concurrent.futures.ThreadPoolExecutor,
    ) -> None:
        self._token = None if token is None else token.strip().encode()
        self._pool = pool
        self._most_calls = most_calls
        self._unauthenticated, self._busy = (
            # Of a stream, so that nobody waits for the request.
            grpc.stream_unary_rpc_method_handler(_Aside(method, side))
            for method in (_unauthenticated, _busy)
        )

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if details.method.startswith(f"/{_HEALTH}/"):
            return continuation(details)
        if self._token is not None and not self._bears_token(details.invocation_metadata):
            return self._unauthenticated
        if self._pool.calls >= self._most_calls:
            return self._busy
        return continuation(details)

    def _bears_token(self, metadata: Any) -> bool:
        for key, value in metadata:
            if key == "authorization":
                scheme, _, given = value.partition(" ")
                return scheme.lower() == "bearer" and hmac.compare_digest(
                    given.strip().encode(), self._token or b""
                )
        return False


def _unauthenticated(_: Any, context: grpc.ServicerContext) -> None:
    context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "expected the metadata authorization: Bearer <token>"
    )


def _busy(_: Any, context: grpc.ServicerContext) -> None:
    context.set_trailing_metadata(retry_after(1))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at a time; try again later")


def _credentials(certfile: str | None, keyfile: str | None) -> grpc.ServerCredentials | None:
    if certfile is None:
        return None
    try:
        certificate = pathlib.Path(certfile).read_bytes()
        key = pathlib.Path(keyfile or certfile).read_bytes()
    except OSError as error:
        raise RecipeError(f"certificate {certfile}: cannot be read: {error}") from None
    return grpc.ssl_server_credentials([(key, certificate)])
