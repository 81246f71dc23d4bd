"""A running server asked as its clients ask it: which, and what over REST; see `grpc_client`."""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from skewless.errors import RecipeError, RunError

__all__ = [
    "TIMEOUT",
    "TRIES",
    "Arrays",
    "Client",
    "Rows",
    "RunningServer",
    "Target",
    "make_rest_client",
    "not_served",
]

Arrays = Mapping[str, npt.NDArray[Any]]

# A server that is busy is asked again so often, and given so many seconds to answer.
TRIES = 10
TIMEOUT = 60.0
_VALUES, _LENGTHS = "/values", "/row_lengths"


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
        if server.certificate_authority is not None:
            self._session.verify = str(server.certificate_authority)

    def greet(self) -> None:
        self._ask("GET", self._url)

    def transform(self, rows: Rows, at: slice) -> Any:
        return self._rows("transform", rows, at)

    def predict(self, rows: Rows, at: slice) -> Any:
        return self._rows("predict_rows", rows, at)

    def gather(self, answers: Sequence[Any], like: Arrays) -> Arrays:
        rows = [row for answer in answers for row in answer]
        names = sorted({_base(name, like) for name in like})
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in names:
            try:
                # Where there is one output, it stands alone.
                values = rows if len(names) == 1 else [row[name] for row in rows]
                arrays.update(_read_output(name, values, like))
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(
                    f"server {self._server.url}: its answers for version "
                    f'{self._target.version} have no "{name}" of the model\'s type '
                    f"({type(error).__name__}: {str(error)[:100]})"
                ) from None
        return arrays

    def close(self) -> None:
        self._session.close()

    def _rows(self, signature: str, rows: Rows, at: slice) -> Any:
        head = b'{"signature_name":"%s","instances":[' % signature.encode()
        body = head + b",".join(rows.lines[at]) + b"]}"
        return self._ask("POST", f"{self._url}:predict", body)["predictions"]

    def _ask(self, method: str, url: str, body: bytes | None = None) -> Any:
        try:
            answer = self._session.request(method, url, data=body, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise RunError(
                f"server {self._server.url}: it does not answer over REST "
                f"({type(error).__name__}); start it with `skewless serve`, or correct --server"
            ) from None
        if answer.status_code != 200:
            raise RunError(f"server {self._server.url}: {_refusal(answer, self._target)}")
        try:
            # Numbers stay text: only their own type may round them.
            return json.loads(answer.content, parse_float=str)
        except ValueError:
            raise RunError(
                f"server {self._server.url}: what it answers is not JSON; expected a server of "
                "models, started with `skewless serve`"
            ) from None


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


def _base(name: str, like: Arrays) -> str:
    """Return the name of the feature that an array holds all or a half of."""
    for one, other in ((_VALUES, _LENGTHS), (_LENGTHS, _VALUES)):
        base = name.removesuffix(one)
        if base != name and base + other in like:
            return base
    return name


def _read_output(name: str, values: list[Any], like: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return an output as arrays, of the types that they have in `like`."""
    if name in like:
        return {name: _read_values(values, like[name])}
    lengths = np.array([len(one) for one in values], np.int64)
    flat = [value for one in values for value in one]
    return {
        name + _VALUES: _read_values(flat, like[name + _VALUES]),
        name + _LENGTHS: lengths,
    }


def _read_values(values: list[Any], like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array: npt.NDArray[Any]
    if like.dtype == object:
        return np.array(_read_bytes(values), object)
    if like.dtype.kind != "f":
        return np.array(values, like.dtype)
    texts = np.array(values, str)
    # Rounded once, from decimals to the very type; NumPy and Python make float64 of them first.
    numbers = pa.array(texts.ravel()).cast(pa.from_numpy_dtype(like.dtype))
    array = numbers.to_numpy(zero_copy_only=False).reshape(texts.shape)
    if array.shape == like.shape and np.isnan(array).any():
        # In JSON, one NaN is as any other.
        array = np.where(np.isnan(array) & np.isnan(like), like, array)
    return array


def _read_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_read_bytes(one) for one in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()
