"""A server answers right under load, while its versions and its store come and go."""

import pytest

from tests.benchmarks.serving_soak import Plan, Result, soak


def test_what_happens_when():
    plan = Plan(seconds=60, swap=20, restarts=2, away=2)
    stops = [(20, "stop"), (22, "start"), (40, "stop"), (42, "start")]
    assert plan.events() == sorted([(20, "swap"), (40, "swap"), *stops])


def test_memory_is_compared_by_thirds():
    assert Result(memory=[1.0, 9.0, 2.0, 2.0, 3.0, 5.0]).grown == 2


@pytest.mark.integration
def test_no_answer_is_wrong_and_no_request_fails(tmp_path):
    result = soak(tmp_path, Plan(seconds=30, share=0.5, measure=3, swap=10, restarts=1, every=10))
    assert result.counts["wrong"] == result.counts["failed"] == 0
    assert result.counts["right"] > 300
    assert result.errors == []
    assert "the store is away" in result.refused
    # The last one may still be being loaded.
    assert {1, 2} <= result.versions <= {1, 2, 3}
