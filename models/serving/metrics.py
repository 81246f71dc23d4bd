"""What a server does, as Prometheus reads it.

Numbers are kept as plain Python ones under one lock, and become metrics when they are asked
for: prometheus_client's own take a lock for each, several times the cost.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from skewless.models.serving.requests import Answer, Code, Request

__all__ = ["PREFIX", "SECONDS", "SIZES", "LogCounts", "Metrics"]

PREFIX = "skewless_serving_"
# Upper bounds of the buckets: from a small model's 0.3 ms to where nobody waits any more.
SECONDS = (
    *(0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384)


class LogCounts(Protocol):
    """A request log, as far as metrics tell of it."""

    @property
    def written(self) -> int:
        """Requests that were written to files."""

    @property
    def dropped(self) -> int:
        """Requests that were chosen and not written."""


class _Histogram:
    """How many values lie in each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, int]]:
        """Return the upper bounds, and how many values are at most as large."""
        texts = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(texts, itertools.accumulate(self.counts), strict=True))


@dataclasses.dataclass(slots=True)
class _Requests:
    """Requests that differ in nothing that is counted, and the seconds of more of them."""

    count: int
    seconds: _Histogram


class Metrics:
    """Counts and times what a server does; an `Observer`.

    Attributes:
        registry: Where the metrics are, for those who have others to add.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, str, int | None, Code | None], _Requests] = {}
        self._seconds: dict[tuple[str, str], _Histogram] = {}
        self._batch_requests = _Histogram(SIZES)
        self._batch_rows = _Histogram(SIZES)
        self._calls = _Histogram(SECONDS)
        self._reads = _Histogram(SECONDS)
        self._failed_reads = 0
        self._empty_rows = 0
        self._queued = 0
        self._states: Mapping[int, str] = {}
        self._log: LogCounts | None = None
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self))
        ProcessCollector(registry=self.registry)

    def answered(
        self, request: Request, answer: Answer | None, code: Code | None, seconds: float
    ) -> None:
        """Count a request, and note how long it took."""
        # The version that was asked for is the client's to name, and so no label.
        version = None if answer is None else answer.version
        key = (request.protocol, request.method, version, code)
        with self._lock:
            found = self._requests.get(key)
            if found is None:
                histogram = self._seconds.setdefault(key[:2], _Histogram(SECONDS))
                found = self._requests[key] = _Requests(0, histogram)
            found.count += 1
            found.seconds.add(seconds)

    def batched(self, requests: int, rows: int, seconds: float) -> None:
        """Note the size of a batch, and how long the model took."""
        with self._lock:
            self._batch_requests.add(requests)
            self._batch_rows.add(rows)
            self._calls.add(seconds)

    def queued(self, requests: int) -> None:
        """Note how many requests wait."""
        self._queued = requests

    def loaded(self, states: Mapping[int, str]) -> None:
        """Note the state of each version."""
        self._states = dict(states)

    def asked_store(self, rows: int, seconds: float, failed: bool) -> None:
        """Note a read of the online store; after one that failed the aggregates are empty."""
        with self._lock:
            self._reads.add(seconds)
            if failed:
                self._failed_reads += 1
                self._empty_rows += rows

    def watch(self, log: LogCounts) -> None:
        """Tell of a request log too: how much it wrote, and how much it had to drop."""
        self._log = log

    def exposition(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def families(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Yield what there is to tell, as prometheus_client has it."""
        with self._lock:
            yield from [*self._of_requests(), *self._of_the_model(), *self._of_the_store()]
        states = GaugeMetricFamily(
            f"{PREFIX}model_version_state",
            "The state that a version of the model is in: 1.",
            labels=["version", "state"],
        )
        for version, state in self._states.items():
            states.add_metric([str(version), state], 1)
        yield states
        if self._log is not None:
            yield CounterMetricFamily(
                f"{PREFIX}request_log_written",
                "Requests written to the request log.",
                value=self._log.written,
            )
            yield CounterMetricFamily(
                f"{PREFIX}request_log_dropped",
                "Requests chosen for the request log and not written.",
                value=self._log.dropped,
            )

    def _of_requests(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        counts = CounterMetricFamily(
            f"{PREFIX}requests",
            "Requests, by the version that answered (none where it is empty) and gRPC's code.",
            labels=["protocol", "method", "version", "code"],
        )
        for (protocol, method, version, code), found in self._requests.items():
            labels = [protocol, method, "" if version is None else str(version)]
            counts.add_metric([*labels, "OK" if code is None else code.name], found.count)
        yield counts
        seconds = HistogramMetricFamily(
            f"{PREFIX}request_duration_seconds",
            "How long a request took, without the reading and writing of its protocol.",
            labels=["protocol", "method"],
        )
        for key, histogram in self._seconds.items():
            seconds.add_metric(list(key), histogram.buckets(), histogram.total)
        yield seconds

    def _of_the_model(self) -> Iterator[GaugeMetricFamily | HistogramMetricFamily]:
        yield GaugeMetricFamily(
            f"{PREFIX}queued_requests", "Requests that wait for the model.", value=self._queued
        )
        yield _histogram("batch_requests", "Requests in a call of the model.", self._batch_requests)
        yield _histogram("batch_rows", "Rows in a call of the model.", self._batch_rows)
        yield _histogram(
            "model_call_duration_seconds", "How long a call of the model took.", self._calls
        )

    def _of_the_store(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        yield _histogram(
            "store_read_duration_seconds", "How long a read of the online store took.", self._reads
        )
        yield CounterMetricFamily(
            f"{PREFIX}store_read_failures",
            "Reads of the online store that failed.",
            value=self._failed_reads,
        )
        yield CounterMetricFamily(
            f"{PREFIX}empty_aggregate_rows",
            "Rows whose aggregates are empty because the online store could not be read.",
            value=self._empty_rows,
        )


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        return self._metrics.families()


def _histogram(name: str, help_: str, histogram: _Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        f"{PREFIX}{name}", help_, buckets=histogram.buckets(), sum_value=histogram.total
    )
