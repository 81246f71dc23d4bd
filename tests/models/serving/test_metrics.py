import json
import pathlib
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from skewless.models.serving.metrics import PREFIX, SECONDS, Metrics
from skewless.models.serving.requests import Answer, Code, Request

DEPLOY = pathlib.Path(__file__).parents[3] / "launch" / "deploy"
REQUEST = Request(rows=[{}], protocol="rest")
ANSWER = Answer({"prediction": np.zeros(1, np.float32)}, 1, 3, "predict_rows")


def samples(metrics):
    """What a server of Prometheus reads: values by name and labels."""
    text, content_type = metrics.exposition()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name.removeprefix(PREFIX), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def named(found, name):
    return {key[1:]: value for key, value in found.items() if key[0] == name}


def labels(**given):
    return tuple(sorted(given.items()))


def test_requests_are_counted_by_what_came_of_them():
    metrics = Metrics()
    for _ in range(2):
        metrics.answered(REQUEST, ANSWER, None, 0.001)
    metrics.answered(Request(arrays={}, protocol="grpc", method="classify"), ANSWER, None, 0.2)
    # Whatever version a client asks for, it makes no series of its own.
    for version in range(5):
        asked = Request(rows=[{}], protocol="rest", version=version)
        metrics.answered(asked, None, Code.NOT_FOUND, 0.0001)
    found = samples(metrics)
    assert named(found, "requests_total") == {
        labels(protocol="rest", method="predict", version="3", code="OK"): 2,
        labels(protocol="grpc", method="classify", version="3", code="OK"): 1,
        labels(protocol="rest", method="predict", version="", code="NOT_FOUND"): 5,
    }
    assert named(found, "request_duration_seconds_count") == {
        labels(protocol="rest", method="predict"): 7,
        labels(protocol="grpc", method="classify"): 1,
    }
    rest = found["request_duration_seconds_sum", *labels(protocol="rest", method="predict")]
    assert rest == pytest.approx(0.0025)


def test_a_value_at_a_bound_is_in_its_bucket():
    metrics = Metrics()
    for seconds in (SECONDS[0], SECONDS[0] * 1.01, 99.0):
        metrics.batched(3, 70, seconds)
    found = samples(metrics)
    buckets = named(found, "model_call_duration_seconds_bucket")
    assert [buckets[labels(le=le)] for le in ("0.0003", "0.0005", "10.0", "+Inf")] == [1, 2, 2, 3]
    assert found[("batch_requests_sum",)] == 9
    rows = named(found, "batch_rows_bucket")
    assert (rows[labels(le="64.0")], rows[labels(le="128.0")]) == (0, 3)


def test_a_store_that_does_not_answer_is_seen():
    metrics = Metrics()
    metrics.asked_store(8, 0.001, False)
    metrics.asked_store(5, 0.05, True)
    found = samples(metrics)
    assert found[("store_read_duration_seconds_count",)] == 2
    assert found[("store_read_failures_total",)] == 1
    assert found[("empty_aggregate_rows_total",)] == 5


def test_versions_have_the_state_they_are_in_now():
    metrics = Metrics()
    metrics.loaded({1: "AVAILABLE", 2: "LOADING"})
    metrics.loaded({1: "END", 2: "AVAILABLE"})
    metrics.queued(7)
    metrics.queued(4)
    found = samples(metrics)
    assert named(found, "model_version_state") == {
        labels(version="1", state="END"): 1,
        labels(version="2", state="AVAILABLE"): 1,
    }
    assert found[("queued_requests",)] == 4


def test_it_tells_of_the_process_and_of_a_request_log():
    metrics = Metrics()
    assert samples(metrics)[("process_resident_memory_bytes",)] > 0
    metrics.watch(SimpleNamespace(written=12, dropped=3))
    found = samples(metrics)
    assert found[("request_log_written_total",)] == 12
    assert found[("request_log_dropped_total",)] == 3


def test_two_servers_in_one_process_count_apart():
    one, other = Metrics(), Metrics()
    one.answered(REQUEST, ANSWER, None, 0.1)
    assert not named(samples(other), "requests_total")


def test_no_request_of_many_threads_is_lost_while_metrics_are_read():
    metrics = Metrics()

    def ask():
        for _ in range(2000):
            metrics.answered(REQUEST, ANSWER, None, 0.001)
            metrics.batched(1, 1, 0.001)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        samples(metrics)
    found = samples(metrics)
    assert list(named(found, "requests_total").values()) == [8000]
    assert found[("batch_rows_sum",)] == found[("batch_rows_count",)] == 8000


def test_a_request_costs_next_to_nothing():
    metrics, count = Metrics(), 2000
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        for _ in range(count):
            metrics.queued(1)
            metrics.asked_store(1, 0.001, False)
            metrics.batched(1, 1, 0.001)
            metrics.queued(0)
            metrics.answered(REQUEST, ANSWER, None, 0.002)
        best = min(best, (time.thread_time() - start) / count)
    assert best < 15e-6


@pytest.fixture(scope="module")
def names():
    """The names of all samples there can be."""
    metrics = Metrics()
    metrics.answered(REQUEST, ANSWER, None, 0.1)
    metrics.loaded({1: "AVAILABLE"})
    metrics.watch(SimpleNamespace(written=0, dropped=0))
    text = metrics.exposition()[0].decode()
    return {s.name for f in text_string_to_metric_families(text) for s in f.samples}


def asked_for(expression):
    return set(re.findall(rf"\b(?:{PREFIX}|process_)\w+", expression))


def test_the_dashboard_asks_for_what_there_is(names):
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert '{job=~"$job",instance=~"$instance"' in target["expr"]
            asked |= asked_for(target["expr"])
    for variable in dashboard["templating"]["list"]:
        asked |= asked_for(variable["query"])
    assert asked <= names
    assert len(asked) > 15
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_alerts_ask_for_what_there_is(names):
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    known_codes, known_states = {"OK", *Code.__members__}, {"AVAILABLE", "LOADING"}
    for rule in group["rules"]:
        assert asked_for(rule["expr"])
        assert asked_for(rule["expr"]) <= names
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
        for label, values in re.findall(r'(code|state)=~?"([A-Z_|]+)"', rule["expr"]):
            assert set(values.split("|")) <= (known_codes if label == "code" else known_states)
