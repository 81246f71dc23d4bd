"""JSON over HTTP as batches of typed rows: an API's pages, one after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.sources.http_client import Endpoint, names_secret, public_url
from skewless.transforms.sources.http_pages import (
    Cursor,
    HttpReader,
    LinkHeader,
    PageNumber,
    Pages,
    Pagination,
    plan_pages,
)
from skewless.transforms.sources.source import BatchSource

__all__ = ["ReadHttp"]


@dataclasses.dataclass(eq=False)
class ReadHttp(BatchSource):
    """Read JSON records from an HTTP API, page by page.

    A request that fails with 429, 5xx or a lost connection is sent again, after a wait of half
    a second that doubles each time, or that `Retry-After` asks for. Secrets are read from the
    environment where the request is sent, and written nowhere. Redirects, and next pages on
    another host, are refused, as they would be sent the secrets.

    An API has no snapshot: what changes while its pages are read may be read twice or not
    at all. Two runs have the same input if the first page has the same records.

    Args:
        url: The address of the records; its query is taken for `params`.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the last part of the URL.
        records: The path of the list of records in an answer, e.g. `data.items`; by
            default the answer is the list.
        pagination: `PageNumber`, `Cursor` or `LinkHeader`; by default there is one page.
        params: Parameters of the query; `"env:NAME"` is read from the environment.
        headers: Headers, e.g. `{"Authorization": "Bearer env:API_TOKEN"}`.
        max_retries: How often a failed request is sent again.
        requests_per_second: The highest rate of one worker; by default as fast as can be.
        timeout: Seconds to wait for an answer to begin, and to go on.

    Returns:
        `Rows`: batches with origin columns, rejected records, and how many were read. The
        offset of a row is the number of its record, from 0.

    Raises:
        RecipeError: If an argument is wrong, or an environment variable is not set.
        DataError: If the API cannot be used.

    >>> ReadHttp("https://example.com/v1/flights?year=2013").input_name
    'flights'
    """

    url: str
    records: str = ""
    pagination: Pagination | None = None
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    max_retries: int = 5
    requests_per_second: float | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = _split(self.url)
        for argument, given in (("params", self.params), ("headers", self.headers)):
            if given is not None and not isinstance(given, Mapping):
                raise RecipeError(f"ReadHttp({argument}=...): expected a mapping of names to texts")
        params = [*urllib.parse.parse_qsl(parts.query, keep_blank_values=True)]
        params += [(name, _text(value)) for name, value in (self.params or {}).items()]
        headers = [(name, str(value)) for name, value in (self.headers or {}).items()]
        for kind, pairs in (("param", params), ("header", headers)):
            for name, value in pairs:
                if names_secret(kind, name, value):
                    raise RecipeError(
                        f'ReadHttp: the {kind} "{name}" holds a secret, which would be written '
                        f'down; put it into the environment: {{"{name}": "env:API_TOKEN"}}'
                    )
        for argument, low in (("max_retries", 0), ("timeout", 1e-3), ("requests_per_second", 1e-6)):
            value = getattr(self, argument)
            if value is not None and not value >= low:
                raise RecipeError(f"ReadHttp({argument}={value}): expected at least {low:g}")
        if self.pagination is not None and not isinstance(
            self.pagination, (PageNumber, Cursor, LinkHeader)
        ):
            raise RecipeError(
                f"ReadHttp(pagination={self.pagination!r}): expected PageNumber(), Cursor() "
                "or LinkHeader()"
            )
        self._endpoint = Endpoint(
            urllib.parse.urlunsplit(parts._replace(query="", fragment="")),
            tuple(params),
            tuple(headers),
            self.max_retries,
            self.requests_per_second,
            self.timeout,
        )

    @property
    def input_name(self) -> str:
        """The input's name in the ledger, e.g. `flights` for `https://.../v1/flights`."""
        parts = urllib.parse.urlsplit(self._endpoint.url)
        return self.name or parts.path.rstrip("/").rpartition("/")[2] or str(parts.hostname)

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages: `ReadHttp("https://...")`."""
        return f'ReadHttp("{self._endpoint.public}")'

    def reader(self) -> HttpReader:
        """Return how the pages are read."""
        return HttpReader(self._endpoint, self.records, self.pagination)

    def available_columns(self) -> tuple[str, ...]:
        """Return no names, since each record has its own; the first page must be there."""
        self.reader().first_page()
        return ()

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[Pages]:  # noqa: ARG002
        """Return all pages as one piece; ranges of them where the API says how many it has."""
        return (
            pbegin
            | "Endpoint" >> beam.Create([self.reader()])
            | "PlanPages" >> beam.FlatMap(plan_pages)
            | "Spread" >> beam.Reshuffle()
        )

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return the URL, how it is asked, and the digest of the first page's records."""
        reader = self.reader()
        page = reader.first_page()
        lines = b"\n".join(reader.lines(page))
        state = {
            "path": self._endpoint.public,
            "records": self.records,
            "digest": hashlib.sha256(lines).hexdigest(),
        }
        if isinstance(self.pagination, PageNumber) and self.pagination.total is not None:
            state["pages"] = str(reader.page_count(page))
        return [state]


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise RecipeError(
            "ReadHttp(url=...): expected a whole URL, as in https://example.com/v1/flights"
        )
    if "@" in parts.netloc:
        raise RecipeError(
            f'ReadHttp("{public_url(url)}"): the URL holds a user or password, which would be '
            'written down; give headers={"Authorization": "Basic env:CREDENTIALS"}'
        )
    return parts


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
