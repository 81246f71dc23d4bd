from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import pytest

from skewless.errors import RecipeError
from skewless.pipeline.predicting import load_predictor, model_directory, predict_lines
from tests.pipeline.small_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_model(tmp_path_factory.mktemp("model"), version=9)


def test_each_line_is_answered_in_its_place(model: pathlib.Path) -> None:
    lines = [b'\xef\xbb\xbf{"x": 1}', b"", b'{"x": 2, "code": "one"}', b'{"x": "far"}', b"{}"]
    answers = [json.loads(line) for line in predict_lines(model, [*lines, b'{"x": 3}'], "in")]
    assert [answer.get("prediction") for answer in answers] == [2, None, None, None, 6]
    assert [answer.get("line") for answer in answers] == [None, 3, 4, 5, None]
    assert answers[1]["error"].endswith("StringToNumberOp could not correctly convert string: one")
    assert answers[2]["value"] == "far"
    assert "expected a value" in answers[3]["error"]


def test_a_value_that_the_graph_cannot_take_is_the_rows_fault(model: pathlib.Path) -> None:
    columns = {"x": pa.array([1], pa.float32()), "code": ["one"]}
    times = pa.array([0]).cast(pa.timestamp("s", tz="UTC"))
    rows = pa.RecordBatch.from_pydict({**columns, "at": times})
    with pytest.raises(ValueError, match=r"^StringToNumberOp could not .* one$"):
        load_predictor(str(model))(rows)
    with pytest.raises(RecipeError, match="no column"):
        load_predictor(str(model))(rows.drop_columns(["x"]))


def test_the_newest_version_is_found(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert model_directory(model) == model_directory(model / "9") == model / "9"
    for name in ("10", "11"):
        (tmp_path / "model" / name).mkdir(parents=True)
    (tmp_path / "model" / "10" / "saved_model.pb").touch()
    # A version that is being copied there has no model yet.
    assert model_directory(tmp_path / "model").name == "10"
    (tmp_path / "manifest.json").write_text("{}")
    assert model_directory(tmp_path).name == "11"
    assert model_directory(tmp_path / "gone") == tmp_path / "gone"
