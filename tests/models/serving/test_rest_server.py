import http.client
import json
import logging
import socket
import ssl
import struct

import pytest

from skewless.errors import RecipeError, RunError
from skewless.models.serving import rest_server
from skewless.models.serving.rest import RestApp
from skewless.models.serving.rest_server import RestServer
from tests.models.serving.asked import ROWS, serialized
from tests.models.serving.certificates import certificate


@pytest.fixture(scope="module")
def port(served):
    server = RestServer(RestApp(served))
    yield server.start()
    server.stop(1)


@pytest.fixture(scope="module")
def expected(predictor):
    values = predictor.predict_examples(serialized(ROWS))["prediction"]
    return [float(str(value)) for value in values]


def exchange(port, *parts):
    """Return the status and the error of what comes back for bytes that are sent."""
    with socket.create_connection(("127.0.0.1", port), 10) as sent, sent.makefile("rb") as got:
        for part in parts:
            sent.sendall(part)
        found = got.read()
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def test_what_is_no_http_is_refused_as_json(port):
    assert exchange(port, b"\x16\x03\x01\x00\xa5\r\n\r\n")[0] == 400
    assert exchange(port, b"GET / HTTP/9.9\r\n\r\n")[0] == 400
    assert exchange(port, b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 400
    assert exchange(port, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 400
    assert exchange(port, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[0] in (
        400,
        404,
    )


def test_who_sends_garbage_or_goes_away_is_nobodys_error(port, expected, caplog):
    body = json.dumps({"instances": ROWS}).encode()
    head = b"POST /v1/models/small:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    good = head % len(body) + body
    for _ in range(30):
        assert exchange(port, good * 2 + b"\0\0")[0] == 400
        for sent in (good, good[:-5], good * 3):
            gone = socket.create_connection(("127.0.0.1", port), 10)
            gone.sendall(sent)
            # Gone at once, not when all was sent.
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/models/small:predict", body)
    assert json.loads(connection.getresponse().read()) == {"predictions": expected}
    connection.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_headers_without_end_are_refused(port):
    endless = [b"GET / HTTP/1.1\r\n"] + [b"a: %s\r\n" % (b"x" * 5000)] * 100
    # The server closes while the client still sends.
    with socket.create_connection(("127.0.0.1", port), 10) as sent:
        try:
            for part in endless:
                sent.sendall(part)
            found = sent.recv(100)
        except ConnectionError:
            found = b""
    assert found == b"" or found.startswith(b"HTTP/1.1 431")


def test_who_is_silent_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(rest_server, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(rest_server, "_HEADER_SECONDS", 0.1)
    monkeypatch.setattr(rest_server, "_BODY_SECONDS", 0.1)
    monkeypatch.setattr(rest_server, "_KEEP_ALIVE_SECONDS", 0.1)
    server = RestServer(RestApp(served))
    port = server.start()
    head = b"POST /v1/models/small:predict HTTP/1.1\r\nHost: x\r\n"
    for parts in ([b""], [b"POST "], [head]):
        assert exchange(port, *parts) == (408, "the headers did not arrive in time")
    for parts in (
        [head, b"Content-Length: 9\r\n\r\n{"],
        [head, b"Transfer-Encoding: chunked\r\n\r\n"],
    ):
        assert exchange(port, *parts) == (408, "the body did not arrive in time")
    with socket.create_connection(("127.0.0.1", port), 10) as sent, sent.makefile("rb") as got:
        sent.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert got.read().endswith(b'{"status":"ok"}')
    server.stop(1)


def test_https(served, tmp_path):
    cert, key = certificate(tmp_path)
    server = RestServer(RestApp(served), certfile=cert, keyfile=key)
    port = server.start()
    trusted = ssl.create_default_context(cafile=cert)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusted)
    connection.request("GET", "/healthz/ready")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    server.stop(1)


def test_a_certificate_that_is_none_is_said(served, tmp_path):
    wrong = tmp_path / "cert.pem"
    wrong.write_text("nothing\n")
    for path in (wrong, tmp_path / "gone.pem"):
        with pytest.raises(RecipeError, match=r"certificate .*\.pem.* cannot be used"):
            RestServer(RestApp(served), certfile=str(path), keyfile=str(path)).start()


def test_an_address_that_cannot_be_listened_on_is_said(served, port):
    for host, wanted in (("127.0.0.1", port), ("192.0.2.1", 0), ("no such host", 0)):
        with pytest.raises(RunError, match=f"cannot listen on {host}:{wanted}"):
            RestServer(RestApp(served), host, wanted).start()


def test_ipv6(served):
    server = RestServer(RestApp(served), "::1")
    try:
        port = server.start()
    except RunError:
        pytest.skip("this machine has no IPv6")
    connection = http.client.HTTPConnection("::1", port, timeout=10)
    connection.request("GET", "/healthz/live")
    assert connection.getresponse().status == 200
    connection.close()
    server.stop(1)


def test_a_server_that_was_not_started_can_be_stopped(served):
    RestServer(RestApp(served)).stop()
