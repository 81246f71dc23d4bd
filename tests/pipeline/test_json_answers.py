import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.models.serving.requests import Answer
from skewless.models.serving.rest_json import write_predictions
from skewless.pipeline.json_answers import UnlikeError, read_answer, read_rows

floats = st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32))
ROW = st.fixed_dictionaries(
    {
        "one": floats,
        "two": st.tuples(floats, floats),
        "n": st.integers(-(2**63), 2**63 - 1),
        "text": st.binary(max_size=4),
        "words": st.lists(st.text(max_size=3).map(str.encode), max_size=3),
        "list": st.lists(floats, max_size=3),
    }
)


def objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def outputs(rows: list) -> dict:
    def ragged(name, dtype):
        flat = [value for row in rows for value in row[name]]
        lengths = np.array([len(row[name]) for row in rows], np.int64)
        values = objects(flat) if dtype is object else np.array(flat, dtype)
        return {f"{name}/values": values, f"{name}/row_lengths": lengths}

    return {
        "one": np.array([row["one"] for row in rows], np.float32),
        "two": np.array([row["two"] for row in rows], np.float32),
        "n": np.array([row["n"] for row in rows], np.int64),
        "text": objects([row["text"] for row in rows]),
        **ragged("words", object),
        **ragged("list", np.float32),
    }


@given(st.lists(ROW, min_size=1, max_size=5), st.integers(1, 5))
def test_what_a_server_writes_comes_back_to_the_bit(rows, size):
    expected = outputs(rows)
    answers = []
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        answer = Answer(outputs(part), len(part), 1, "transform")
        answers += read_answer(write_predictions(answer, columnar=False))
    found = read_rows(answers, expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        same = array.tolist() if array.dtype == object else array.tobytes()
        assert same == (found[name].tolist() if array.dtype == object else found[name].tobytes())


def test_decimals_are_rounded_once():
    # Just above the middle between 1 and the next float32, and the middle itself in float64.
    text = "1.00000005960464477540"
    (found,) = read_rows([text], {"x": np.zeros(1, np.float32)})["x"]
    assert np.float32(float(text)) == 1
    assert found == np.nextafter(np.float32(1), np.float32(2))


def test_a_nan_is_as_any_other_but_no_number():
    other = np.array([0xFFC00001, 0], np.uint32).view(np.float32)
    rows = read_answer(b'{"predictions":[NaN,NaN]}')
    found = read_rows(rows, {"x": other})["x"].view(np.uint32).tolist()
    assert found[0] == 0xFFC00001
    assert found[1] != 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"outputs": [1]}', b'{"error": "x"}'])
def test_what_is_no_answer_is_said(body):
    with pytest.raises(UnlikeError, match="something else than predictions"):
        read_answer(body)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"y": 1}, "x"),
        ({"x": None, "y": 1}, "x"),
        ({"x": "0.5", "y": "1.5"}, "y"),
        ({"x": {}, "y": 1}, "x"),
        (3, "x"),
    ],
)
def test_an_output_of_another_type_is_named(row, name):
    like = {"x": np.zeros(1, np.float32), "y": np.zeros(1, np.int64)}
    with pytest.raises(UnlikeError, match=re.escape(f'without the "{name}"')):
        read_rows([row], like)
