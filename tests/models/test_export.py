import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from skewless.arrays import raw_arrays
from skewless.errors import RecipeError
from skewless.models.export import export, versions
from skewless.models.networks import Dnn
from skewless.models.predict import Predictor
from skewless.models.serving.infra_check import answer_recorded
from skewless.models.serving.recorded import read_recorded
from skewless.parity import TransformGraph
from skewless.schema import column_names


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported["directory"])


def example(row: dict) -> bytes:
    """Return a raw row as a tf.Example, missing values left out."""
    made = tf.train.Example()
    for name, value in row.items():
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            feature = made.features.feature[name]
            if isinstance(item, str):
                feature.bytes_list.value.append(item.encode())
            elif isinstance(item, float):
                feature.float_list.value.append(item)
            else:
                feature.int64_list.value.append(item)
    return made.SerializeToString()


def test_it_answers_where_only_tensorflow_is_installed(exported, predictor, raw, tmp_path):
    rows = raw(5, 3).drop_columns(["late", "kind", "delay"])
    arrays = raw_arrays(rows, predictor.schema)
    np.savez(
        tmp_path / "rows.npz",
        **{n: a.astype("S") if a.dtype == object else a for n, a in arrays.items()},
    )
    (tmp_path / "examples").write_text(repr([example(row) for row in rows.to_pylist()]))
    code = f"""
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {{"skewless", "apache_beam", "tensorflow_transform",
                        "tfx_bsl", "tensorflow_metadata", "pyarrow"}}:
                    raise ImportError(name + " is blocked")
        sys.meta_path.insert(0, Blocked())
        import ast, json, numpy as np, tensorflow as tf
        signatures = tf.saved_model.load({exported["directory"]!r} + "/1").signatures
        examples = ast.literal_eval(open({str(tmp_path / "examples")!r}).read())
        with np.load({str(tmp_path / "rows.npz")!r}) as file:
            rows = {{name: tf.constant(file[name]) for name in file.files}}
        answers = [
            signatures["serving_default"](examples=tf.constant(examples)),
            signatures["predict_rows"](**rows),
        ]
        print(json.dumps([answer["prediction"].numpy().tolist() for answer in answers]))
    """
    code = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = predictor.predict(rows)["prediction"].tolist()
    assert json.loads(done.stdout.splitlines()[-1]) == [expected, expected]


def test_the_label_is_no_input(exported, predictor):
    loaded = tf.saved_model.load(exported["directory"] + "/1")
    _, inputs = loaded.signatures["predict_rows"].structured_input_signature
    assert set(inputs) == set(column_names(predictor.schema)) == {"x", "o", "n", "carrier", "tags"}
    assert {name: spec.shape.rank for name, spec in inputs.items()} == {
        **dict.fromkeys(["x", "o", "n", "carrier"], 1),
        "tags": 2,
    }
    _, inputs = loaded.signatures["serving_default"].structured_input_signature
    assert inputs == {"examples": tf.TensorSpec([None], tf.string, name="examples")}


def test_features_are_those_of_the_graph_to_the_last_bit(exported, predictor, raw):
    rows = raw(100, 5)
    graph = TransformGraph(exported["transform_graph"], without=(exported["label"],))
    expected = graph.from_rows(raw_arrays(rows, predictor.schema))
    tags = tf.RaggedTensor.from_sparse(expected.pop("tags"))
    expected |= {"tags/values": tags.flat_values, "tags/row_lengths": tags.row_lengths()}
    found = predictor.transform(rows)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].tobytes() == values.numpy().tobytes(), name


def test_features_and_predictions_do_not_depend_on_the_batch(predictor, raw):
    rows = raw(200, 6)
    features = predictor.transform(rows)
    whole = predictor.predict(rows)["prediction"]
    for size in (1, 7, 64):
        starts = range(0, 200, size)
        parts = [predictor.transform(rows.slice(start, size)) for start in starts]
        for name, values in features.items():
            joined = np.concatenate([part[name] for part in parts])
            assert joined.tobytes() == values.tobytes(), (name, size)
        answers = [predictor.predict(rows.slice(start, size))["prediction"] for start in starts]
        np.testing.assert_allclose(np.concatenate(answers), whole, rtol=0, atol=1e-6)


def test_further_files_lie_beside_the_model(exported):
    files = pathlib.Path(exported["directory"], "1", "assets.extra")
    assert (files / "more.json").read_bytes() == b"{}"


def test_requests_of_the_sample_are_recorded_with_their_answers(exported, predictor, raw):
    recorded = read_recorded(predictor.path)
    assert [(one.signature, len(one.outputs["prediction"])) for one in recorded] == [
        ("serving_default", 3),
        ("predict_rows", 3),
        ("serving_default", 1),
        ("predict_rows", 1),
    ]
    expected = predictor.predict(raw(3, 4))["prediction"]
    for one in recorded:
        found = one.outputs["prediction"]
        np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=1e-6)
    assert answer_recorded(predictor.path).error == ""


def test_no_rows_are_no_predictions(predictor, raw):
    assert predictor.predict(raw(1).slice(0, 0))["prediction"].shape == (0,)
    assert predictor.predict_examples([])["prediction"].shape == (0,)


def test_several_classes_have_names(make_export, raw):
    network = Dnn([8], epochs=1)
    arguments = make_export(
        "multiclass", network, class_names=["mid", "low", "high"], sample=raw(2)
    )
    predictor = Predictor(arguments["directory"])
    answer = predictor.predict(raw(3))
    assert answer["prediction"].shape == answer["classes"].shape == (3, 3)
    np.testing.assert_allclose(answer["prediction"].sum(axis=1), np.ones(3), atol=1e-6)
    assert answer["classes"].tolist() == [[b"mid", b"low", b"high"]] * 3
    assert (predictor.task, predictor.class_names) == ("multiclass", ("mid", "low", "high"))
    assert (
        read_recorded(predictor.path)[0].outputs["classes"].tolist()
        == [[*answer["classes"][0]]] * 2
    )
    with pytest.raises(RecipeError, match=r"class_names has 2 names; .* has 3 classes"):
        export(**arguments, class_names=["a", "b"])


def test_a_number_is_one_value_a_row(make_export, raw):
    arguments = make_export("regression", Dnn([8], epochs=1))
    answer = Predictor(arguments["directory"]).predict(raw(3))
    assert list(answer) == ["prediction"]
    assert (answer["prediction"].shape, answer["prediction"].dtype) == ((3,), np.float32)


def test_versions_count_up_and_can_be_written_again(exported, tmp_path):
    arguments = {**exported, "directory": str(tmp_path)}
    (tmp_path / "9" / "left").mkdir(parents=True)
    assert export(**arguments, version=9) == str(tmp_path / "9")
    assert not (tmp_path / "9" / "left").exists()
    assert export(**arguments) == str(tmp_path / "10")
    assert versions(str(tmp_path)) == [9, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "9"]
    assert Predictor(str(tmp_path)).path == str(tmp_path / "10")


def test_a_failed_export_leaves_nothing(exported, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        export(**{**exported, "directory": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_features_is_refused(exported, make_world):
    other = make_world("regression")
    arguments = {**exported, "transform_graph": other.transform_graph, "label": "x_pair"}
    with pytest.raises(RecipeError, match="expected one value in every row"):
        export(**arguments)
    arguments["label"] = "carrier"
    with pytest.raises(RecipeError, match="train again with this graph"):
        export(**arguments)
    with pytest.raises(RecipeError, match=r"gone\.keras is not a Keras model"):
        export(**{**exported, "model_path": "gone.keras"})
