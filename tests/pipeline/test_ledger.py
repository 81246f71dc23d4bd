import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import RunError
from skewless.pipeline.ledger import DROPPED, Ledger

KINDS = ("written", "joined", *DROPPED)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**9)), max_size=20))
def test_adds_up_exactly_when_every_row_is_somewhere(parts: list[tuple[str, int]]) -> None:
    entries = [("a", kind, "Step", rows) for kind, rows in parts]
    read = sum(rows for _, rows in parts)
    Ledger.of([("a", "read", "Read", read), *entries]).check()
    with pytest.raises(RunError, match=r"does not add up"):
        Ledger.of([("a", "read", "Read", read + 1), *entries]).check()


def test_json_round_trip() -> None:
    ledger = Ledger.of(
        [("a", "read", "Read", 3), ("a", "written", "train", 2), ("a", "rejected", "Parse", 1)]
    )
    assert Ledger.from_json(ledger.to_json()) == ledger
    assert ledger.to_json()["a"]["rejected"] == {"rows": 1, "steps": {"Parse": 1}}


def test_error_names_input_and_numbers_and_pickles() -> None:
    with pytest.raises(RunError) as caught:
        Ledger.of([("flights", "read", "Read", 5), ("flights", "written", "train", 2)]).check()
    assert "5 read" in str(caught.value)
    assert "2 written" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
