"""OpenTelemetry traces of what a server does. The only place that knows the package."""

from __future__ import annotations

import importlib.util
import time

from skewless.errors import RecipeError
from skewless.models.serving.observer import Quiet
from skewless.models.serving.requests import Answer, Code, Request

if importlib.util.find_spec("opentelemetry.sdk") is None:
    raise RecipeError(
        "traces: the package opentelemetry-sdk is missing; pip install 'skewless[telemetry]'"
    )

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["Tracing"]


class Tracing(Quiet):
    """Makes a span of each request, below the one that it came with; an `Observer`.

    Args:
        exporter: Where spans go; None for OTLP over HTTP, as the variables OTEL_* say.

    Raises:
        RecipeError: If there is no such exporter installed.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        resource = Resource.create({"service.name": "skewless"})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _otlp()))
        self._tracer = self._provider.get_tracer("skewless")
        self._propagator = TraceContextTextMapPropagator()

    def answered(
        self, request: Request, answer: Answer | None, code: Code | None, seconds: float
    ) -> None:
        """Make a span of a request, which ends now."""
        end = time.time_ns()
        parent = self._propagator.extract({"traceparent": request.trace}) if request.trace else None
        span = self._tracer.start_span(
            f"skewless.serving/{request.method}",
            parent,
            SpanKind.SERVER,
            attributes={"rpc.system": request.protocol, "rpc.method": request.method},
            start_time=end - round(seconds * 1e9),
        )
        if answer is not None:
            span.set_attribute("skewless.model.version", answer.version)
            span.set_attribute("skewless.signature", answer.signature)
            span.set_attribute("skewless.rows", answer.rows)
        if code is not None:
            span.set_attribute("error.type", code.name)
            span.set_status(Status(StatusCode.ERROR, code.name))
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _otlp() -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise RecipeError(
            "traces: the package opentelemetry-exporter-otlp-proto-http is missing; "
            "pip install 'skewless[telemetry]'"
        ) from None
    return OTLPSpanExporter()
