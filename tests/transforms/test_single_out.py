import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.single_out import reason_of, single_out


class Picky:
    """Fails for negative numbers, and counts how often it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: pa.RecordBatch) -> list[int]:
        self.calls += 1
        values = batch.column("a").to_pylist()
        if any(value < 0 for value in values):
            raise ValueError(f"{min(values)} is negative")
        return [2 * value for value in values]


def rows(values: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"a": pa.array(values, pa.int64())})


@given(st.lists(st.integers(-2, 20), max_size=200), st.sampled_from([0, 16]))
def test_exactly_the_bad_rows_are_found_in_few_calls(values: list[int], probes: int) -> None:
    picky, bad = Picky(), [value for value in values if value < 0]
    if len(bad) == len(values) > probes > 0:
        with pytest.raises(ValueError, match="is negative"):
            single_out(picky, rows(values), ValueError, probes=probes)
        assert picky.calls == 1 + probes
        return
    done, failed = single_out(picky, rows(values), ValueError, probes=probes)
    assert [one for _, answer in done for one in answer] == [2 * v for v in values if v >= 0]
    assert [v for part, _ in done for v in part["a"].to_pylist()] == [v for v in values if v >= 0]
    assert [row["a"].to_pylist() for row, _ in failed] == [[value] for value in bad]
    assert [str(error) for _, error in failed] == [f"{value} is negative" for value in bad]
    steps = math.ceil(math.log2(max(len(values), 1)))
    assert picky.calls <= 1 + 2 * len(bad) * steps + (probes if bad else 0)


def test_a_fault_that_is_no_rows_is_raised_at_once() -> None:
    picky = Picky()
    with pytest.raises(ValueError, match="-1 is negative"):
        single_out(picky, rows([1, -1, 1, 1]), ArithmeticError)
    assert picky.calls == 1


def test_no_rows_cannot_be_at_fault() -> None:
    def fail(batch: pa.RecordBatch) -> None:
        raise ValueError("always")

    with pytest.raises(ValueError, match="always"):
        single_out(fail, rows([]), ValueError)


def test_what_an_error_says_is_one_line() -> None:
    assert reason_of(ValueError(" x is bad\n[[{{node a}}]]")) == "x is bad"
    assert reason_of(ValueError("{{function_node f}} x is bad")) == "function_node f x is bad"
    assert reason_of(MemoryError()) == "MemoryError"
