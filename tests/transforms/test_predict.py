import time
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from skewless.errors import RecipeError, RunError
from skewless.transforms.predict import Predict, predict_batch, shared_model
from skewless.transforms.rows import with_origin


def load_doubler(column: str):
    def predict(batch: pa.RecordBatch):
        values = batch.column(column).to_numpy()
        if (values < 0).any():
            raise ValueError(f"{values.min()} is negative\n[[node x]]")
        if (values == 99).any():
            raise MemoryError("no memory for 99")
        return {"double": values * 2, "pair": np.stack([values, -values], axis=1)}

    return predict


def rows(*values: int) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(values, pa.int64())})
    return with_origin(batch, "in.csv", pa.array(range(0, 10 * len(values), 10)))


def test_rows_are_predicted_or_rejected(eager) -> None:
    made = [rows(1, -5, 2, -7), rows(-1), rows(3)]
    result = eager(lambda p: p | beam.Create(made) | Predict(load_doubler, ("a",)))
    found = sorted((row for b in result.rows for row in b.to_pylist()), key=lambda row: row["a"])
    assert found[1] == {"a": 2, "_file": "in.csv", "_offset": 20, "double": 4, "pair": [2, -2]}
    assert [row["a"] for row in found] == [1, 2, 3]
    rejected = sorted(result.rejected, key=lambda row: row.payload)
    assert [(row.step, row.file, row.offset, row.payload) for row in rejected] == [
        ("Predict", "in.csv", 0, b'{"a": -1}'),
        ("Predict", "in.csv", 10, b'{"a": -5}'),
        ("Predict", "in.csv", 30, b'{"a": -7}'),
    ]
    assert rejected[1].reason == "the model cannot predict this row: -5 is negative"


def test_a_failure_that_is_no_rows_fails() -> None:
    with pytest.raises(MemoryError, match="no memory"):
        predict_batch(rows(1, 99), load_doubler("a"))
    with pytest.raises(KeyError, match="b"):
        predict_batch(rows(1), load_doubler("b"))
    assert predict_batch(rows(1, 99), load_doubler("a"), row_errors=(MemoryError,)).rejected


def test_a_model_that_fails_at_all_rows_is_at_fault_itself() -> None:
    bad = rows(*[-1] * 100)
    with pytest.raises(RunError, match=r"at every row that was tried \(-1 is negative\)"):
        predict_batch(bad, load_doubler("a"), reject_all=False)
    assert len(predict_batch(bad, load_doubler("a")).rejected) == 100
    few = predict_batch(rows(*[-1] * 3), load_doubler("a"), reject_all=False)
    assert (few.kept.num_rows, len(few.rejected)) == (0, 3)


def test_a_column_of_the_name_of_an_output_is_not_covered_up() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1], "double": [0]})
    with pytest.raises(RecipeError, match="prefix="):
        predict_batch(batch, load_doubler("a"))
    named = predict_batch(batch, load_doubler("a"), prefix="model_").kept
    assert named.schema.names == ["a", "double", "model_double", "model_pair"]


def test_outputs_are_as_many_as_the_rows() -> None:
    with pytest.raises(RunError, match='gives 3 of "n" for 2 rows'):
        predict_batch(rows(1, 2), lambda batch: {"n": np.zeros(3)})


def test_outputs_of_any_shape_become_columns() -> None:
    outputs = {
        "cube": np.arange(12).reshape(2, 3, 2),
        "none": np.zeros((2, 0), np.float32),
        "names": np.array([[b"a", b"\xc3\xa6"], [b"c", b"\xff"]], object),
        "flags": np.array([True, False]),
    }
    batch = predict_batch(rows(1, 2), lambda batch: outputs).kept
    assert batch.column("cube").to_pylist() == outputs["cube"].tolist()
    assert batch.column("none").to_pylist() == [[], []]
    assert batch.column("names").to_pylist() == [["a", "æ"], ["c", "\ufffd"]]
    assert batch.column("flags").to_pylist() == [True, False]


loaded: list[str] = []


def load_slowly(name: str):
    time.sleep(0.05)
    loaded.append(name)
    if name == "gone":
        raise RecipeError("there is no such model")
    return lambda batch: {}


def test_all_threads_of_a_process_share_one_model() -> None:
    loaded.clear()
    with ThreadPoolExecutor(8) as threads:
        models = list(threads.map(lambda n: shared_model(load_slowly, (f"m{n % 2}",)), range(16)))
    assert sorted(loaded) == ["m0", "m1"]
    assert len(set(models)) == 2
    for _ in range(2):
        with pytest.raises(RecipeError):
            shared_model(load_slowly, ("gone",))
    for number in range(5):
        shared_model(load_slowly, (f"m{number}",))
    loaded.clear()
    shared_model(load_slowly, ("m4",))
    shared_model(load_slowly, ("m0",))
    assert loaded == ["m0"]
