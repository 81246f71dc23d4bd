import re

import keras
import numpy as np
import pytest

from skewless.models.build import build, compile_model
from skewless.models.inputs import STANDARD, Scale, read_inputs, scope_name
from skewless.models.networks import Dnn, Linear, WideAndDeep

ROWS = {
    "numbers": np.ones((4, 4), np.float32),
    "ids": np.array([[0], [1], [3], [3]]),
    "list_tags": np.array([[1, 0], [2, 3], [0, 0], [3, 2]]),
}


@pytest.fixture(scope="module")
def inputs(world):
    return read_inputs(world.transform_graph, "late")


@pytest.mark.parametrize("network", [Linear(), Dnn([8]), WideAndDeep([8, 4], embedding_dim=3)])
def test_outputs_are_of_the_task(inputs, network):
    probability = build(network, inputs, "binary", 2)(ROWS).numpy()
    assert probability.shape == (4, 1)
    assert ((probability > 0) & (probability < 1)).all()
    probabilities = build(network, inputs, "multiclass", 3)(ROWS).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), np.ones(4), atol=1e-6)
    assert build(network, inputs, "regression", None)(ROWS).shape == (4, 1)


def test_a_linear_model_starts_undecided(inputs):
    assert build(Linear(), inputs, "binary", 2)(ROWS).numpy().tolist() == [[0.5]] * 4


def test_a_linear_regression_starts_at_the_mean_of_the_labels(inputs):
    model = build(Linear(), inputs, "regression", None, Scale(250_000.0, 1e5))
    assert model(ROWS).numpy().tolist() == [[250_000.0]] * 4


def test_a_regression_answers_and_measures_in_the_unit_of_the_label(inputs, tmp_path):
    scale = Scale(250_000.0, 1e5)
    model = build(Dnn([8]), inputs, "regression", None, scale)
    compile_model(model, Dnn([8]), "regression", scale)
    standard = build(Dnn([8]), inputs, "regression", None, STANDARD)
    standard.set_weights(model.get_weights())
    answer = standard(ROWS).numpy()
    np.testing.assert_allclose(model(ROWS), 250_000 + 1e5 * answer, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(ROWS), model(ROWS))
    for one in (model, again):
        found = one.evaluate(ROWS, np.full(4, 350_000.0), verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(float(np.mean((answer - 1) ** 2)), rel=1e-4)
        assert found["mae"] == pytest.approx(1e5 * float(np.mean(abs(answer - 1))), rel=1e-4)


def test_a_list_is_pooled_whatever_its_order_and_length(inputs):
    model = build(Dnn([8]), inputs, "regression", None)
    rows = {name: np.repeat(value[:1], 3, axis=0) for name, value in ROWS.items()}
    rows["list_tags"] = np.array([[2, 3, 0, 0], [3, 0, 2, 0], [2, 2, 3, 3]])
    first, second, third = model(rows).numpy()
    assert first == pytest.approx(second, abs=1e-6)
    assert first == pytest.approx(third, abs=1e-6)
    shorter = {**rows, "list_tags": rows["list_tags"][:, :3]}
    assert model(shorter).numpy()[0] == pytest.approx(first, abs=1e-6)


def test_a_saved_model_is_plain_keras(inputs, tmp_path):
    model = build(WideAndDeep([8], l2=1e-4), inputs, "binary", 2)
    compile_model(model, WideAndDeep([8]), "binary")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(ROWS), model(ROWS))
    assert {"embedding_carrier", "weight_carrier", "hidden_0"} <= {x.name for x in again.layers}


def test_any_name_of_a_feature_is_a_name_of_a_layer():
    names = ["Größe", "trip miles", "trip_miles", "a/b", "a.b", "1st", "x-y"]
    scopes = [scope_name(name) for name in names]
    assert len(set(scopes)) == len(names)
    for scope in scopes:
        assert re.fullmatch(r"[A-Za-z0-9_.\\/>-]*", scope)
