"""A running server asked as its clients ask it: which, and what over REST; see `grpc_client`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from skewless.errors import RecipeError, RunError
from skewless.pipeline.json_answers import Arrays, UnlikeError, read_answer, read_rows

__all__ = [
    "TIMEOUT",
    "TRIES",
    "Client",
    "Rows",
    "RunningServer",
    "Target",
    "make_rest_client",
    "not_served",
]

# A server that is busy is asked again so often, and given so many seconds to answer.
TRIES = 10
TIMEOUT = 60.0


@dataclasses.dataclass(frozen=True)
class RunningServer:
    """Where a server is, and how it is spoken to.

    Attributes:
        url: Of REST, e.g. `http://host:8501`.
        grpc: Of gRPC, `host:port`; "" for port 8500 of the same host, None to leave it out.
        token: What every request bears; None for nothing.
        certificate_authority: A file that the server's certificate is checked with, PEM; None
            for what this machine trusts.

    Raises:
        RecipeError: If an address is none.
    """

    url: str
    grpc: str | None = ""
    token: str | None = None
    certificate_authority: pathlib.Path | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known or parts.path.strip("/") or parts.query:
            raise RecipeError(f'server "{self.url}": expected http://HOST:PORT, or https://')
        if self.grpc and not self.grpc.rpartition(":")[2].isdecimal():
            raise RecipeError(f'gRPC server "{self.grpc}": expected HOST:PORT')

    @property
    def grpc_address(self) -> str | None:
        """Host and port of gRPC; None where it is left out."""
        if self.grpc != "":
            return self.grpc
        host = urlsplit(self.url).hostname or ""
        return f"[{host}]:8500" if ":" in host else f"{host}:8500"

    @property
    def secure(self) -> bool:
        """Whether it is spoken to through TLS."""
        return urlsplit(self.url).scheme == "https"


class Target(NamedTuple):
    """What a server is asked of: a model and its version."""

    model: str
    version: int


class Rows(NamedTuple):
    """Raw rows in the forms in which clients send them.

    Attributes:
        lines: Each as a JSON object.
        arrays: All as arrays, by the names of the signature's inputs.
        examples: Each as a serialized `tf.train.Example`.
    """

    lines: Sequence[bytes]
    arrays: Arrays
    examples: Sequence[bytes]


class Client(Protocol):
    """Asks a server over one protocol; of many threads at once."""

    protocol: str

    def greet(self) -> None:
        """See that the server is there and serves the version, or raise a `RunError`."""

    def transform(self, rows: Rows, at: slice) -> Any:
        """Return the answer of `transform` for some of the rows."""

    def predict(self, rows: Rows, at: slice) -> Any:
        """Return the predictions for some of the rows."""

    def gather(self, answers: Sequence[Any], like: Arrays) -> Arrays:
        """Return consecutive answers as arrays, with the names and types of `like`."""

    def close(self) -> None:
        """Close the connections."""


class _RestClient:
    """Asks over REST, rows by rows."""

    protocol = "REST"

    def __init__(self, server: RunningServer, target: Target, connections: int) -> None:
        self._server, self._target = server, target
        name, version = quote(target.model, safe=""), target.version
        self._url = f"{server.url.rstrip('/')}/v1/models/{name}/versions/{version}"
        self._session = requests.Session()
        # A server that is busy says when to try again; one that is not there need not be asked
        # twice, but a connection that was idle may have been closed meanwhile.
        retry = Retry(
            total=TRIES,
            connect=0,
            read=1,
            other=0,
            backoff_factor=0.5,
            status_forcelist=[503],
            allowed_methods=None,
            raise_on_status=False,
        )
        adapter = HTTPAdapter(pool_maxsize=connections, max_retries=retry)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        if server.token is not None:
            self._session.headers["Authorization"] = f"Bearer {server.token}"
        authority = server.certificate_authority
        self._verify = True if authority is None else str(authority)

    def greet(self) -> None:
        self._ask("GET", self._url)

    def transform(self, rows: Rows, at: slice) -> Any:
        return self._rows("transform", rows, at)

    def predict(self, rows: Rows, at: slice) -> Any:
        return self._rows("predict_rows", rows, at)

    def gather(self, answers: Sequence[Any], like: Arrays) -> Arrays:
        try:
            return read_rows([row for answer in answers for row in answer], like)
        except UnlikeError as error:
            raise self._unlike(error) from None

    def _unlike(self, error: UnlikeError) -> RunError:
        return RunError(f"server {self._server.url}: version {self._target.version} {error}")

    def close(self) -> None:
        self._session.close()

    def _rows(self, signature: str, rows: Rows, at: slice) -> Any:
        head = b'{"signature_name":"%s","instances":[' % signature.encode()
        body = head + b",".join(rows.lines[at]) + b"]}"
        answer = self._ask("POST", f"{self._url}:predict", body)
        try:
            return read_answer(answer)
        except UnlikeError as error:
            raise self._unlike(error) from None

    def _ask(self, method: str, url: str, body: bytes | None = None) -> bytes:
        try:
            # `verify` of a session would come after the environment's certificates.
            answer = self._session.request(
                method, url, data=body, timeout=TIMEOUT, verify=self._verify
            )
        except requests.exceptions.SSLError:
            raise RunError(
                f"server {self._server.url}: its certificate is not trusted here, or it speaks "
                "no TLS; give --certificate-authority FILE, or http://"
            ) from None
        except requests.RequestException as error:
            raise RunError(
                f"server {self._server.url}: it does not answer over REST "
                f"({type(error).__name__}); start it with `skewless serve`, or correct --server"
            ) from None
        if answer.status_code != 200:
            raise RunError(f"server {self._server.url}: {_refusal(answer, self._target)}")
        content: bytes = answer.content
        return content


def make_rest_client(server: RunningServer, target: Target, connections: int) -> Client:
    """Return a client that asks over REST.

    Args:
        server: The server.
        target: What it is asked of.
        connections: How many are kept open.

    Raises:
        RecipeError: If there is no such file of certificates.
    """
    authority = server.certificate_authority
    if authority is not None and not authority.is_file():
        raise RecipeError(f"certificate authority {authority}: there is no such file")
    return _RestClient(server, target, connections)


def _refusal(answer: requests.Response, target: Target) -> str:
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = answer.reason
    if answer.status_code == 404:
        return not_served(target, said)
    return f"it answers {answer.status_code}: {said[:300]}"


def not_served(target: Target, said: str) -> str:
    """Return the line for a server that has not what it was asked for."""
    return (
        f'it does not serve version {target.version} of model "{target.model}": '
        f"{' '.join(said.split())[:300]}"
    )
