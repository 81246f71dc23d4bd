"""The serving benchmark says what it found, whom it beat, and who did not run."""

from tests.benchmarks.serving_contenders import NAIVE, OURS, PEERS
from tests.benchmarks.serving_report import PARTS, Found, figures, markdown, targets


def found(ours=500.0):
    made = Found()
    made.add("direct", {"direct": [1.0], **{part: [0.25] for part in PARTS}})
    made.add("grpc", {"one": [1.5, 1.5, 1.6], "per_second": 300.0})
    for name, speed in ((OURS.name, ours), (NAIVE.name, 100.0), (PEERS[0].name, 200.0)):
        made.add(name, {"one": [2.5], "per_second": speed, "p50": 1.0, "p99": 2.0})
    made.failures[PEERS[1].name] = "a long story\nNo module named bentoml"
    return made


def test_targets_are_met_or_not():
    said = list(targets(found()))
    assert "gRPC: 1.50 times the direct call; target at most 1.6: met" in said
    assert "REST: 2.50 times the direct call; target at most 2.0: not met" in said
    assert "5.0 times the naive server; target 3: met" in said
    assert f"2.5 times {PEERS[0].name}; target ahead: met" in said
    assert f"0.5 times {PEERS[0].name}; target ahead: not met" in list(targets(found(ours=100.0)))


def test_who_did_not_run_is_told_and_is_no_figure():
    lines = list(markdown(found()))
    assert f"- {PEERS[1].name} does not run here: No module named bentoml" in lines
    assert "| `skewless serve`, REST, a raw row | 500 | 1.0 ms | 2.0 ms | 5.0× |" in lines
    made = figures(found())
    assert {figure.suite for figure in made} == {"serving"}
    assert PEERS[1].name not in {figure.variant for figure in made}
    assert len({figure[:3] + figure[5:] for figure in made}) == len(made)


def test_rows_are_asked_as_each_server_wants_them():
    row = b'{"carrier": "UA"}'
    assert OURS.body(row) == NAIVE.body(row) == b'{"instances": [{"carrier": "UA"}]}'
    assert PEERS[0].read({"outputs": [{"data": [0.25]}]}) == 0.25
