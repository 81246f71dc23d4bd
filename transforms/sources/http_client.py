"""JSON over HTTP: requests that wait, retry, and tell nobody their secrets."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import json
import logging
import math
import os
import random
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import requests

from skewless.errors import DataError, RecipeError

__all__ = ["Client", "Endpoint", "Page", "names_secret", "public_url", "same_origin"]

# A wait doubles from the first to the longest; a server may ask for more, up to a limit.
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 0.5, 60.0, 900.0
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})

_FROM_ENVIRONMENT = re.compile(r"(?P<before>.*\s)?env:(?P<name>[A-Za-z_]\w*)")
_SECRET_HEADER = re.compile(r"(?i)authorization|cookie|token|secret|password|api[-_]?key")
_SECRET_PARAM = re.compile(
    r"(?i)(.*[-_])?(api[-_]?key|access[-_]?token|auth|client[-_]?secret|password|secret|signature)"
    r"|key|sig|token"
)


class Page(NamedTuple):
    """One answer: what it says, and the `rel="next"` of its Link header."""

    url: str
    body: Any
    following: str | None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What is asked of whom, and how patiently. Holds names of secrets, never their values.

    Args:
        url: Where, without the parameters.
        params: Parameters of the query; a value `env:NAME` is read from the environment.
        headers: Headers; a value `env:NAME`, or `Bearer env:NAME`, likewise.
        max_retries: How often a failed request is sent again.
        requests_per_second: The highest rate of one worker; None for as fast as can be.
        timeout: Seconds to wait for the connection, and between two pieces of an answer.
    """

    url: str
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    max_retries: int = 5
    requests_per_second: float | None = None
    timeout: float = 30.0

    @property
    def public(self) -> str:
        """The URL with the parameters that are no secrets, as rows and messages name it."""
        shown = [(name, value) for name, value in self.params if not _is_secret(value)]
        return self.url + (f"?{urllib.parse.urlencode(shown)}" if shown else "")

    def variables(self) -> list[str]:
        """Return the names of the environment variables that hold the secrets."""
        found = [_FROM_ENVIRONMENT.fullmatch(v) for _, v in (*self.params, *self.headers)]
        return [match["name"] for match in found if match]


def names_secret(kind: str, name: str, value: str) -> bool:
    """Say whether a `header` or `param` of that name holds a secret that is written out."""
    pattern = _SECRET_HEADER.search if kind == "header" else _SECRET_PARAM.fullmatch
    return bool(pattern(name)) and not _is_secret(value)


def public_url(url: str) -> str:
    """Return a URL that a server named, without user, password, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def same_origin(one: str, other: str) -> bool:
    """Say whether two URLs have one scheme, host and port, so may see the same secrets."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _is_secret(value: str) -> bool:
    return _FROM_ENVIRONMENT.fullmatch(value) is not None


class Client:
    """A connection to an endpoint, with the secrets of this process's environment.

    Raises:
        RecipeError: If an environment variable is not set.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._secrets: list[str] = []
        self._params = [(name, self._resolve(name, value)) for name, value in endpoint.params]
        self._secret_params = [
            (name, found)
            for (name, found), (_, value) in zip(self._params, endpoint.params, strict=True)
            if _is_secret(value)
        ]
        self._session = requests.Session()
        self._session.auth = _keep_headers  # or a .netrc would replace them
        self._session.headers["Accept"] = "application/json"
        for name, value in endpoint.headers:
            self._session.headers[name] = self._resolve(name, value)
        self._next_request = 0.0

    def __enter__(self) -> Client:
        """Return the client, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._session.close()

    def _resolve(self, name: str, value: str) -> str:
        match = _FROM_ENVIRONMENT.fullmatch(value)
        if match is None:
            return value
        found = os.environ.get(match["name"])
        if not found:
            raise RecipeError(
                f'{self._endpoint.public}: "{name}" is to come from the environment variable '
                f"{match['name']}, which is not set here; set it, on the workers too"
            )
        if "\n" in found or "\r" in found:
            raise RecipeError(
                f"{self._endpoint.public}: the environment variable {match['name']} holds a "
                'line break, which no header may; remove it, as in "$(cat token.txt)"'
            )
        self._secrets += [found, urllib.parse.quote(found), urllib.parse.quote_plus(found)]
        return (match["before"] or "") + found

    def get(self, more: Mapping[str, str], url: str | None = None) -> Page:
        """Return one page.

        Args:
            more: Further parameters of the query.
            url: Where instead of the endpoint: a whole URL that the last page named.

        Raises:
            DataError: If there is no answer after all retries, it is no JSON, or is refused.
        """
        given = self._params
        if url:  # it has the parameters, but often not the secrets among them
            there = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
            given = [p for p in self._secret_params if p[0] not in there]
        params = [p for p in given if p[0] not in more] + [*more.items()]
        shown = public_url(url) if url else self._endpoint.public
        for attempt in range(self._endpoint.max_retries + 1):
            self._keep_rate()
            problem, asked, page = self._try(url or self._endpoint.url, params, shown)
            if page is not None:
                return page
            if attempt < self._endpoint.max_retries:
                time.sleep(max(asked, _backoff(attempt)))
        raise DataError(
            f"{shown}: {problem}, after {self._endpoint.max_retries + 1} attempts; "
            "try again later, or raise max_retries="
        )

    def _keep_rate(self) -> None:
        rate = self._endpoint.requests_per_second
        if rate is not None:
            time.sleep(max(0.0, self._next_request - time.monotonic()))
            self._next_request = time.monotonic() + 1 / rate

    def _try(
        self, url: str, params: list[tuple[str, str]], shown: str
    ) -> tuple[str, float, Page | None]:
        """Ask once; return what went wrong and how long to wait at least, or the page."""
        try:
            with self._quiet_log():
                answer = self._session.get(
                    url, params=params, timeout=self._endpoint.timeout, allow_redirects=False
                )
        except ValueError as error:  # among requests' own errors those of a wrong URL or header
            raise DataError(f"{shown}: {self._masked(error)}; check the URL") from None
        except requests.RequestException as error:
            return self._masked(error), 0.0, None
        if answer.status_code in _RETRIED:
            asked = _retry_after(answer.headers.get("Retry-After"))
            said = f"{answer.status_code} {answer.reason}"
            if asked > _LONGEST_ASKED:
                raise DataError(
                    f"{shown}: {said}, to be tried again in {asked:.0f} seconds; "
                    "wait, or lower requests_per_second="
                )
            return said, asked, None
        self._check_status(answer, shown)
        try:
            body = json.loads(answer.content, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            # It may be an answer cut in the middle, of a server that does not say its length.
            return f"the answer is not JSON ({type(error).__name__}: {error})", 0.0, None
        following = answer.links.get("next", {}).get("url")
        return "", 0.0, Page(shown, body, following and urllib.parse.urljoin(url, following))

    def _check_status(self, answer: requests.Response, shown: str) -> None:
        code, said = answer.status_code, f"{answer.status_code} {answer.reason}"
        if code in (401, 403):
            variables = ", ".join(self._endpoint.variables())
            repair = f"check the secret in {variables}" if variables else "give one in headers="
            raise DataError(f"{shown}: {said}; {repair}")
        if 300 <= code < 400:
            target = public_url(
                urllib.parse.urljoin(answer.url, answer.headers.get("Location", ""))
            )
            raise DataError(f"{shown}: {said} to {target}; give that URL")
        if not answer.ok:
            raise DataError(f"{shown}: {said}; check the URL and its parameters")

    def _masked(self, error: object) -> str:
        text = re.sub(r"\s+", " ", str(error))
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return f"{type(error).__name__}: {text}"

    @contextlib.contextmanager
    def _quiet_log(self) -> Iterator[None]:
        """Keep the whole URL out of the log, where urllib3 writes it for debugging."""
        if not self._secrets:
            yield
            return
        logger = logging.getLogger("urllib3.connectionpool")
        mask = _Mask(tuple(sorted(self._secrets, key=len, reverse=True)))
        logger.addFilter(mask)
        try:
            yield
        finally:
            logger.removeFilter(mask)


class _Mask(logging.Filter):
    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        record.msg, record.args = text, ()
        return True


def _keep_headers(request: Any) -> Any:
    return request


def _backoff(attempt: int) -> float:
    longest = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
    return random.uniform(longest / 2, longest)


def _retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        if then.tzinfo is None:
            then = then.replace(tzinfo=datetime.UTC)
        seconds = (then - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _finite(text: str) -> float | str:
    """Return a number of JSON; one that no float can hold as text, to be rejected."""
    value = float(text)
    return text if math.isinf(value) else value
