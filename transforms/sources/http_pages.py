"""The pages of an API: how each is asked for, and its records as typed rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema
from skewless.transforms.parse import parse_json_rows, replay_json
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.http_client import (
    Client,
    Endpoint,
    Page,
    public_url,
    same_origin,
)
from skewless.transforms.sources.json_lines import untyped_json

__all__ = ["Cursor", "HttpReader", "LinkHeader", "PageNumber", "Pages", "Pagination", "plan_pages"]

_BATCH_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class PageNumber:
    """Pages that are asked for by number.

    The last page is the one before the first empty one: a short page ends nothing, since
    servers give fewer records than they were asked for as they please.

    Args:
        param: The parameter that takes the number.
        first: The number of the first page.
        size: How many records to ask for; by default the server decides.
        size_param: The parameter that takes the size.
        total: The path in the answer of the number of pages, where it says so. With it,
            `workers` ranges of pages are read beside each other; needs `size`.
        workers: Into how many ranges to divide the pages.

    Raises:
        RecipeError: If an argument is wrong.
    """

    param: str = "page"
    first: int = 1
    size: int | None = None
    size_param: str = "per_page"
    total: str | None = None
    workers: int = 8

    def __post_init__(self) -> None:
        if not self.param or not self.size_param or self.param == self.size_param:
            raise RecipeError(
                f'PageNumber(param="{self.param}", size_param="{self.size_param}"): '
                "expected two different names"
            )
        if self.size is not None and self.size < 1:
            raise RecipeError(f"PageNumber(size={self.size}): expected at least 1")
        if self.workers < 1:
            raise RecipeError(f"PageNumber(workers={self.workers}): expected at least 1")
        if self.total is not None and self.size is None:
            raise RecipeError(
                f'PageNumber(total="{self.total}"): give size=, too, from which the records '
                "of a page are numbered"
            )

    def page(self, number: int) -> dict[str, str]:
        """Return the parameters of a page."""
        sized = {} if self.size is None else {self.size_param: str(self.size)}
        return {self.param: str(number), **sized}


@dataclasses.dataclass(frozen=True)
class Cursor:
    """Pages each of which names the next: by a token, or by its whole URL.

    Args:
        param: The parameter that takes the token.
        at: The path in the answer of the token or URL; absent, null or "" at the end.

    Raises:
        RecipeError: If an argument is empty.
    """

    param: str = "cursor"
    at: str = "next_cursor"

    def __post_init__(self) -> None:
        if not self.param or not self.at:
            raise RecipeError(
                f'Cursor(param="{self.param}", at="{self.at}"): expected two names, '
                'as in Cursor(param="cursor", at="meta.next")'
            )


@dataclasses.dataclass(frozen=True)
class LinkHeader:
    """Pages whose Link header has the URL of the next, as GitHub's do."""


Pagination: TypeAlias = PageNumber | Cursor | LinkHeader


class Pages(NamedTuple):
    """Some pages that one worker reads: all, or those of a range of numbers."""

    file: str
    start: int | None = None
    stop: int | None = None


def plan_pages(reader: HttpReader) -> Iterator[Pages]:
    """Yield the ranges of pages."""
    pages, file = reader.pagination, reader.endpoint.public
    if not isinstance(pages, PageNumber) or pages.total is None:
        yield Pages(file)
        return
    count = reader.page_count(reader.first_page())
    parts = max(1, min(pages.workers, count))
    edges = [pages.first + count * part // parts for part in range(parts + 1)]
    for start, stop in itertools.pairwise(edges):
        yield Pages(file, start, stop)


@dataclasses.dataclass(frozen=True)
class HttpReader:
    """How pages are asked for and parsed."""

    endpoint: Endpoint
    records: str
    pagination: Pagination | None

    def first_page(self) -> Page:
        """Return the first page.

        Raises:
            DataError: If it cannot be had, or has no list of records.
        """
        pages = self.pagination
        with Client(self.endpoint) as client:
            page = client.get(pages.page(pages.first) if isinstance(pages, PageNumber) else {})
        self.lines(page)
        return page

    def page_count(self, page: Page) -> int:
        """Return how many pages an answer says there are.

        Raises:
            DataError: If it does not say so.
        """
        path = getattr(self.pagination, "total", None) or ""
        count = _find(page.body, path, page.url, "total")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise DataError(
                f"{page.url}: total={path!r} is {count!r:.80}; expected a number of pages"
            )
        return count

    def lines(self, page: Page) -> list[bytes]:
        """Return the records of a page, each as one line of JSON.

        Raises:
            DataError: If the page has no list of records.
        """
        found = _find(page.body, self.records, page.url, "records")
        if not isinstance(found, list):
            raise DataError(
                f'{page.url}: records="{self.records}" is a {type(found).__name__}; expected '
                "the path of a list"
            )
        return [_line(record) for record in found]

    def _pages(self, piece: Pages) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the records of each page, and the number of the first of them."""
        with Client(self.endpoint) as client:
            if isinstance(self.pagination, PageNumber):
                yield from self._numbered(client, self.pagination, piece)
            else:
                yield from self._linked(client)

    def _numbered(
        self, client: Client, pages: PageNumber, piece: Pages
    ) -> Iterator[tuple[int, list[bytes]]]:
        at, last, size = 0, None, pages.size or 0
        start = pages.first if piece.start is None else piece.start
        for number in itertools.count(start):
            if number == piece.stop:
                return
            page = client.get(pages.page(number))
            lines = self.lines(page)
            if piece.stop is not None:
                at = (number - pages.first) * size
                if len(lines) > size:
                    raise DataError(
                        f"{page.url}: page {number} has {len(lines):,} records; expected at most "
                        f"size={size:,}, from which they are numbered"
                    )
            elif not lines:
                return
            if lines and lines == last:
                raise DataError(
                    f"{page.url}: pages {number - 1} and {number} have the same records; check "
                    f'PageNumber(param="{pages.param}")'
                )
            yield at, lines
            at, last = at + len(lines), lines

    def _linked(self, client: Client) -> Iterator[tuple[int, list[bytes]]]:
        at, url = 0, None
        more: dict[str, str] = {}
        seen: set[str] = set()
        while True:
            page = client.get(more, url)
            lines = self.lines(page)
            yield at, lines
            at += len(lines)
            following = self._following(page)
            if following is None:
                return
            if following in seen:
                raise DataError(f"{page.url}: a page names one as the next that was read before")
            seen.add(following)
            if following.startswith(("http://", "https://")):
                if not same_origin(following, self.endpoint.url):
                    raise DataError(
                        f"{page.url}: the next page is on another host, {public_url(following)}, "
                        "which is sent no secrets; give the API's own URL"
                    )
                more, url = {}, following
            elif isinstance(self.pagination, Cursor):
                more, url = {self.pagination.param: following}, None

    def _following(self, page: Page) -> str | None:
        """Return the URL or the token of the next page, or None after the last."""
        if isinstance(self.pagination, LinkHeader):
            return page.following
        if not isinstance(self.pagination, Cursor):
            return None
        value: Any = page.body
        for part in self.pagination.at.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return None if value is None or value in ("", False) else str(value)

    def read(self, piece: Pages, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of the pages, page by page."""
        for first, lines in self._pages(piece):
            for start in range(0, len(lines), _BATCH_ROWS):
                part = lines[start : start + _BATCH_ROWS]
                offsets = range(first + start, first + start + len(part))
                yield parse_json_rows(part, schema, piece.file, offsets)

    def untyped(self, piece: Pages) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the types of JSON; a column of several types as JSON text."""
        for _, lines in self._pages(piece):
            if lines:
                yield untyped_json(lines)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)


def _find(body: Any, path: str, url: str, argument: str) -> Any:
    """Return what is at a path such as `data.items`."""
    for part in path.split(".") if path else ():
        if not isinstance(body, dict) or part not in body:
            keys = ", ".join(map(str, body))[:200] if isinstance(body, dict) else "no object"
            raise DataError(
                f'{url}: {argument}="{path}" has no "{part}" in the answer; there is {keys or "{}"}'
            )
        body = body[part]
    return body


def _line(record: Any) -> bytes:
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: no text, to be rejected as such
        return json.dumps(record, separators=(",", ":")).encode()
