"""A REST application behind a port, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
import time
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from skewless.errors import RecipeError, RunError

__all__ = ["RestServer"]

_log = logging.getLogger(__name__)

_HEADER_BYTES = 64 * 1024
# For all headers of a request, and for the next part of a body.
_HEADER_SECONDS = 10.0
_BODY_SECONDS = 10.0
# Longer than load balancers keep an idle connection, so that it is they who close it.
_KEEP_ALIVE_SECONDS = 75
_LOOK_SECONDS = 2.0
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on headers and silence, and errors as JSON."""

    _headers_since: float | None = None
    _headers_size = 0
    _heard = 0.0
    _look: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_since = self._heard = self.loop.time()
        self._look = self.loop.call_later(_LOOK_SECONDS, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        self._give_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        self._headers_size += len(data)
        super().data_received(data)
        if self._headers_since is not None and self._headers_size > _HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", "the headers are too large")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self._headers_since, self._headers_size = self.loop.time(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_since = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg)

    def _refuse(self, status: bytes, message: str) -> None:
        if self.transport.is_closing():
            return
        body = orjson.dumps({"error": message})
        head = (
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        )
        self.transport.write(head + body)
        self.transport.close()
        self._give_up()

    def _give_up(self) -> None:
        # Of requests sent without waiting, uvicorn looks at the last alone; the one that is
        # being answered would write into a closed connection.
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _close_if_silent(self) -> None:
        if self.transport.is_closing():
            return
        self._look = self.loop.call_later(_LOOK_SECONDS, self._close_if_silent)
        now = self.loop.time()
        if self._headers_since is not None:
            if now - self._headers_since > _HEADER_SECONDS:
                self._refuse(b"408 Request Timeout", "the headers did not arrive in time")
        elif self.cycle is None or self.cycle.response_complete:
            if now - self._heard > _KEEP_ALIVE_SECONDS:
                self.transport.close()
        elif self.cycle.more_body and not self.pipeline and now - self._heard > _BODY_SECONDS:
            self._refuse(b"408 Request Timeout", "the body did not arrive in time")


class RestServer:
    """Serves an ASGI application over HTTP or HTTPS.

    Args:
        app: The application.
        host: The address to listen on; `0.0.0.0` or `::` for all.
        port: The port; 0 for any that is free.
        certfile: A certificate and its chain, PEM, for HTTPS; None for HTTP.
        keyfile: Its key, PEM; None if the certificate's file has it.
    """

    def __init__(
        self,
        app: Any,
        host: str = "127.0.0.1",
        port: int = 0,
        certfile: str | None = None,
        keyfile: str | None = None,
    ) -> None:
        self._address = (host, port)
        self._files = ", ".join(name for name in (certfile, keyfile) if name)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="uvloop",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                ssl_certfile=certfile,
                ssl_keyfile=keyfile,
            )
        )
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            RecipeError: If the certificate or its key cannot be used.
            RunError: If the address cannot be listened on.
        """
        self._load()
        listening = _listen(*self._address)
        self._thread = threading.Thread(
            target=self._run, args=(listening,), name="rest", daemon=True
        )
        self._thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                listening.close()
                raise RunError(f"the REST server did not start: {self._failure}")
            time.sleep(0.002)
        return int(listening.getsockname()[1])

    def stop(self, grace: float = 30.0) -> None:
        """Take no more requests, answer those that are there, and close.

        Args:
            grace: After how many seconds those that are not answered are given up.
        """
        if self._thread is None:
            return
        self._server.config.timeout_graceful_shutdown = max(0, math.ceil(grace))
        self._server.should_exit = True
        self._thread.join(grace + _STOP_SECONDS)

    def _load(self) -> None:
        try:
            self._server.config.load()
        except OSError as error:  # ssl's errors among them
            reason = " ".join(str(error).split())
            raise RecipeError(
                f"certificate {self._files}: cannot be used ({reason}); "
                "expected PEM files of a certificate and its key"
            ) from None

    def _run(self, listening: socket.socket) -> None:
        try:
            self._server.run(sockets=[listening])
        except BaseException as error:
            self._failure = error
            _log.exception("the REST server ended")


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cannot listen on {host}:{port} ({error}); choose an address of this machine "
            "and a free port"
        ) from None
