"""A served model behind its ports: REST and gRPC, in one process."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable

from skewless.errors import RecipeError
from skewless.models.serving.grpc_server import GrpcServer
from skewless.models.serving.limits import Limits
from skewless.models.serving.model import ServedModel
from skewless.models.serving.rest import RestApp
from skewless.models.serving.rest_server import RestServer

__all__ = ["Listening", "Server"]


@dataclasses.dataclass(frozen=True)
class Listening:
    """Where a server listens, and whom it answers.

    Attributes:
        host: The address; by default this machine alone is answered.
        rest_port: The port of REST; 0 for any that is free, None for no REST.
        grpc_port: The port of gRPC, likewise.
        token: What every request must bear; None for nothing.
        certificate: A certificate and its chain, PEM, for TLS; None for none.
        key: Its key, PEM.
        limits: How much a request may hold.
        timeout: For how many seconds an answer is wanted where the request does not say.
        grace: For how many seconds a server that stops finishes what it took.
    """

    host: str = "127.0.0.1"
    rest_port: int | None = 8501
    grpc_port: int | None = 8500
    token: str | None = None
    certificate: str | None = None
    key: str | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)
    timeout: float = 30.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        if self.rest_port is None and self.grpc_port is None:
            raise RecipeError("neither a REST nor a gRPC port; expected at least one of them")
        for name in ("rest_port", "grpc_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port < 2**16:
                raise RecipeError(f"{name}={port}; expected from 0 (any) to 65535")
        if (self.certificate is None) != (self.key is None):
            raise RecipeError("TLS needs a certificate and its key; expected both or none")
        if self.token is not None and not self.token.strip():
            raise RecipeError("the token is empty; expected some text, or none at all")
        for name in ("timeout", "grace"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RecipeError(f"{name}={getattr(self, name)}; expected seconds, more than 0")


class Server:
    """Serves a model over REST and gRPC.

    Args:
        model: The model; started and closed with the server.
        listening: Where.
        metrics: The page of metrics and its content type.

    Attributes:
        rest_port: The port of REST, once started.
        grpc_port: The port of gRPC, likewise.
    """

    def __init__(
        self,
        model: ServedModel,
        listening: Listening,
        metrics: Callable[[], tuple[bytes, str]] | None = None,
    ) -> None:
        self._model = model
        self._listening = listening
        self._metrics = metrics
        self._running: list[RestServer | GrpcServer] = []
        self.rest_port: int | None = None
        self.grpc_port: int | None = None

    def start(self) -> None:
        """Load the model, and listen.

        Raises:
            RecipeError: If there is nothing to serve, or the certificate is no good.
            RunError: If an address cannot be listened on.
        """
        self._model.start()
        try:
            self._listen()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take nothing more, finish what was taken, and let go of the model."""
        self._model.drain()
        grace = self._listening.grace
        if self._running:
            with concurrent.futures.ThreadPoolExecutor(len(self._running)) as pool:
                list(pool.map(_stop, self._running, [grace] * len(self._running)))
        self._running = []
        self._model.close()

    def _listen(self) -> None:
        given = self._listening
        if given.rest_port is not None:
            app = RestApp(
                self._model,
                limits=given.limits,
                token=given.token,
                timeout=given.timeout,
                metrics=self._metrics,
            )
            rest = RestServer(app, given.host, given.rest_port, given.certificate, given.key)
            self.rest_port = rest.start()
            self._running.append(rest)
        if given.grpc_port is not None:
            grpc = GrpcServer(
                self._model,
                given.host,
                given.grpc_port,
                given.certificate,
                given.key,
                token=given.token,
                limits=given.limits,
                timeout=given.timeout,
            )
            self.grpc_port = grpc.start()
            self._running.append(grpc)


def _stop(server: RestServer | GrpcServer, grace: float) -> None:
    server.stop(grace)
