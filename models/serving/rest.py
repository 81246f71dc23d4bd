"""TensorFlow Serving's REST API for one model, as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from google.protobuf import json_format

from skewless.errors import RecipeError
from skewless.models.serving.json_tensors import dumps, shown
from skewless.models.serving.limits import Limits, too_large
from skewless.models.serving.model import ServedModel
from skewless.models.serving.requests import Code, Deadline, ServingError
from skewless.models.serving.rest_json import (
    Interface,
    Target,
    is_columnar,
    read_document,
    read_examples,
    read_predict,
    write_classes,
    write_predictions,
    write_values,
)
from skewless.models.serving.servable import Servable
from skewless.models.serving.versions import VersionStatus

__all__ = ["RestApp"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = Mapping[bytes, bytes]
Metrics: TypeAlias = Callable[[], tuple[bytes, str]]

_log = logging.getLogger(__name__)

# As TensorFlow Serving's, which takes upper and lower case as one.
_PATH = re.compile(
    rb"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
    rb"(?::(predict|classify|regress)|/(metadata))?",
    re.IGNORECASE,
)
_LIVE, _READY, _METRICS = b"/healthz/live", b"/healthz/ready", b"/metrics"
_JSON = b"application/json"


class _Reply(NamedTuple):
    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _Refused(Exception):  # noqa: N818 - a reply, of HTTP's own reasons
    """A request that HTTP itself refuses."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.reply = _error(status, message, *headers)


class _Gone(Exception):  # noqa: N818 - nobody's error
    """The client went away."""


class _Route(NamedTuple):
    name: str
    version: int | None
    label: str | None
    method: str


class RestApp:
    """Answers HTTP's requests with a model.

    `POST /v1/models/<name>[/versions/<version>|/labels/<label>]:predict|classify|regress`,
    `GET` of the same path for the status and of `.../metadata` for the signatures,
    `GET /healthz/live` and `/healthz/ready`, and `GET /metrics`. The header
    `X-Request-Timeout` says for how many seconds an answer is wanted. What goes wrong is
    `{"error": "..."}`.

    Args:
        model: The model.
        limits: How much a request may hold.
        token: What a request must bear, but for those of health; None takes any.
        timeout: For how many seconds an answer is wanted where a request says nothing; None
            for ever.
        metrics: Returns the page of metrics and its content type; None has no such page.

    Raises:
        RecipeError: If the token is empty, or the timeout no number of seconds.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        limits: Limits | None = None,
        token: str | None = None,
        timeout: float | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        if token is not None and not token.strip():
            raise RecipeError("RestApp(token=''): expected some text, or None for no token")
        if timeout is not None and not 0 < timeout < math.inf:
            raise RecipeError(f"RestApp(timeout={timeout!r}): expected seconds, more than 0")
        self._model = model
        self._limits = limits or Limits()
        self._token = None if token is None else token.strip().encode()
        self._timeout = timeout
        self._metrics = metrics
        # An interface may not keep a version that is no longer served.
        self._interfaces: weakref.WeakKeyDictionary[Servable, Interface] = (
            weakref.WeakKeyDictionary()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            raise RuntimeError(f"RestApp answers http; not {scope['type']}")
        try:
            reply = await self._reply(scope, receive)
        except ServingError as error:
            reply = _serving_error(error)
        except _Refused as refused:
            reply = refused.reply
        except _Gone:
            return
        except asyncio.CancelledError:
            # The server stops, and cannot wait any longer.
            await _send(send, _serving_error(_stopping()))
            raise
        except Exception:
            _log.exception("%s %.200r failed", scope["method"], scope["path"])
            reply = _error(500, "internal error")
        await _send(send, reply)

    async def _reply(self, scope: Scope, receive: Receive) -> _Reply:
        path = scope.get("raw_path") or scope["path"].encode()
        if path in (_LIVE, _READY):
            _check_method(scope, b"GET, HEAD")
            return self._health(path)
        headers: Headers = dict(scope["headers"])
        self._check_token(headers)
        if path == _METRICS and self._metrics is not None:
            _check_method(scope, b"GET, HEAD")
            page, content_type = await asyncio.to_thread(self._metrics)
            return _Reply(200, page, content_type.encode())
        route = self._route(path)
        if route.method in ("status", "metadata"):
            _check_method(scope, b"GET, HEAD")
            return _Reply(200, self._about(route))
        _check_method(scope, b"POST")
        return _Reply(200, await self._ask(route, headers, receive))

    def _health(self, path: bytes) -> _Reply:
        if path == _READY and not self._model.ready:
            return _error(503, "no version of the model is available", (b"retry-after", b"1"))
        return _Reply(200, b'{"status":"ok"}')

    def _check_token(self, headers: Headers) -> None:
        if self._token is None:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise _Refused(
                401,
                "expected the header Authorization: Bearer <the server's token>",
                (b"www-authenticate", b"Bearer"),
            )

    def _route(self, path: bytes) -> _Route:
        found = _PATH.fullmatch(path)
        if found is None:
            raise _Refused(404, f"there is nothing at {shown(unquote(path[:200]))}")
        name, version, label, method, metadata = found.groups()
        if unquote(name) != self._model.name:
            raise ServingError(
                Code.NOT_FOUND,
                f"model {shown(unquote(name))} is not served here; {shown(self._model.name)} is",
            )
        # What has more digits is no int64.
        number = int(version) if version is not None and len(version) < 20 else None
        if version is not None and (number is None or number >= 2**63):
            raise ServingError(
                Code.INVALID_ARGUMENT, f"version {shown(version.decode())} is not an int64"
            )
        asked = (method or metadata or b"status").decode().lower()
        return _Route(self._model.name, number, None if label is None else unquote(label), asked)

    def _about(self, route: _Route) -> bytes:
        if route.method == "metadata":
            return _metadata(self._model.name, self._model.servable(route.version, route.label))
        found = self._model.status(route.version, route.label)
        return dumps({"model_version_status": [_status(one) for one in found]})

    async def _ask(self, route: _Route, headers: Headers, receive: Receive) -> bytes:
        trace = headers.get(b"traceparent", b"").decode("latin-1")
        target = Target(route.version, route.label, self._deadline(headers), trace)
        body = await self._body(headers, receive)
        servable = self._model.servable(route.version, route.label)
        interface = self._interface(servable)
        document = read_document(body, self._limits)
        if route.method == "predict":
            request = read_predict(document, interface, self._limits, target)
            answer = await self._model.answer_async(request)
            return write_predictions(answer, is_columnar(document))
        request = read_examples(document, interface, self._limits, route.method, target)
        answer = await self._model.answer_async(request)
        if route.method == "regress":
            return write_values(answer)
        if answer.version != servable.version:
            # A newer one took its place meanwhile, perhaps with classes of other names.
            interface = self._interface(self._model.servable(answer.version))
        return write_classes(answer, interface.class_names)

    def _interface(self, servable: Servable) -> Interface:
        found = self._interfaces.get(servable)
        if found is None:
            found = self._interfaces[servable] = Interface.of(servable)
        return found

    def _deadline(self, headers: Headers) -> Deadline:
        text = headers.get(b"x-request-timeout")
        seconds = self._timeout
        if text is not None:
            try:
                seconds = float(text)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds < math.inf:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"X-Request-Timeout is {shown(text.decode('latin-1'))}; "
                    "expected seconds, more than 0",
                )
        return None if seconds is None else time.monotonic() + seconds

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        coding = headers.get(b"content-encoding", b"identity")
        if coding.lower() != b"identity":
            raise _Refused(
                415, f"Content-Encoding is {shown(coding.decode('latin-1'))}; expected none"
            )
        most = self._limits.body_bytes
        length = headers.get(b"content-length", b"0")
        if len(length) > 18 or int(length) > most:
            raise _Refused(413, too_large(self._limits))
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            part = message.get("body", b"")
            if len(body) + len(part) > most:
                raise _Refused(413, too_large(self._limits))
            if not message.get("more_body"):
                return bytes(body + part)
            body += part


def _check_method(scope: Scope, allowed: bytes) -> None:
    if scope["method"].encode() not in allowed.split(b", "):
        raise _Refused(
            405,
            f"{shown(scope['method'])} is not for this path; expected {allowed.decode()}",
            (b"allow", allowed),
        )


def _status(status: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(status.version),
        "state": status.state,
        "status": {"error_code": status.error_code, "error_message": status.error_message},
    }


def _metadata(name: str, servable: Servable) -> bytes:
    """Return a `GetModelMetadataResponse` as TensorFlow Serving writes it."""
    signatures = {
        name: json_format.MessageToDict(
            signature,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, signature in servable.signature_defs.items()
    }
    spec = {"name": name, "signature_name": "", "version": str(servable.version)}
    return dumps({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})


def _serving_error(error: ServingError) -> _Reply:
    if error.retry_after is None:
        return _error(error.code.http, error.message)
    seconds = str(max(1, math.ceil(error.retry_after))).encode()
    return _error(error.code.http, error.message, (b"retry-after", seconds))


def _stopping() -> ServingError:
    return ServingError(Code.UNAVAILABLE, "the server is stopping", retry_after=1.0)


def _error(status: int, message: str, *headers: tuple[bytes, bytes]) -> _Reply:
    return _Reply(status, dumps({"error": message}), _JSON, headers)


async def _send(send: Send, reply: _Reply) -> None:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
