import datetime
import itertools
import json
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow_model_analysis as tfma
from apache_beam.testing.util import assert_that, equal_to
from sklearn import metrics as sk
from tensorflow_model_analysis.slicer import slicer_lib

from skewless.errors import RecipeError, RunError
from skewless.transforms.evaluation.evaluate import Evaluate, join_predictions, slice_rows
from skewless.transforms.evaluation.metrics import on_grid
from skewless.transforms.evaluation.tfma_files import eval_config


def run(batches, output, task, **arguments):
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(batches, reshuffle=False)
            | Evaluate(str(output), task, **arguments)
        )
    return json.loads((pathlib.Path(output) / "metrics.json").read_text())


def rows(n=2_000, seed=0):
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.3).astype(np.float32)
    prediction = np.clip(random.normal(0.3 + 0.25 * label, 0.2), 0, 1).astype(np.float32)
    raw = pa.record_batch(
        {
            "origin": pa.array(random.choice(["EWR", "JFK", "LGA"], n)),
            "day": pa.array(random.choice([1.5, 2.0, None], n), pa.float32()),
        }
    )
    return raw, label, prediction


def cut(batch, parts):
    """Return the batch's rows in `parts` batches that do not share buffers."""
    at = np.linspace(0, batch.num_rows, parts + 1).astype(int)
    return [batch.take(list(range(a, b))) for a, b in itertools.pairwise(at)]


def assert_close(ours, expected, tolerance=1e-6):
    assert ours == pytest.approx(expected, abs=tolerance)


def binary_by_sklearn(label, prediction):
    decided = prediction > 0.5
    return {
        "auc": sk.roc_auc_score(label, prediction),
        "auc_pr": sk.average_precision_score(label, prediction),
        "precision": sk.precision_score(label, decided),
        "recall": sk.recall_score(label, decided),
        "f1": sk.f1_score(label, decided),
        "accuracy": sk.accuracy_score(label, decided),
        "calibration": prediction.mean(dtype=float) / label.mean(),
        "mean_label": label.mean(),
        "mean_prediction": prediction.mean(dtype=float),
        "example_count": len(label),
    }


def test_binary_metrics_are_scikit_learns_overall_and_in_each_slice(tmp_path):
    raw, label, prediction = rows()
    slices = ["origin", ("origin", "day")]
    batch = join_predictions(raw, label, prediction, slices)
    metrics = run(cut(batch, 3), tmp_path, "binary", slices=slices)

    # TFMA counts by 10,000 buckets of the prediction, and interpolates between the points of
    # the precision-recall curve, where scikit-learn sums rectangles.
    def check(ours, chosen):
        expected = binary_by_sklearn(label[chosen], prediction[chosen])
        assert list(ours) == list(expected)
        assert_close(ours.pop("auc_pr"), expected.pop("auc_pr"), 1e-2)
        assert_close(ours.pop("auc"), expected.pop("auc"), 1e-4)
        assert_close(ours, expected)

    check(metrics["overall"], np.ones(len(label), bool))
    origins = np.array(raw["origin"].to_pylist())
    days = np.array(
        [{None: "(missing)"}.get(d, f"{d:g}" if d else d) for d in raw["day"].to_pylist()]
    )
    assert [entry["slice"] for entry in metrics["slices"]] == [
        *({"origin": o} for o in ("EWR", "JFK", "LGA")),
        *(
            {"day": d, "origin": o}
            for d in ("(missing)", "1.5", "2")
            for o in ("EWR", "JFK", "LGA")
        ),
    ]
    for entry in metrics["slices"]:
        wanted = entry["slice"]
        chosen = origins == wanted["origin"]
        if "day" in wanted:
            chosen &= days == wanted["day"]
        check(entry["metrics"], chosen)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
def test_binary_metrics_are_what_tfma_computes_itself(tmp_path):
    _, label, prediction = rows(400, seed=4)
    prediction = prediction * np.float32(0.9) + np.float32(0.05)  # it merges its lowest buckets
    batch = join_predictions(pa.record_batch({"x": [1] * 400}), label, prediction)
    ours = run([batch], tmp_path, "binary")["overall"]
    config = eval_config("binary", [])
    evaluator = tfma.evaluators.MetricsPlotsAndValidationsEvaluator(config, run_after=None)
    # One extract of many rows is to TFMA an example of many outputs.
    extract = {
        tfma.LABELS_KEY: label,
        tfma.PREDICTIONS_KEY: on_grid(prediction),
        tfma.EXAMPLE_WEIGHTS_KEY: np.ones(400),
        tfma.SLICE_KEY_TYPES_KEY: slicer_lib.slice_keys_to_numpy_array([()]),
    }
    with beam.Pipeline("FnApiRunner") as pipeline:
        evaluation = (
            pipeline
            | beam.Create([extract], reshuffle=False)
            | tfma.ExtractAndEvaluate(extractors=[], evaluators=[evaluator])
        )
        names = evaluation["metrics"] | beam.MapTuple(
            lambda _, metrics: {key.name: float(value) for key, value in metrics.items()}
        )
        assert_that(names, equal_to([pytest.approx(ours, abs=1e-12)]))


def test_multiclass_metrics_are_scikit_learns(tmp_path):
    random = np.random.default_rng(1)
    label = random.integers(0, 3, 999)  # class 3 never occurs, and is predicted at times
    prediction = random.dirichlet([1, 1, 1, 0.3], 999)
    prediction[np.arange(999), label] += 0.5
    prediction /= 1.5
    raw = pa.record_batch({"shop": ["a", "b", None] * 333})
    batch = join_predictions(raw, label, prediction, ["shop"])
    metrics = run(cut(batch, 2), tmp_path, "multiclass", classes=4, slices=["shop"])
    for entry, at in [(metrics["overall"], slice(None))] + [
        (entry["metrics"], slice("ab(".index(entry["slice"]["shop"][0]), None, 3))
        for entry in metrics["slices"]
    ]:
        y, p = label[at], prediction[at].argmax(axis=1)
        one_of, among = np.eye(4)[y][:, :3], prediction[at][:, :3]
        assert_close(entry.pop("auc"), sk.roc_auc_score(one_of, among), 1e-3)
        assert_close(entry.pop("auc_pr"), sk.average_precision_score(one_of, among), 1e-2)
        macro = {"average": "macro", "zero_division": 0}
        assert_close(
            entry,
            {
                "accuracy": sk.accuracy_score(y, p),
                "precision": sk.precision_score(y, p, **macro),
                "recall": sk.recall_score(y, p, **macro),
                "f1": sk.f1_score(y, p, **macro),
                "calibration": np.mean(among.sum(axis=0) / one_of.sum(axis=0)),
                "example_count": len(y),
            },
        )


def test_regression_metrics_are_scikit_learns(tmp_path):
    random = np.random.default_rng(2)
    label = random.normal(1e4, 3, 500).astype(np.float32)
    prediction = (label + random.normal(0, 2, 500)).astype(np.float32)
    batch = join_predictions(pa.record_batch({"x": [1] * 500}), label, prediction)
    overall = run(cut(batch, 3), tmp_path, "regression")["overall"]
    y, p = label.astype(float), prediction.astype(float)
    expected = {
        "mae": sk.mean_absolute_error(y, p),
        "rmse": sk.root_mean_squared_error(y, p),
        "r2": sk.r2_score(y, p),
        "mean_label": y.mean(),
        "mean_prediction": p.mean(),
        "example_count": 500,
    }
    assert overall == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_neither_batches_nor_order_change_a_bit(tmp_path, task):
    raw, label, prediction = rows(1_000)
    if task == "multiclass":
        prediction = np.stack([1 - prediction, prediction], axis=1)
    batch = join_predictions(raw, label, prediction, ["origin"])
    once = run([batch], tmp_path / "once", task, slices=["origin"])
    shuffled = batch.take(np.random.default_rng(3).permutation(1_000))
    again = run(cut(shuffled, 7), tmp_path / "again", task, slices=["origin"])
    assert again == once


def test_tfma_opens_the_result(tmp_path):
    raw, label, prediction = rows(300)
    batch = join_predictions(raw, label, prediction, ["origin"])
    metrics = run([batch], tmp_path, "binary", slices=["origin"])
    result = tfma.load_eval_result(str(tmp_path))
    by_slice = dict(result.slicing_metrics)
    assert by_slice[()][""][""]["auc"]["doubleValue"] == metrics["overall"]["auc"]
    assert set(by_slice) == {(), *((("origin", o),) for o in ("EWR", "JFK", "LGA"))}
    assert result.config.slicing_specs[1].feature_keys == ["origin"]


def test_one_class_has_no_auc(tmp_path):
    raw = pa.record_batch({"origin": ["EWR", "EWR", "JFK"]})
    batch = join_predictions(raw, np.array([0, 1, 1]), np.array([0.2, 0.7, 0.9]), ["origin"])
    metrics = run([batch], tmp_path, "binary", slices=["origin"])
    areas = {e["slice"]["origin"]: e["metrics"]["auc"] for e in metrics["slices"]}
    assert areas == {"EWR": 1.0, "JFK": None}


def test_gives_the_metrics_it_writes(tmp_path):
    raw, label, prediction = rows(50)
    with beam.Pipeline("FnApiRunner") as pipeline:
        counts = (
            pipeline
            | beam.Create([join_predictions(raw, label, prediction)])
            | Evaluate(str(tmp_path), "binary")
            | beam.Map(lambda metrics: metrics["overall"]["example_count"])
        )
        assert_that(counts, equal_to([50.0]))


def test_times_and_missing_values_are_slices_by_their_text():
    noon = datetime.datetime(2013, 1, 1, 12, tzinfo=datetime.UTC)
    raw = pa.record_batch({"at": pa.array([noon, None, noon], pa.timestamp("s", "UTC"))})
    batch = join_predictions(raw, np.zeros(3), np.zeros(3), ["at"])
    by_slice = [(key, len(rows.label)) for key, rows in slice_rows(batch, [("at",)], "binary")]
    assert by_slice == [
        ((), 3),
        ((("at", "2013-01-01 12:00:00Z"),), 2),
        ((("at", "(missing)"),), 1),
    ]


def test_no_rows_is_a_clear_error(tmp_path):
    with pytest.raises(Exception, match="there are no rows to evaluate"):
        run([], tmp_path, "binary")


@pytest.mark.parametrize(
    ("label", "prediction", "line"),
    [
        ([1, float("nan")], [0, 0], "1 of 2 rows have a label that is missing or not finite"),
        ([1, 0], [0, float("nan")], "1 of 2 rows have a prediction .* diverged"),
        ([1, 0], [0, 1.5], "expected probabilities from 0 to 1 for a binary model"),
    ],
)
def test_what_cannot_be_evaluated_is_a_clear_error(label, prediction, line):
    batch = join_predictions(pa.record_batch({"x": [1, 2]}), np.array(label), np.array(prediction))
    with pytest.raises(RunError, match=line):
        list(slice_rows(batch, [], "binary"))


@pytest.mark.parametrize(
    ("task", "classes", "other"), [("binary", 2, 2), ("binary", 2, -1), ("multiclass", 3, 3)]
)
def test_a_class_that_only_the_test_rows_have_is_a_clear_error(task, classes, other):
    label = np.array([0, 1, other, other])
    prediction = np.full((4, classes), 0.5) if task == "multiclass" else np.full(4, 0.5)
    batch = join_predictions(pa.record_batch({"x": [1] * 4}), label, prediction)
    line = (
        f"2 of 4 rows have a label that is none of the {classes} classes, such as {other}; "
        f"expected 0 to {classes - 1} for this {task} model; give every class rows to train on"
    )
    with pytest.raises(RunError, match=line) as caught:
        list(slice_rows(batch, [], task, classes))
    assert "\n" not in str(caught.value)
    assert list(slice_rows(batch.slice(0, 2), [], task, classes))


def test_the_classes_of_the_model_are_checked_before_anything_is_counted(tmp_path):
    batch = join_predictions(pa.record_batch({"x": [1]}), np.array([3]), np.full((1, 3), 0.5))
    with pytest.raises(Exception, match="expected 0 to 2 for this multiclass model"):
        run([batch], tmp_path, "multiclass", classes=3)


def test_mistakes_in_arguments():
    raw = pa.record_batch({"origin": ["EWR"], "tags": [["a"]]})
    one = np.zeros(1)
    with pytest.raises(RecipeError, match='there is no column "orign"; did you mean "origin"'):
        join_predictions(raw, one, one, ["orign"])
    with pytest.raises(RecipeError, match='"tags" is a list'):
        list(slice_rows(join_predictions(raw, one, one, ["tags"]), [("tags",)], "binary"))
    with pytest.raises(RecipeError, match="expected one of binary, multiclass, regression"):
        Evaluate("out", "ranking")
