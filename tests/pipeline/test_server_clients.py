import concurrent.futures
import http.server
import json
import socket
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from skewless.errors import RecipeError, RunError
from skewless.pipeline.grpc_client import make_grpc_client
from skewless.pipeline.server_clients import Rows, RunningServer, Target, make_rest_client

TARGET = Target("taxi fares", 7)
ROWS = Rows(
    [b'{"x": 1.5}', b"{}"],
    {"x": np.array([1.5, np.nan], np.float32), "word": np.array([b"a", b""], object)},
    [b"one", b"two"],
)


@pytest.fixture
def replies():
    """What the HTTP server replies, in turn; it adds what it was asked."""
    return []


@pytest.fixture
def rest(replies):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, body, self.headers["Authorization"], self.client_address))
            status, headers, reply = replies.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": len(reply), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        given = RunningServer(f"http://127.0.0.1:{server.server_port}", None, token="secret")
        client = make_rest_client(given, TARGET, 2)
        yield client, asked
        client.close()
        server.shutdown()


def test_rest_asks_the_version_over_one_connection_and_again_when_told_to(rest, replies):
    client, asked = rest
    replies += [
        (200, {}, b"{}"),
        (503, {"Retry-After": 0}, b"{}"),
        (200, {}, b'{"predictions": ["a"]}'),
    ]
    client.greet()
    assert client.transform(ROWS, slice(0, 2)) == ["a"]
    paths, bodies, tokens, addresses = zip(*asked, strict=True)
    base = "/v1/models/taxi%20fares/versions/7"
    assert list(paths) == [base, f"{base}:predict", f"{base}:predict"]
    assert json.loads(bodies[2]) == {"signature_name": "transform", "instances": [{"x": 1.5}, {}]}
    assert set(tokens) == {"Bearer secret"}
    assert len(set(addresses)) == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            (404, {}, b'{"error": "version 7 is\\nnot served"}'),
            'not serve version 7 of model "taxi fares": version 7 is not served',
        ),
        ((401, {}, b'{"error": "expected a token"}'), "it answers 401: expected a token"),
        ((500, {}, b"<html>"), "it answers 500: Internal Server Error"),
        ((200, {}, b"<html>"), "something else than predictions"),
    ],
)
def test_rest_says_in_a_line_what_went_wrong(rest, replies, reply, words):
    client, _ = rest
    replies.append(reply)
    with pytest.raises(RunError, match=words) as raised:
        client.predict(ROWS, slice(0, 1))
    assert "\n" not in str(raised.value)
    assert "127.0.0.1" in str(raised.value)


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_nobody_there_is_said_at_once(closed_port):
    server = RunningServer(f"http://127.0.0.1:{closed_port}", f"127.0.0.1:{closed_port}")
    for client in (make_rest_client(server, TARGET, 1), make_grpc_client(server, TARGET)):
        words = rf"127\.0\.0\.1:{closed_port}: it does not answer over {client.protocol} "
        with pytest.raises(RunError, match=words):
            client.greet()
        client.close()


class _Echo(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers with its inputs, the second time it is asked."""

    def __init__(self):
        self.asked = []

    def Predict(self, request, context):  # noqa: N802
        self.asked.append((request, dict(context.invocation_metadata())["authorization"]))
        if request.model_spec.version.value != TARGET.version:
            context.abort(grpc.StatusCode.NOT_FOUND, "version\nis not served")
        if len(self.asked) == 1:
            context.set_trailing_metadata([("retry-after", "0")])
            context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
        return predict_pb2.PredictResponse(outputs=request.inputs)


@pytest.fixture
def echo():
    service = _Echo()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, RunningServer("http://127.0.0.1:1", f"127.0.0.1:{port}", token="secret")
    server.stop(None).wait()


def test_grpc_asks_the_version_with_tensors_and_again_when_told_to(echo):
    service, server = echo
    client = make_grpc_client(server, TARGET)
    answers = [client.transform(ROWS, slice(0, 1)), client.transform(ROWS, slice(1, 2))]
    found = client.gather(answers, {"word": ROWS.arrays["word"], "x": ROWS.arrays["x"]})
    assert found["x"].tobytes() == ROWS.arrays["x"].tobytes()
    assert found["word"].tolist() == [b"a", b""]
    assert client.predict(ROWS, slice(0, 2))["examples"].tolist() == [b"one", b"two"]
    requests, tokens = zip(*service.asked, strict=True)
    specs = [(r.model_spec.name, r.model_spec.signature_name) for r in requests]
    assert specs == [("taxi fares", "transform")] * 3 + [("taxi fares", "serving_default")]
    assert requests[0].inputs["x"].dtype == tf.float32.as_datatype_enum
    assert set(tokens) == {"Bearer secret"}
    with pytest.raises(RunError, match='have no "y"'):
        client.gather(answers, {"y": ROWS.arrays["x"]})
    client.close()


def test_grpc_says_in_a_line_which_version_is_not_there(echo):
    _, server = echo
    client = make_grpc_client(server, Target("taxi fares", 8))
    words = 'not serve version 8 of model "taxi fares": version is not served'
    with pytest.raises(RunError, match=words):
        client.predict(ROWS, slice(0, 1))
    client.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "localhost:8501"}, 'server "localhost:8501": expected http'),
        ({"url": "http://"}, 'server "http://": expected http'),
        ({"url": "http://h:x"}, "expected http://HOST:PORT"),
        ({"url": "http://h:8501/v1/models/m"}, "expected http://HOST:PORT"),
        ({"url": "http://h", "grpc": "h"}, 'gRPC server "h": expected HOST:PORT'),
    ],
)
def test_a_wrong_address_is_named(arguments, words):
    with pytest.raises(RecipeError, match=words):
        RunningServer(**arguments)


def test_grpc_is_at_the_same_host_unless_said():
    assert RunningServer("http://h:1").grpc_address == "h:8500"
    assert RunningServer("https://[::1]:1").grpc_address == "[::1]:8500"
    assert RunningServer("http://h:1", "g:2").grpc_address == "g:2"
    assert RunningServer("http://h:1", None).grpc_address is None
