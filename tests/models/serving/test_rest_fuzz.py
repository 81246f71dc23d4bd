"""Ten thousand requests that nobody should send."""

import concurrent.futures
import json
import logging
import random
import socket
import time

import pytest

from skewless.models.serving.limits import Limits
from skewless.models.serving.rest import RestApp
from skewless.models.serving.rest_server import RestServer
from tests.models.serving.asked import ROWS, serialized
from tests.models.serving.test_rest_json import b64

REQUESTS = 10_000
SECONDS = 5.0
PREDICT = "/v1/models/small:predict"
GOOD = [
    (PREDICT, {"instances": ROWS}),
    (PREDICT, {"instances": ROWS, "signature_name": "transform"}),
    (PREDICT, {"instances": [b64(one) for one in serialized(ROWS)]}),
    (PREDICT, {"inputs": {"x": [1.5, 2], "n": [1, None], "tags": [["red"], []]}}),
    (PREDICT, {"inputs": {"examples": [b64(serialized(ROWS)[0])]}}),
    ("/v1/models/small/versions/1:classify", {"context": {"n": 1}, "examples": [{"x": 1}]}),
    ("/v1/models/small:regress", {"examples": ROWS}),
]
ODD = [
    None,
    True,
    "",
    "\0",
    "é\ud83d\ude00",
    "x" * 3000,
    0,
    -1,
    1.5,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    [],
    [[]],
    [[1], [1, 2]],
    {},
    {"b64": "?"},
    {"b64": 5},
    {"b64": "AA=="},
    {"examples": 1},
]
PATHS = [
    PREDICT,
    "/v1/models/small",
    "/v1/models/small:regress",
    "/v1/models/small/metadata",
    "/v1/models/small/versions/7:predict",
    "/v1/models/small/labels/none:classify",
    "/v1/models/other:predict",
    "/v1/models/%00%ff:predict",
    "/v1/models/small:predict?x=%",
    "//../../etc/passwd",
    "/" + "a" * 5000,
    "/healthz/ready",
    "/metrics",
    "*",
    "http://other/v1/models/small",
    "small:80",
]
METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "BREW", "post"]
HEADERS = [
    "X-Request-Timeout: soon",
    "X-Request-Timeout: -1",
    "X-Request-Timeout: 1e-9",
    "Content-Encoding: gzip",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Length: 3",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
    "Authorization: Bearer \xff",
    "Host",
    ": nothing",
    " folded: yes",
    "Nul: \0",
    "Long: " + "x" * 70_000,
]


def changed(value, dice):
    """Return a value of JSON with another in one place of it."""
    if isinstance(value, dict) and value and dice.random() < 0.8:
        name = dice.choice(list(value))
        if dice.random() < 0.1:
            return {("" if one == name else one): v for one, v in value.items()}
        return value | {name: changed(value[name], dice)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        return [*value[:at], changed(value[at], dice), *value[at + 1 :]]
    return dice.choice(ODD)


def odd_body(body, dice):
    """Return the bytes of a body that is wrong in one way or another."""
    kind = dice.randrange(9)
    text = json.dumps(changed(body, dice) if kind < 4 else body).encode()
    if kind == 4:
        return text[: dice.randrange(len(text))]
    if kind == 5:
        return dice.randbytes(dice.randrange(200))
    if kind == 6:
        marked = bytearray(text)
        for _ in range(dice.randrange(1, 6)):
            marked[dice.randrange(len(marked))] = dice.randrange(256)
        return bytes(marked)
    if kind == 7:
        deep = dice.choice([10, 63, 64, 65, 1000, 50_000])
        opened, closed = dice.choice([(b"[", b"]"), (b'{"x":', b"}"), (b'[{"instances":', b"}]")])
        inside = opened * deep + b"1" + closed * dice.choice([deep, deep - 1, 0])
        return dice.choice([inside, b'{"instances": [{"x": ' + inside + b"}]}"])
    if kind == 8:
        # Names that come twice, bytes that are no UTF-8, numbers and words that JSON has not.
        put = dice.choice(
            [
                b'"x": 1, "x": "2",',
                b'"\xc3\x28": 1,',
                b'"x": 1e999,',
                b'"x": NaN,',
                b'"instances": [],',
                b'"x": -' + b"9" * 5000 + b",",
                b'"\\ud800": 1,',
            ]
        )
        at = text.index(b"{") + 1
        return text[:at] + put + text[at:]
    return text


def odd_request(dice):
    """Return what is sent in one connection, in parts."""
    path, body = dice.choice(GOOD)
    kind = dice.randrange(10)
    sent = odd_body(body, dice) if kind < 8 else json.dumps(body).encode()
    method, headers = "POST", ["Host: x", "Connection: close"]
    if kind == 6:
        path = dice.choice(PATHS)
        method = dice.choice(["POST", *METHODS])
    if kind == 7:
        headers += dice.sample(HEADERS, dice.randrange(1, 3))
    if kind == 5:
        return [_head(method, path, [*headers, "Transfer-Encoding: chunked"]), *_chunks(sent, dice)]
    if kind == 8:
        # What follows a request in the same connection is garbage.
        first = _head(method, path, ["Host: x", f"Content-Length: {len(sent)}"]) + sent
        return [first * dice.randrange(3) + dice.randbytes(dice.randrange(1, 300)), b""]
    if kind == 9:
        whole = _head(method, path, [*headers, f"Content-Length: {len(sent)}"]) + sent
        at = dice.randrange(len(whole))
        return [whole[:at], b""] if dice.random() < 0.5 else [whole[:at], whole[at:]]
    return [_head(method, path, [*headers, f"Content-Length: {len(sent)}"]) + sent]


def _head(method, path, headers):
    return "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "\r\n"]).encode("latin-1")


def _chunks(sent, dice):
    size = dice.choice([1, 7, 4096])
    sent = sent[:2000]
    parts = [sent[i : i + size] for i in range(0, len(sent), size)]
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
    end = dice.choice([b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"zz\r\n", b"-1\r\n", b""])
    return [b"".join(chunks), end]


def exchange(port, parts):
    """Return all that comes back, after nothing more is sent."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sent:
        found = b""
        try:
            for part in parts:
                sent.sendall(part)
            if parts[-1] == b"":
                sent.shutdown(socket.SHUT_WR)
            while part := sent.recv(2**16):
                found += part
        except (ConnectionError, BrokenPipeError):
            pass  # The server refused before it had read everything.
    return found


def check(found):
    """Return the statuses of responses, each of them whole."""
    statuses = []
    while found:
        head, _, rest = found.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        if status == 100:
            found = rest
            continue
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:])}
        length = int(headers["content-length"])
        body, found = rest[:length], rest[length:]
        if body or found:
            assert len(body) == length
            assert b"\n" not in body
            assert (list(json.loads(body)) == ["error"]) == (status >= 400)
        assert status < 500 or status in (503, 504), body
        assert status != 200 or b'"error":' not in body
        statuses.append(status)
    return statuses


@pytest.mark.integration
def test_ten_thousand_malformed_requests(served, predictor, caplog):
    """No crash, no internal error, no hang; and a good request is answered as before."""
    server = RestServer(RestApp(served, limits=Limits(body_bytes=2**17), timeout=SECONDS))
    port = server.start()

    def send(seed):
        dice = random.Random(seed)
        parts = odd_request(dice)
        start = time.monotonic()
        try:
            return check(exchange(port, parts)), time.monotonic() - start
        except Exception as error:
            raise AssertionError(f"seed {seed}: {parts!r:.2000}") from error

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(send, range(REQUESTS)))
    slowest = max(seconds for _, seconds in outcomes)
    counted = {}
    for statuses, _ in outcomes:
        for status in statuses or ["closed"]:
            counted[status] = counted.get(status, 0) + 1
    assert slowest < SECONDS
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert {200, 400, 404, 405, 413, 415, 504} <= set(counted)
    good = json.dumps({"instances": ROWS}).encode()
    found = exchange(
        port,
        [
            _head("POST", PREDICT, ["Host: x", "Connection: close", f"Content-Length: {len(good)}"])
            + good
        ],
    )
    values = predictor.predict_examples(serialized(ROWS))["prediction"]
    answered = json.loads(found.partition(b"\r\n\r\n")[2])
    assert answered == {"predictions": [float(str(value)) for value in values]}
    server.stop(1)
