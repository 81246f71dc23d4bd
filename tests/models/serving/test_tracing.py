import http.server
import threading

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from skewless.models.serving.requests import Answer, Code, Request
from skewless.models.serving.tracing import Tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ANSWER = Answer({"prediction": np.zeros(3, np.float32)}, 3, 7, "predict_rows")


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)

    def ended():
        tracing.close()
        return exporter.get_finished_spans()

    tracing.ended = ended
    return tracing


def test_a_request_is_a_span_below_the_one_it_came_with(spans):
    spans.answered(Request(protocol="rest", trace=PARENT), ANSWER, None, 0.25)
    (span,) = spans.ended()
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.end_time - span.start_time == 250_000_000
    assert span.attributes["skewless.model.version"] == 7
    assert span.attributes["skewless.rows"] == 3


def test_a_refusal_is_an_error(spans):
    spans.answered(Request(protocol="grpc"), None, Code.INVALID_ARGUMENT, 0.001)
    spans.answered(Request(protocol="grpc", trace="no such thing"), ANSWER, None, 0.001)
    refused, answered = spans.ended()
    assert refused.attributes["error.type"] == "INVALID_ARGUMENT"
    assert not refused.status.is_ok
    assert refused.parent is answered.parent is None


def test_spans_reach_a_collector(monkeypatch):
    got = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        tracing = Tracing()
        tracing.answered(Request(protocol="rest"), ANSWER, None, 0.001)
        tracing.close()
        server.shutdown()
    (span,) = got[0].resource_spans[0].scope_spans[0].spans
    assert span.name == "skewless.serving/predict"
