import pathlib

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from skewless.errors import RecipeError
from skewless.models.predict import Predictor


@pytest.fixture(scope="module")
def model_dir(exported):
    return pathlib.Path(exported["directory"])


@pytest.fixture(scope="module")
def predictor(model_dir):
    return Predictor(str(model_dir))


def test_it_knows_what_it_is(predictor, model_dir):
    assert (predictor.name, predictor.task, predictor.class_names) == (
        "small",
        "binary",
        ("0", "1"),
    )
    assert predictor.path == Predictor(str(model_dir / "1")).path == str(model_dir / "1")


def test_predictions_are_probabilities_and_the_label_is_not_needed(predictor, raw):
    rows = raw(50, 2)
    answer = predictor.predict(rows.drop_columns(["late", "kind", "delay"]))["prediction"]
    assert (answer.shape, answer.dtype) == ((50,), np.float32)
    assert ((answer > 0) & (answer < 1)).all()
    np.testing.assert_array_equal(answer, predictor.predict(rows)["prediction"])


def test_all_that_may_be_missing_can_be_missing(predictor):
    columns = {"x": [0.5], "o": [None], "n": [None], "carrier": [None], "tags": [None]}
    schema = pa.schema(
        {
            "x": pa.float32(),
            "o": pa.float32(),
            "n": pa.int64(),
            "carrier": pa.string(),
            "tags": pa.list_(pa.string()),
        }
    )
    batch = pa.RecordBatch.from_pydict(columns, schema)
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(0.5)
    rows, examples = (
        predictor.predict(batch)["prediction"],
        predictor.predict_examples([example.SerializeToString()])["prediction"],
    )
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, examples)


def test_a_category_never_seen_in_training_is_unknown(predictor, raw):
    rows = raw(2)

    def with_carrier(value):
        at = rows.schema.get_field_index("carrier")
        return rows.set_column(at, "carrier", pa.array([value, value]))

    unseen, other = (predictor.transform(with_carrier(v))["carrier"] for v in ("ZZ", "Æ ✈"))
    assert unseen.tolist() == other.tolist() == [3, 3]
    assert np.isfinite(predictor.predict(with_carrier("ZZ"))["prediction"]).all()


def test_a_missing_column_is_named(predictor, raw):
    rows = raw(2).drop_columns(["carrier"])
    with pytest.raises(RecipeError, match='no column "carrier"'):
        predictor.predict(rows)


def test_examples_without_a_required_column_are_refused(predictor):
    with pytest.raises(RecipeError, match=r"Feature: x .* is required") as caught:
        predictor.predict_examples([tf.train.Example().SerializeToString()])
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="examples: not as the schema"):
        predictor.predict_examples([b"not an example"])
    with pytest.raises(RecipeError, match="one is no serialized Example"):
        predictor.predict_examples([b"\xff\xff"] * 20)


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(RecipeError, match="there is no such directory"):
        Predictor(str(tmp_path / "gone"))
    with pytest.raises(RecipeError, match="expected a SavedModel"):
        Predictor(str(tmp_path))
    (tmp_path / "3").mkdir()
    with pytest.raises(RecipeError, match="expected a SavedModel"):
        Predictor(str(tmp_path))


def test_somebody_elses_saved_model_is_said(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    with pytest.raises(RecipeError, match="was not exported by skewless"):
        Predictor(str(tmp_path))
