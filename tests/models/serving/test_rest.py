import asyncio
import contextlib
import http.client
import json
import logging
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from skewless.errors import RecipeError
from skewless.models.serving.limits import Limits
from skewless.models.serving.requests import Answer, Code, ServingError
from skewless.models.serving.rest import RestApp
from skewless.models.serving.rest_server import RestServer
from tests.models.serving.asked import ROWS, serialized
from tests.models.serving.test_rest_json import b64

PREDICT = "/v1/models/small:predict"


@contextlib.contextmanager
def listening(app, **options):
    server = RestServer(app, **options)
    try:
        yield server.start()
    finally:
        server.stop(1)


@pytest.fixture(scope="module")
def port(served):
    limits = Limits(body_bytes=100_000, instances=50)
    metrics = (b"up 1\n", "text/plain; version=0.0.4")
    with listening(RestApp(served, limits=limits, timeout=30, metrics=lambda: metrics)) as port:
        yield port


@pytest.fixture(scope="module")
def expected(predictor):
    values = predictor.predict_examples(serialized(ROWS))["prediction"]
    # As few digits as tell them apart.
    return [float(str(value)) for value in values]


def curl(port, path, *arguments):
    """Return the status and the body that the command prints, as the documentation calls it."""
    command = ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}", *arguments]
    url = f"http://localhost:{port}{path}"
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body)


def ask(port, path, body=None, method=None, **headers):
    """Return the response, its body read as JSON into `found`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        body = json.dumps(body)
    connection.request(method or ("GET" if body is None else "POST"), path, body, given)
    response = connection.getresponse()
    response.found = response.read()
    connection.close()
    if response.getheader("content-type") == "application/json" and response.found:
        response.found = json.loads(response.found)
    return response


def refused(port, status, line, path=PREDICT, body=None, **options):
    response = ask(port, path, body, **options)
    assert response.status == status, response.found
    assert list(response.found) == ["error"]
    assert line in response.found["error"]
    assert "\n" not in response.found["error"]
    return response


# As TensorFlow Serving's page on its REST API has it, with curl


def test_the_status_of_the_model(port):
    assert curl(port, "/v1/models/small") == (
        200,
        {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        },
    )


def test_a_predict_call_in_row_format(port, expected):
    given = json.dumps({"instances": ROWS})
    assert curl(port, PREDICT, "-d", given, "-X", "POST") == (200, {"predictions": expected})
    given = json.dumps({"instances": [b64(one) for one in serialized(ROWS)]})
    assert curl(port, PREDICT, "-d", given, "-X", "POST") == (200, {"predictions": expected})


def test_a_predict_call_in_column_format(port, expected):
    columns = {name: [row.get(name) for row in ROWS] for name in ROWS[0]}
    given = json.dumps({"signature_name": "predict_rows", "inputs": columns})
    assert curl(port, PREDICT, "-d", given, "-X", "POST") == (200, {"outputs": expected})
    examples = {"examples": [b64(one) for one in serialized(ROWS)]}
    given = json.dumps({"signature_name": "serving_default", "inputs": examples})
    assert curl(port, PREDICT, "-d", given, "-X", "POST") == (200, {"outputs": expected})


def test_a_regress_call(port, expected):
    given = json.dumps({"signature_name": "serving_default", "examples": ROWS})
    path = "/v1/models/small:regress"
    assert curl(port, path, "-d", given, "-X", "POST") == (200, {"results": expected})


def test_a_classify_call(port, expected):
    given = json.dumps({"context": {"x": 2.0}, "examples": [{"n": [1], "tags": "blue"}]})
    status, found = curl(port, "/v1/models/small/versions/1:classify", "-d", given, "-X", "POST")
    ((no, yes),) = found["results"]
    assert (status, yes) == (200, ["1", expected[2]])
    assert no == ["0", pytest.approx(1 - expected[2])]


def test_a_model_that_is_not_there(port):
    status, found = curl(port, "/v1/models/half:predict", "-d", '{"instances": [1.0, 5.0]}')
    assert (status, found) == (404, {"error": 'model "half" is not served here; "small" is'})


def test_the_metadata_of_the_model(port, served):
    status, found = curl(port, "/v1/models/small/versions/1/metadata")
    assert status == 200
    # As TensorFlow Serving does it: message by message, into a map of its own.
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    json_format.ParseDict(found["model_spec"], response.model_spec)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    json_format.ParseDict(found["metadata"]["signature_def"], signatures)
    assert (response.model_spec.name, response.model_spec.version.value) == ("small", 1)
    assert dict(signatures.signature_def) == dict(served.servable().signature_defs)
    x = found["metadata"]["signature_def"]["signature_def"]["predict_rows"]["inputs"]["x"]
    assert x["dtype"] == "DT_FLOAT"
    assert x["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


# Versions, labels and paths


def test_a_version_or_a_label_may_be_named(port, served, expected):
    body = {"instances": ROWS}
    served.set_labels({"a b": 1})
    for part in ("", "/versions/1", "/labels/a%20b"):
        for model in ("/v1/models/small", "/V1/Models/smal%6C"):
            path = model + part
            assert ask(port, f"{path}:predict", body).found == {"predictions": expected}
            status = ask(port, path).found
            message = get_model_status_pb2.GetModelStatusResponse()
            json_format.ParseDict(status, message)
            assert message.model_version_status[0].version == 1
            assert ask(port, f"{path}/metadata").found["model_spec"]["version"] == "1"
    served.set_labels({})
    for part in ("/versions/9", "/labels/a%20b"):
        for path in (f"/v1/models/small{part}", f"/v1/models/small{part}/metadata"):
            assert ask(port, path).status == 404
        refused(port, 404, "", f"/v1/models/small{part}:predict", body)
    for digits in (2**63, "9" * 5000):
        refused(port, 400, "is not an int64", f"/v1/models/small/versions/{digits}")


def test_what_is_nowhere_is_not_found(port):
    for path in (
        "/",
        "/v1",
        "/v1/models",
        "/v1/models/",
        "/v1/models/small/",
        "/v1/models/small:explain",
        "/v1/models/small/versions/x",
        "/v1/models/small/versions/1/labels/a",
        "/v1/models/small/metadata:predict",
        "/v1/models/small:predict/metadata",
        "/healthz",
        "/%00%0a",
    ):
        refused(port, 404, "there is nothing at", path)


def test_a_path_has_its_methods(port):
    for path, method, allowed in (
        (PREDICT, "GET", "POST"),
        (PREDICT, "DELETE", "POST"),
        ("/v1/models/small", "POST", "GET, HEAD"),
        ("/v1/models/small/metadata", "PUT", "GET, HEAD"),
        ("/healthz/live", "POST", "GET, HEAD"),
        ("/metrics", "POST", "GET, HEAD"),
    ):
        response = refused(port, 405, f"expected {allowed}", path, b"{}", method=method)
        assert response.getheader("allow") == allowed
    response = ask(port, "/v1/models/small", method="HEAD")
    assert (response.status, response.found) == (200, b"")


def test_health_and_metrics(port, served):
    for path in ("/healthz/live", "/healthz/ready"):
        assert ask(port, path).found == {"status": "ok"}
    response = ask(port, "/metrics")
    assert (response.status, response.found) == (200, b"up 1\n")
    assert response.getheader("content-type") == "text/plain; version=0.0.4"
    with listening(RestApp(served)) as other:
        refused(other, 404, "there is nothing at", "/metrics")


# Answers


def test_transform_answers_with_features(port, predictor):
    rows = ask(port, PREDICT, {"instances": ROWS, "signature_name": "transform"}).found
    tags = [row["tags"] for row in rows["predictions"]]
    assert [len(values) for values in tags] == [2, 0, 1]
    columns = ask(
        port,
        PREDICT,
        {
            "signature_name": "transform",
            "inputs": {name: [row.get(name) for row in ROWS] for name in ROWS[0]},
        },
    ).found["outputs"]
    assert columns["tags/row_lengths"] == [2, 0, 1]
    assert columns["tags/values"] == [one for values in tags for one in values]
    assert columns["x_scaled"] == [row["x_scaled"] for row in rows["predictions"]]
    assert columns["x_pair"] == [row["x_pair"] for row in rows["predictions"]]


def test_missing_is_null_or_left_out_or_nan(port):
    bodies = [
        b'{"instances": [{"x": 1}]}',
        b'{"instances": [{"x": 1, "o": NaN, "n": null, "carrier": "", "tags": []}]}',
        b'{"inputs": {"x": [1], "o": [NaN]}, "signature_name": "predict_rows"}',
    ]
    found = [ask(port, PREDICT, body).found for body in bodies]
    values = [one.get("predictions") or one["outputs"] for one in found]
    assert values[0] == values[1] == values[2]


def test_numbers_are_read_back_as_the_same_float32(port, predictor, raw):
    rows = raw(40, 5)
    wanted = predictor.predict(rows)["prediction"]
    given = rows.drop_columns(["late", "kind", "delay"]).to_pylist()
    found = ask(port, PREDICT, {"instances": given}).found["predictions"]
    assert np.array(found, np.float32).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "the body is not JSON"),
        (b'{"instances": [', "the body is not JSON"),
        (b"[" * 5000, "more than 64 deep"),
        ({"instances": [{}] * 51}, "has 51 instances; expected at most 50"),
        ({"instances": [{"x": "much"}]}, '"x" is much; expected a number'),
        ({"instances": [{}]}, '"x" is missing'),
        ({"instances": ["not an example"]}, "the model cannot take the inputs"),
        ({"instances": [{"x": 1}], "signature_name": "other"}, 'signature_name is "other"'),
        ({"inputs": b64(b"")}, 'input "examples" is object of shape []'),
    ],
)
def test_what_the_model_cannot_be_asked(port, body, line):
    refused(port, 400, line, body=body)


# HTTP


def test_a_large_body_is_refused_however_it_comes(port):
    line = "larger than 100000 bytes"
    refused(port, 413, line, body=b"x" * 100_001)
    refused(port, 413, line, body=iter([b"x" * 50_000] * 3), method="POST")
    # curl waits for leave to send a body of this size.
    large = json.dumps({"instances": ["x" * 2_000_000]})
    done = subprocess.run(
        ["curl", "-sS", "-d", "@-", "-w", "%{http_code}", f"http://127.0.0.1:{port}{PREDICT}"],
        input=large,
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("413")
    refused(port, 400, "the body is not JSON", body=b"x" * 100_000)


def test_a_body_may_come_in_parts(port, expected):
    parts = json.dumps({"instances": ROWS}).encode()
    pieces = iter([parts[i : i + 7] for i in range(0, len(parts), 7)])
    assert ask(port, PREDICT, pieces, "POST").found == {"predictions": expected}


def test_a_compressed_body_is_not_taken(port):
    refused(port, 415, 'Content-Encoding is "gzip"', body=b"x", Content_Encoding="gzip")
    assert ask(port, PREDICT, {"instances": ROWS}, Content_Encoding="identity").status == 200


def test_an_answer_may_be_wanted_for_so_long(port):
    body = {"instances": ROWS}
    assert ask(port, PREDICT, body, X_Request_Timeout="5").status == 200
    for wrong in ("0", "-1", "nan", "inf", "soon", ""):
        refused(port, 400, "expected seconds", body=body, X_Request_Timeout=wrong)
    refused(port, 504, "the deadline passed", body=body, X_Request_Timeout="1e-9")


def test_a_token_is_asked_for_except_for_health(served, expected):
    with listening(RestApp(served, token=" s3crét ", metrics=lambda: (b"", "text/plain"))) as port:
        body = {"instances": ROWS}
        for path in (PREDICT, "/metrics", "/v1/models/small", "/nowhere"):
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cr"}):
                given_body = body if path == PREDICT else None
                response = refused(port, 401, "Authorization", path, given_body, **given)
                assert response.getheader("www-authenticate") == "Bearer"
        for scheme in ("Bearer", "bearer"):
            right = {"Authorization": f"{scheme} s3crét".encode()}
            assert ask(port, PREDICT, body, **right).found == {"predictions": expected}
            assert ask(port, "/metrics", **right).status == 200
        assert ask(port, "/healthz/live").status == ask(port, "/healthz/ready").status == 200


def test_one_connection_serves_many_requests(port, expected):
    body = json.dumps({"instances": ROWS}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    last = b"GET /healthz/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 20) as sent, sent.makefile("rb") as got:
        sent.sendall((head.encode() + body) * 5 + last)
        found = got.read()
    assert found.count(json.dumps({"predictions": expected}, separators=(",", ":")).encode()) == 5
    assert found.endswith(b'{"status":"ok"}')


def test_requests_at_the_same_time_get_their_own_answers(port, expected):
    found = {}

    def many(i):
        found[i] = [ask(port, PREDICT, {"instances": [ROWS[i % 3]]}).found for _ in range(10)]

    threads = [threading.Thread(target=many, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [{"predictions": [expected[i % 3]]}] * 10 for i in range(6)}


# What goes wrong inside


class Standing:
    """A model that answers as it is told, once it may."""

    name, ready = "small", False

    def __init__(self, served, answer):
        self._served, self._answer = served, answer

    def servable(self, version=None, label=None):
        return self._served.servable(version, label)

    async def answer_async(self, request):
        return await self._answer(request)


def call(model, path=PREDICT, body=b'{"instances": [{"x": 1}]}'):
    """Return what is sent for one request, without a server."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST" if body else "GET", "path": path, "headers": []}
    asyncio.run(RestApp(model)(scope, receive, send))
    start, end = sent
    return start["status"], dict(start["headers"]), json.loads(end["body"])


def test_an_error_of_ours_is_logged_and_says_nothing(served, caplog):
    async def fail(request):
        raise KeyError("/secret/path")

    with caplog.at_level(logging.ERROR):
        status, _, body = call(Standing(served, fail))
    assert (status, body) == (500, {"error": "internal error"})
    assert "/secret/path" in caplog.text


def test_a_refusal_says_when_to_try_again(served):
    async def refuse(request):
        raise ServingError(Code.RESOURCE_EXHAUSTED, "too many wait", retry_after=1.2)

    status, headers, body = call(Standing(served, refuse))
    assert (status, headers[b"retry-after"]) == (503, b"2")
    assert body == {"error": "too many wait"}


def test_a_model_that_is_not_ready_is_not_asked_by_balancers(served):
    model = Standing(served, None)
    status, headers, body = call(model, "/healthz/ready", b"")
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert body == {"error": "no version of the model is available"}
    assert call(model, "/healthz/live", b"")[0] == 200


def test_classes_are_those_of_the_version_that_answered(served):
    async def newer(request):
        return Answer({"prediction": np.array([0.25], np.float32)}, 1, 1, "predict_rows")

    class Swapped(Standing):
        def servable(self, version=None, label=None):
            found = super().servable(version, label)
            if version is not None:
                return found
            other = type(found).__new__(type(found))
            other.__dict__ = found.__dict__ | {"version": 0, "class_names": ("old", "names")}
            return other

    _, _, body = call(
        Swapped(served, newer), "/v1/models/small:classify", b'{"examples": [{"x": 1}]}'
    )
    assert body == {"results": [[["0", 0.75], ["1", 0.25]]]}


def test_an_app_is_of_http_alone(served):
    with pytest.raises(RuntimeError, match="lifespan"):
        asyncio.run(RestApp(served)({"type": "lifespan"}, None, None))


def test_an_empty_token_is_no_token(served):
    with pytest.raises(RecipeError, match="token"):
        RestApp(served, token=" ")
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(RecipeError, match="timeout"):
            RestApp(served, timeout=timeout)


def test_a_server_that_stops_finishes_what_it_took(served):
    begun, may = threading.Event(), threading.Event()

    async def slowly(request):
        begun.set()
        while not may.is_set():
            await asyncio.sleep(0.01)
        return Answer({"prediction": np.array([0.5], np.float32)}, 1, 1, "predict_rows")

    for grace, status in ((10, 200), (0, 503)):
        begun.clear()
        may.clear()
        server = RestServer(RestApp(Standing(served, slowly)))
        port = server.start()
        found = []
        asker = threading.Thread(
            target=lambda: found.append(ask(port, PREDICT, {"instances": [{"x": 1}]}))  # noqa: B023
        )
        asker.start()
        assert begun.wait(10)
        if grace:
            threading.Timer(0.3, may.set).start()
        start = time.monotonic()
        server.stop(grace)
        asker.join()
        assert time.monotonic() - start < 5
        assert found[0].status == status
        with pytest.raises(OSError, match="refused"):
            ask(port, "/healthz/live")
