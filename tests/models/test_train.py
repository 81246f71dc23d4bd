import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from skewless.errors import DataError, RecipeError, RunError
from skewless.models.dataset import Examples
from skewless.models.inputs import read_inputs
from skewless.models.networks import Dnn, Linear, WideAndDeep
from skewless.models.train import TrainResult, train

PRICING = WideAndDeep([8], dropout=0.0, epochs=3, batch_size=32, learning_rate=0.02, l2=1e-4)
SMALL = Dnn([8], dropout=0.3, epochs=3, batch_size=64, l2=1e-4)


def _weights(result):
    return keras.models.load_model(result.model_path, compile=False).get_weights()


def _assert_same(one, other):
    for left, right in zip(_weights(one), _weights(other), strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.history == other.history


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("uninterrupted"))
    return train(SMALL, **world.arguments(), directory=directory, seed=7)


def test_the_result_is_on_disk(uninterrupted):
    folder = pathlib.Path(uninterrupted.model_path).parent
    assert sorted(path.name for path in folder.iterdir()) == ["model.keras", "training.json"]
    assert TrainResult.load(str(folder)) == uninterrupted
    assert (uninterrupted.task, uninterrupted.classes) == ("binary", 2)
    assert set(uninterrupted.history[0]) == {
        *("loss", "auc", "auc_pr"),
        *("val_loss", "val_auc", "val_auc_pr"),
    }


def test_the_same_seed_gives_the_same_weights_whatever_the_order_of_files(
    world, uninterrupted, tmp_path
):
    arguments = {**world.arguments(), "train_files": world.train_files[::-1]}
    again = train(SMALL, **arguments, directory=str(tmp_path), seed=7)
    _assert_same(again, uninterrupted)
    other = train(SMALL, **arguments, directory=str(tmp_path), seed=8)
    assert other.history != uninterrupted.history


def test_an_interrupted_training_ends_as_if_it_had_not_been(world, uninterrupted, tmp_path):
    seen = []

    def interrupt(epoch, measures):
        seen.append(epoch)
        if epoch < 2:
            raise KeyboardInterrupt

    arguments = {**world.arguments(), "directory": str(tmp_path), "seed": 7}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, **arguments, on_epoch=interrupt)
        with pytest.raises(RunError, match="no finished training"):
            TrainResult.load(str(tmp_path))
    resumed = train(SMALL, **arguments, on_epoch=interrupt)
    assert seen == [0, 1, 2]
    _assert_same(resumed, uninterrupted)


def test_a_killed_process_is_resumed_by_another(world, uninterrupted, tmp_path):
    arguments = {**world.arguments(), "directory": str(tmp_path), "seed": 7}
    code = f"""
        import json, os, signal
        from skewless.models.networks import Dnn
        from skewless.models.train import train
        kill = lambda epoch, _: epoch == 1 and os.kill(os.getpid(), signal.SIGKILL)
        train({SMALL!r}, **json.loads({json.dumps(arguments)!r}), on_epoch=kill)
    """
    code = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(code, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    _assert_same(train(SMALL, **arguments), uninterrupted)


def test_it_stops_early_and_keeps_the_best_weights(world, tmp_path):
    network = Dnn([16], epochs=60, patience=2, batch_size=32, learning_rate=0.1)
    result = train(network, **world.arguments(), directory=str(tmp_path))
    losses = [measures["val_loss"] for measures in result.history]
    assert len(losses) < 60
    assert result.best_epoch == int(np.argmin(losses)) == len(losses) - 3
    model = keras.models.load_model(result.model_path)
    rows = _packed(world)
    found = float(keras.losses.BinaryCrossentropy()(rows[1], model(rows[0])))
    assert found == pytest.approx(min(losses), abs=1e-6)


def _packed(world):
    inputs = read_inputs(world.transform_graph, world.label)
    ((features, label),) = Examples(world.eval_files, inputs).batches(10_000)
    return features, tf.cast(label, tf.float32)[:, tf.newaxis]


def test_without_eval_rows_all_epochs_run(world, tmp_path):
    arguments = {**world.arguments(), "eval_files": []}
    network = Linear(epochs=5, patience=1)
    result = train(network, **arguments, directory=str(tmp_path))
    assert (len(result.history), result.best_epoch) == (5, 4)
    assert "val_loss" not in result.history[0]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("binary", Linear),
        ("binary", WideAndDeep),
        ("multiclass", Dnn),
        ("regression", WideAndDeep),
    ],
)
def test_networks_learn(make_world, tmp_path, task, kind):
    world = make_world(task)
    network = kind(epochs=10, batch_size=32, learning_rate=0.03)
    result = train(network, **world.arguments(), directory=str(tmp_path))
    best = result.history[result.best_epoch]
    reached = {
        "binary": lambda: best["val_auc"] > 0.93,
        "multiclass": lambda: best["val_accuracy"] > 0.72,
        "regression": lambda: best["val_rmse"] < 0.5,
    }
    assert result.task == task
    assert result.classes == {"binary": 2, "multiclass": 3, "regression": None}[task]
    assert reached[task](), best


def test_a_class_can_count_more(world, tmp_path):
    network = Linear(epochs=10, learning_rate=0.05, class_weight={0: 1.0, 1: 5.0})
    result = train(network, **world.arguments(), directory=str(tmp_path))
    features, label = _packed(world)
    predicted = keras.models.load_model(result.model_path)(features)
    assert float(tf.reduce_mean(predicted)) > float(tf.reduce_mean(label)) + 0.1


def test_balanced_is_the_inverse_of_the_share(world, tmp_path):
    counts = Examples(world.train_files, read_inputs(world.transform_graph, "late")).label_counts
    weights = {value: 600 / (2 * count) for value, count in counts.items()}
    one, other = (
        train(
            Linear(epochs=1, class_weight=weight),
            **world.arguments(),
            directory=str(tmp_path / str(i)),
        )
        for i, weight in enumerate(["balanced", weights])
    )
    _assert_same(one, other)


def test_a_warm_start_begins_where_the_earlier_ended(world, uninterrupted, tmp_path):
    network = Dnn([8], dropout=0.3, epochs=1, batch_size=64, learning_rate=1e-9)
    result = train(
        network,
        **world.arguments(),
        directory=str(tmp_path),
        warm_start=uninterrupted.model_path,
    )
    for new, old in zip(_weights(result), _weights(uninterrupted), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


def test_a_warm_start_takes_the_layers_that_fit(world, uninterrupted, tmp_path):
    network = Dnn([8, 4], epochs=1, learning_rate=1e-9)
    result = train(
        network,
        **world.arguments(),
        directory=str(tmp_path),
        warm_start=uninterrupted.model_path,
    )
    new = keras.models.load_model(result.model_path).get_layer("embedding_carrier")
    old = keras.models.load_model(uninterrupted.model_path).get_layer("embedding_carrier")
    np.testing.assert_allclose(new.get_weights()[0], old.get_weights()[0], atol=1e-6)


def test_a_warm_start_from_nothing_is_refused(world, uninterrupted, tmp_path):
    arguments = {**world.arguments(), "directory": str(tmp_path)}
    with pytest.raises(RecipeError, match=r"gone\.keras is not a Keras model"):
        train(SMALL, **arguments, warm_start=str(tmp_path / "gone.keras"))
    with pytest.raises(RecipeError, match=r"no layer of .* has the name and shape"):
        train(Linear(epochs=1), **arguments, warm_start=uninterrupted.model_path)


def test_nothing_to_learn_from_is_said(world, raw, write, tmp_path):
    arguments = {**world.arguments(), "directory": str(tmp_path)}
    with pytest.raises(DataError, match="there are no training rows"):
        train(SMALL, **{**arguments, "train_files": []})
    rows = raw(100)
    late = [i for i, value in enumerate(rows.column("late").to_pylist()) if value == 1]
    only = write(world.transform_graph, rows.take(late), tmp_path / "only.tfrecord.gz")
    with pytest.raises(DataError, match=r'rows have the label "late" = 1; expected at least two'):
        train(SMALL, **{**arguments, "train_files": [only]})


def test_a_class_outside_the_domain_is_said(make_world, with_column, write, tmp_path):
    world = make_world("multiclass")
    strange = with_column(50, "kind", ["never seen"] * 50)
    path = write(world.transform_graph, strange, tmp_path / "strange.tfrecord.gz")
    arguments = {**world.arguments(), "eval_files": [path], "directory": str(tmp_path)}
    with pytest.raises(DataError, match='eval: 50 rows have the label "kind" = -1'):
        train(SMALL, **arguments)


def test_a_loss_that_is_no_number_is_said(make_world, with_column, write, tmp_path):
    world = make_world("regression")
    broken = with_column(50, "x", np.full(50, np.inf))
    path = write(world.transform_graph, broken, tmp_path / "inf.tfrecord.gz")
    arguments = {**world.arguments(), "train_files": [path], "directory": str(tmp_path)}
    with pytest.raises(RunError, match=r"loss is (nan|inf) after epoch 1; lower learning_rate"):
        train(SMALL, **arguments)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e20])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_labels_that_cannot_be_learnt_are_said(
    make_world, with_column, write, tmp_path, value, split
):
    world = make_world("regression")
    rows = with_column(50, "delay", [1.0] * 49 + [value])
    path = write(world.transform_graph, rows, tmp_path / "odd.tfrecord.gz")
    arguments = {**world.arguments(), f"{split}_files": [path], "directory": str(tmp_path)}
    with pytest.raises(DataError, match=r'(training|eval): the label "delay" has a standard dev'):
        train(SMALL, **arguments)


@pytest.fixture(scope="module")
def prices(make_world, raw, with_column, write, tmp_path_factory):
    """The regression's rows, their labels in another unit and from another zero."""
    world = make_world("regression")
    folder = tmp_path_factory.mktemp("prices")
    delay = raw(600).column("delay").to_numpy()
    rows = with_column(600, "delay", 1e5 * delay + 250_000)
    path = write(world.transform_graph, rows, folder / "train.tfrecord.gz")
    evaluation = write(world.transform_graph, rows.slice(0, 200), folder / "eval.tfrecord.gz")
    return dataclasses.replace(world, train_files=[path], eval_files=[evaluation])


@pytest.fixture(scope="module")
def priced(prices, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("priced"))
    return train(PRICING, **prices.arguments(), directory=directory)


def test_large_labels_are_learnt_like_small_ones(prices, priced, make_world, tmp_path):
    small = make_world("regression").train_files
    arguments = {**prices.arguments(), "train_files": small, "eval_files": small[:1]}
    standard = train(PRICING, **arguments, directory=str(tmp_path))
    for large, other in zip(priced.history, standard.history, strict=True):
        assert large["val_loss"] == pytest.approx(other["val_loss"], rel=0.02)
        assert large["val_rmse"] == pytest.approx(1e5 * other["val_rmse"], rel=0.02)
    assert priced.history[-1]["val_loss"] < 0.5
    features, label = _packed(prices)
    answers = keras.models.load_model(priced.model_path)(features)
    error = float(keras.ops.mean(keras.ops.abs(answers - label)))
    assert error == pytest.approx(priced.history[priced.best_epoch]["val_mae"], rel=1e-4)


def test_an_interrupted_regression_ends_as_if_it_had_not_been(prices, priced, tmp_path):
    def interrupt(epoch, measures):
        raise KeyboardInterrupt

    arguments = {**prices.arguments(), "directory": str(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        train(PRICING, **arguments, on_epoch=interrupt)
    _assert_same(train(PRICING, **arguments), priced)


def test_a_warm_start_keeps_the_scale_of_the_labels_it_is_given(priced, make_world, tmp_path):
    world = make_world("regression")
    still = dataclasses.replace(PRICING, epochs=1, learning_rate=1e-9)
    result = train(
        still, **world.arguments(), directory=str(tmp_path), warm_start=priced.model_path
    )
    for new, old in zip(_weights(result), _weights(priced), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    assert result.history[0]["loss"] < 0.5
    assert result.history[0]["val_rmse"] < 1


def test_class_weights_must_fit_the_label(make_world, tmp_path):
    regression = make_world("regression").arguments()
    with pytest.raises(RecipeError, match="class_weight needs a label that is a class"):
        train(Linear(class_weight="balanced"), **regression, directory=str(tmp_path))
    with pytest.raises(RecipeError, match="no weight for class 1"):
        train(
            Linear(class_weight={0: 1.0}),
            **make_world("binary").arguments(),
            directory=str(tmp_path),
        )
