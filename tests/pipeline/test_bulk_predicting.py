"""Rows of files are predicted or rejected, and published all at once or not at all."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from skewless.errors import DataError, RecipeError, RunError
from skewless.pipeline.bulk_predicting import BulkPrediction, keep_columns, predict_in_bulk
from skewless.pipeline.prediction_rows import source_of
from skewless.transforms.rows import CARRIED
from skewless.transforms.sinks.rejected import read_rejected_file
from tests.pipeline.small_model import write_model

UTC = datetime.UTC


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_model(tmp_path_factory.mktemp("model"))


def write_parquet(path: pathlib.Path, count: int = 8, **changed: Any) -> pathlib.Path:
    """Write rows with more columns and other types than the model takes."""
    columns = {
        "id": pa.array([f"r{n}" for n in range(count)]).dictionary_encode(),
        "x": pa.array(np.arange(count) + 0.1, pa.float64()),
        "code": [str(n) for n in range(count)],
        "at": [datetime.datetime(2013, 1, 1, n % 24, tzinfo=UTC) for n in range(count)],
        "day": pa.array([datetime.date(2013, 1, 1)] * count),
        "prices": [[1.5, float(n)] for n in range(count)],
        **changed,
    }
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def predict(model: pathlib.Path, rows: Any, output: pathlib.Path, **options: Any) -> pa.Table:
    """Predict, and return what was written, in the order of the rows."""
    predict_in_bulk(BulkPrediction(model, source_of([str(rows)], model), output, **options))
    parts = sorted((output / "predictions").glob("part-*.parquet"))
    return pa.concat_tables(map(pq.read_table, parts)).sort_by("_offset")


def test_all_columns_are_kept_as_they_are_beside_the_predictions(model, tmp_path) -> None:
    rows = write_parquet(tmp_path / "rows.parquet")
    found = predict(model, rows, tmp_path / "out")
    was = pq.read_table(rows)
    assert found.column_names == [*was.column_names, "prediction", "_file", "_offset"]
    for name in was.column_names:
        assert found[name].to_pylist() == was[name].to_pylist()
    assert found["x"].type == pa.float64()
    wanted = [np.float32(2) * np.float32(n + 0.1) + np.float32(n) for n in range(8)]
    assert found["prediction"].to_pylist() == wanted
    assert set(found["_file"].to_pylist()) == {str(rows)}
    made = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert made["model"] == str(model / "1")
    kinds = {kind: entry["rows"] for kind, entry in made["ledger"]["rows"].items()}
    assert kinds == {"read": 8, "predicted": 8}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ledger.json", "predictions"]
    with pytest.raises(RunError, match="there is something already"):
        predict(model, rows, tmp_path / "out")
    # A run that was killed while it published is done anew.
    (tmp_path / "out" / "ledger.json").unlink()
    assert predict(model, rows, tmp_path / "out").num_rows == 8


def test_rows_that_cannot_be_predicted_are_rejected_whole(model, tmp_path) -> None:
    code = ["0", "one", None, "3", "4", "5", "", "7"]
    x = pa.array([1, 2, 3, None, 5, 6, 7, 1e300])
    rows = write_parquet(tmp_path / "rows.parquet", code=code, x=x)
    found = predict(model, rows, tmp_path / "out", max_rejected=0.5)
    assert found["id"].to_pylist() == ["r0", "r2", "r4", "r5", "r6"]
    assert found["prediction"].to_pylist() == [2, 6, 14, 17, 14]
    (file,) = (tmp_path / "out" / "rejected").glob("*.jsonl")
    rejected = sorted(read_rejected_file(file), key=lambda row: row.offset)
    assert [(row.step, row.offset, row.column) for row in rejected] == [
        ("Predict", 1, ""),
        ("Validate", 3, "x"),
        ("Parse", 7, "x"),
    ]
    assert "StringToNumberOp could not correctly convert string: one" in rejected[0].reason
    for row in rejected:
        payload = json.loads(row.payload)
        assert (payload["id"], payload["day"]) == (f"r{row.offset}", "2013-01-01")
    kinds = json.loads((tmp_path / "out" / "ledger.json").read_text())["ledger"]["rows"]
    assert {kind: entry["rows"] for kind, entry in kinds.items()} == {
        "read": 8,
        "predicted": 5,
        "rejected": 3,
    }


def test_too_many_rejected_rows_publish_nothing(model, tmp_path) -> None:
    rows = write_parquet(tmp_path / "rows.parquet", code=["one"] + ["1"] * 7)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"1 of 8 rows were rejected.*nothing was published"):
        predict(model, rows, out)
    assert [path.name for path in out.iterdir()] == [".work"]
    assert list((out / ".work" / "rejected").glob("*.jsonl"))


def test_a_model_that_fails_at_every_row_is_told_at_once(model, tmp_path) -> None:
    rows = write_parquet(tmp_path / "rows.parquet", 40, code=["one"] * 40)
    with pytest.raises(RunError, match="the model fails at every row that was tried"):
        predict(model, rows, tmp_path / "out", max_rejected=1.0)


def test_columns_are_chosen_and_outputs_named(model, tmp_path) -> None:
    write_parquet(tmp_path / "a.parquet", prediction=["old"] * 8)
    write_parquet(tmp_path / "b.parquet", prediction=["older"] * 8)
    rows, columns = tmp_path / "*.parquet", ["day", "prediction", "x"]
    found = predict(model, rows, tmp_path / "out", columns=columns, prefix="new_")
    assert found.column_names == [*columns, "new_prediction", "_file", "_offset"]
    assert found.num_rows == 16
    made = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert made["input"] == "rows"


def test_an_output_does_not_cover_up_a_column() -> None:
    columns = {"x": [1], "_file": ["f"], "_offset": [0], CARRIED: [{"y": 2}], "y": [3.0]}
    batch = pa.RecordBatch.from_pydict(columns)
    assert keep_columns(batch, ["x"]).schema.names == ["x", "y", "_file", "_offset"]
    with pytest.raises(RecipeError, match=r'a column "y", as the model calls an output.*--prefix'):
        keep_columns(batch, ["x", "y"])


def test_json_lines_in_and_out(model, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = ['{"x": 0.1, "id": {"a": [1]}}', '{"x": 2, "id": "b", "code": "3"}', '{"x": "?"}']
    rows.write_text("\n".join(lines))
    options = {"columns": ("id", "x"), "output_format": "jsonl", "max_rejected": 0.5}
    predict_in_bulk(
        BulkPrediction(model, source_of([str(rows)], model), tmp_path / "out", **options)
    )
    (part,) = (tmp_path / "out" / "predictions").glob("*")
    assert part.name == "part-00000.jsonl"
    assert [json.loads(line) for line in part.read_text().splitlines()] == [
        {"id": '{"a": [1]}', "x": 0.1, "prediction": 0.2, "_file": str(rows), "_offset": 0},
        {"id": "b", "x": 2.0, "prediction": 7.0, "_file": str(rows), "_offset": 29},
    ]


def test_csv_has_other_columns_as_text(model, tmp_path) -> None:
    (tmp_path / "rows.csv").write_text("id,x,code,at\n007,1.5,2,2013-01-01\n")
    found = predict(model, tmp_path / "rows.csv", tmp_path / "out").to_pylist()
    assert [(row["id"], row["x"], row["prediction"]) for row in found] == [("007", 1.5, 5.0)]


@pytest.mark.integration
def test_tfrecords_of_raw_examples(model, tmp_path) -> None:
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(1.5)
    with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    found = predict(model, tmp_path / "rows.tfrecord", tmp_path / "tf").to_pylist()
    assert found[0]["prediction"] == 3


def test_wrong_arguments(model, tmp_path) -> None:
    rows = write_parquet(tmp_path / "rows.parquet")
    for options, words in (
        ({"output_format": "csv"}, "expected parquet or jsonl"),
        ({"max_rejected": 1.5}, "from 0 to 1"),
    ):
        with pytest.raises(RecipeError, match=words):
            predict(model, rows, tmp_path / "out", **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(RunError, match="there is something already"):
        predict(model, rows, tmp_path / "mine")
    with pytest.raises(RecipeError, match="expected a run, a SavedModel"):
        predict(tmp_path, rows, tmp_path / "out")
    lacking = tmp_path / "lacking.parquet"
    pq.write_table(pq.read_table(rows).drop_columns(["x"]), lacking)
    with pytest.raises(RecipeError, match=r'no column "x".* have gone through the recipe'):
        predict(model, lacking, tmp_path / "out")
