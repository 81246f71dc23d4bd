"""A local server that misbehaves on purpose, and what is made of it."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import pickle
import socket
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that

from skewless.errors import DataError, RecipeError
from skewless.schema import column_names, make_feature, make_schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sources import http_client
from skewless.transforms.sources.http import ReadHttp
from skewless.transforms.sources.http_pages import Cursor, LinkHeader, PageNumber, plan_pages
from tests.transforms.sources.sent_pipeline import sent

SECRET = "s3cr3t/+ token"
SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("s", pa.string(), required=False),
    ]
)


class Asked(NamedTuple):
    path: str
    params: dict[str, str]
    headers: dict[str, str]


class Answer(NamedTuple):
    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = {}
    cut_at: int | None = None
    drop: bool = False
    hide_length: bool = False


class Server:
    """Answers each request by `answer(asked)`, and remembers what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Answer] = lambda asked: Answer([])


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            params = dict(urllib.parse.parse_qsl(parts.query))
            asked = Asked(parts.path, params, dict(self.headers))
            there.asked.append(asked)
            answer = there.answer(asked)
            if answer.drop:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = (
                answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not answer.hide_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: answer.cut_at])

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        there = Server(f"http://127.0.0.1:{httpd.server_port}/v1/flights")
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield there
        httpd.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Do not wait; give how long it would have been."""
    found: list[float] = []
    monkeypatch.setattr(http_client.time, "sleep", found.append)
    return found


def rows(source: ReadHttp) -> list[dict[str, Any]]:
    """Read all pieces of a source that has one."""
    (piece,) = _pieces(source)
    outcomes = source.reader().read(piece, source.raw_schema())
    return [row for outcome in outcomes for row in outcome.kept.to_pylist()]


def _pieces(source: ReadHttp) -> list[Any]:
    return list(plan_pages(source.reader()))


def records(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"n": n, "s": f"row {n}"} for n in range(start, stop)]


def test_pages_by_number_in_a_pipeline(server: Server) -> None:
    pages = {"1": records(0, 3), "2": [{"n": "bad"}, 7], "3": records(5, 6)}
    server.answer = lambda asked: Answer({"data": {"items": pages.get(asked.params["page"], [])}})
    source = ReadHttp(
        server.url,
        schema=SCHEMA,
        records="data.items",
        pagination=PageNumber(size=3),
        params={"origin": "JFK", "delayed": True},
    )
    origin = f"{server.url}?origin=JFK&delayed=true"

    def check_rows(batches: list[pa.RecordBatch]) -> None:
        found = sorted((r for b in batches for r in b.to_pylist()), key=lambda r: r[OFFSET])
        assert [(r["n"], r[OFFSET]) for r in found] == [(0, 0), (1, 1), (2, 2), (5, 5)]
        assert {r[FILE] for r in found} == {origin}

    def check_rejected(found: list[Any]) -> None:
        found = sorted(found, key=lambda row: row.offset)
        assert [(row.offset, row.column, row.payload) for row in found] == [
            (3, "n", b'{"n":"bad"}'),
            (4, "", b"7"),
        ]

    def check_counts(counts: list[Any]) -> None:
        assert sum(count.n for count in counts) == 6

    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | source
        assert_that(result.rows, check_rows, label="rows")
        assert_that(result.rejected[0], check_rejected, label="rejected")
        assert_that(result.counts[0], check_counts, label="counts")
    asked = [a.params for a in server.asked]
    assert asked[0] == {"origin": "JFK", "delayed": "true", "page": "1", "per_page": "3"}
    assert [params["page"] for params in asked] == ["1", "1", "2", "3", "4"]


def test_ranges_of_pages_where_the_total_is_known(server: Server) -> None:
    def answer(asked: Asked) -> Answer:
        page = int(asked.params["p"])
        return Answer({"items": records(page * 2, min(page * 2 + 2, 9)), "meta": {"pages": 5}})

    server.answer = answer
    source = ReadHttp(
        server.url,
        schema=SCHEMA,
        records="items",
        pagination=PageNumber("p", first=0, size=2, total="meta.pages", workers=2),
    )
    pieces = _pieces(source)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 2), (2, 5)]
    found = [
        row
        for piece in pieces
        for outcome in source.reader().read(piece, SCHEMA)
        for row in outcome.kept.to_pylist()
    ]
    assert [(row["n"], row[OFFSET]) for row in found] == [(n, n) for n in range(9)]
    assert source.fingerprint()[0]["pages"] == "5"


@pytest.mark.parametrize("whole", [False, True])
def test_cursors(server: Server, whole: bool) -> None:
    def answer(asked: Asked) -> Answer:
        at = int(asked.params.get("after", 0))
        following = f"{server.url}?after={at + 1}" if whole else str(at + 1)
        items = records(at * 2, at * 2 + 2)
        return Answer({"items": items, "meta": {"next": following if at < 2 else None}})

    server.answer = answer
    source = ReadHttp(
        server.url, schema=SCHEMA, records="items", pagination=Cursor("after", at="meta.next")
    )
    assert [(row["n"], row[OFFSET]) for row in rows(source)] == [(n, n) for n in range(6)]


def test_link_headers_and_secret_parameters(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", SECRET)

    def answer(asked: Asked) -> Answer:
        assert asked.params["api_key"] == SECRET
        at = int(asked.params.get("at", 0))
        link = {"Link": f'</v1/flights?at={at + 1}>; rel="next", <x>; rel="last"'} if at < 2 else {}
        return Answer(records(at, at + 1), headers=link)

    server.answer = answer
    source = ReadHttp(
        server.url, schema=SCHEMA, pagination=LinkHeader(), params={"api_key": "env:API_KEY"}
    )
    assert [row["n"] for row in rows(source)] == [0, 1, 2]


def test_what_fails_for_a_while_is_tried_again(server: Server, waits: list[float]) -> None:
    whole = json.dumps(records(0, 2)).encode()
    answers = [
        Answer({}, 429, {"Retry-After": "7"}),
        Answer({}, 500),
        Answer(drop=True),
        Answer(whole, cut_at=9),
        Answer(whole, cut_at=9, hide_length=True),
        Answer({}, 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Answer(whole),
    ]
    server.answer = lambda asked: answers[len(server.asked) - 1]
    assert [row["n"] for row in rows(ReadHttp(server.url, schema=SCHEMA, max_retries=6))] == [0, 1]
    assert waits[0] == 7
    assert [0.25 * 2**i <= waits[i] <= 0.5 * 2**i for i in range(1, 6)] == [True] * 5


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer({}, 500), "500 Internal Server Error, after 3 attempts"),
        (Answer(drop=True), "ConnectionError: .*, after 3 attempts"),
        (Answer(b"<html>"), r"not JSON \(JSONDecodeError: .*, after 3 attempts"),
        (Answer({}, 401), r"401 Unauthorized; check the secret in API_TOKEN"),
        (Answer({}, 404), "404 Not Found; check the URL"),
        (Answer({}, 429, {"Retry-After": "86400"}), "tried again in 86400 seconds"),
        (
            Answer({}, 302, {"Location": "https://b.example/x?t=1"}),
            "302 Found to https://b.example/x;",
        ),
        (Answer({"item": []}), 'records="items" has no "items" in the answer; there is item'),
        (Answer({"items": {}}), 'records="items" is a dict; expected the path of a list'),
        (Answer([]), 'records="items" has no "items" in the answer; there is no object'),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line_without_the_secret(
    server: Server,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
    message: str,
) -> None:
    monkeypatch.setenv("API_TOKEN", SECRET)
    monkeypatch.setenv("API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    server.answer = lambda asked: answer
    source = ReadHttp(
        server.url,
        schema=SCHEMA,
        records="items",
        params={"key": "env:API_KEY"} if answer.status != 401 else {},
        headers={"Authorization": "Bearer env:API_TOKEN"},
        max_retries=2,
    )
    with pytest.raises(DataError, match=message) as raised:
        _ = beam.Pipeline("FnApiRunner") | source
    assert "\n" not in str(raised.value)
    assert server.asked[0].headers["Authorization"] == f"Bearer {SECRET}"
    told = [
        "".join(traceback.format_exception(raised.value)),
        caplog.text,
        repr(source.__dict__),
        repr(source.reader()),
        pickle.dumps(source.reader()).decode("latin-1"),
    ]
    for text in told:
        assert SECRET not in text
        assert urllib.parse.quote_plus(SECRET) not in text
    assert answer.drop or "GET /v1/flights" in caplog.text  # which urllib3 writes at an answer


def test_the_secret_is_in_no_pipeline_row_log_or_fingerprint(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eager: Any,
) -> None:
    monkeypatch.setenv("API_TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    server.answer = lambda asked: Answer([{"n": 1}, {"n": "bad"}])

    def source() -> ReadHttp:
        return ReadHttp(
            server.url,
            schema=SCHEMA,
            params={"key": "env:API_TOKEN"},
            headers={"Authorization": "Bearer env:API_TOKEN"},
        )

    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | source()
    packed = sent(pipeline)
    assert b"env:API_TOKEN" in packed
    result = eager(lambda p: p | source())
    assert (len(result.rows), len(result.rejected)) == (1, 1)
    told = [packed, pickle.dumps([source().fingerprint(), result.rows, result.rejected])]
    told.append(caplog.text.encode())
    for secret in (SECRET, urllib.parse.quote_plus(SECRET), urllib.parse.quote(SECRET)):
        for text in told:
            assert secret.encode() not in text


def test_nobody_listens(waits: list[float]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/x"
        with pytest.raises(DataError, match=r"Connection refused.*after 2 attempts"):
            ReadHttp(url, max_retries=1).available_columns()


def test_pages_that_never_end(server: Server) -> None:
    server.answer = lambda asked: Answer({"items": records(0, 2), "next_cursor": "x"})
    numbered = ReadHttp(server.url, schema=SCHEMA, records="items", pagination=PageNumber())
    with pytest.raises(DataError, match="pages 1 and 2 have the same records"):
        rows(numbered)
    linked = with_pagination(numbered, Cursor())
    with pytest.raises(DataError, match="was read before"):
        rows(linked)
    server.answer = lambda asked: Answer({"items": [], "next_cursor": "http://b.example/?k=1"})
    with pytest.raises(DataError, match=r"on another host, http://b\.example/,"):
        rows(linked)


def with_pagination(source: ReadHttp, pagination: Any) -> ReadHttp:
    return ReadHttp(source.url, schema=source.schema, records=source.records, pagination=pagination)


def test_a_connection_lost_for_good_fails_the_run(server: Server, waits: list[float]) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(records(0, 2)) if asked.params["page"] == "1" else Answer(drop=True)

    server.answer = answer
    source = ReadHttp(server.url, schema=SCHEMA, pagination=PageNumber(), max_retries=1)
    with pytest.raises(Exception, match="after 2 attempts"), beam.Pipeline("FnApiRunner") as p:
        _ = p | source


def test_the_rate_is_kept(server: Server, waits: list[float]) -> None:
    server.answer = lambda asked: Answer(records(0, 1) if asked.params["page"] == "1" else [])
    source = ReadHttp(server.url, schema=SCHEMA, pagination=PageNumber(), requests_per_second=0.5)
    rows(source)
    assert waits[0] == 0
    assert 1 < waits[1] <= 2


def test_the_schema_is_inferred_and_the_fingerprint_tells_changes(server: Server) -> None:
    server.answer = lambda asked: Answer(records(0, 3))
    source = ReadHttp(server.url)
    schema = infer_schema(source)
    assert column_names(schema) == ["n", "s"]
    before = source.fingerprint()
    assert before == source.fingerprint()
    assert before[0]["path"] == server.url
    server.answer = lambda asked: Answer(records(0, 4))
    assert before != source.fingerprint()


def test_rejected_records_can_be_repaired(server: Server) -> None:
    server.answer = lambda asked: Answer([{"n": "x"}, {"n": 1e999}])
    source = ReadHttp(server.url, schema=SCHEMA)
    (outcome,) = source.reader().read(_pieces(source)[0], SCHEMA)
    assert [row.column for row in outcome.rejected] == ["n", "n"]
    repaired = outcome.rejected[1]._replace(payload=b'{"n": 2}')
    again = source.read_rejected([repaired], SCHEMA)
    assert again.kept.to_pylist() == [{"n": 2, "s": None, FILE: server.url, OFFSET: 1}]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReadHttp("ftp://h/x"), "expected a whole URL"),
        (lambda: ReadHttp("https://u:pw@h/x"), r'"https://h/x"\): the URL holds a user'),
        (lambda: ReadHttp("https://h/x?api_key=abc"), 'the param "api_key" holds a secret'),
        (lambda: ReadHttp("https://h", headers={"Authorization": "Bearer abc"}), "holds a secret"),
        (lambda: ReadHttp("https://h", headers={"X-Api-Key": "abc"}), "holds a secret"),
        (lambda: ReadHttp("https://h", max_retries=-1), "max_retries=-1"),
        (lambda: ReadHttp("https://h", requests_per_second=0), "requests_per_second=0"),
        (lambda: ReadHttp("https://h", timeout=0), "timeout=0"),
        (lambda: ReadHttp("https://h", pagination="page"), "expected PageNumber"),
        (lambda: ReadHttp("https://h", params=["a"]), "expected a mapping"),
        (lambda: PageNumber(size=0), "size=0"),
        (lambda: PageNumber(total="pages"), "give size="),
        (lambda: PageNumber(workers=0), "workers=0"),
        (lambda: PageNumber(param="x", size_param="x"), "two different names"),
        (lambda: Cursor(at=""), "expected two names"),
    ],
)
def test_wrong_arguments(build: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        build()
    assert "pw" not in str(raised.value)
    assert "abc" not in str(raised.value)


def test_a_missing_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_TOKEN", raising=False)
    source = ReadHttp("https://h.invalid/x", headers={"Authorization": "env:API_TOKEN"})
    with pytest.raises(RecipeError, match="environment variable API_TOKEN, which is not set"):
        source.available_columns()
    monkeypatch.setenv("API_TOKEN", "abc\n")
    with pytest.raises(RecipeError, match="line break"), contextlib.suppress(DataError):
        source.available_columns()
