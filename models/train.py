"""Train a network on transformed examples, so that it can be stopped and resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from skewless.errors import DataError, RecipeError, RunError
from skewless.models.build import build, compile_model
from skewless.models.checkpoint import Checkpoint, save_atomically
from skewless.models.dataset import Examples
from skewless.models.epochs import Epochs
from skewless.models.inputs import Inputs, Scale, read_inputs
from skewless.models.networks import Network, Task

__all__ = ["TrainResult", "train"]

OnEpoch = Callable[[int, Mapping[str, float]], object]

_EVALUATED_AT_ONCE = 8192
# Beyond these, squares of the label leave the range of float32.
_LEAST_DEVIATION, _MOST_DEVIATION = 1e-15, 1e15


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A trained model.

    Attributes:
        model_path: The Keras model, with the weights of the best epoch.
        task: `binary`, `multiclass` or `regression`.
        classes: How many classes, or None for regression.
        best_epoch: The index of that epoch in `history`.
        history: The measures of every epoch; those on the eval rows begin with `val_`.
            The loss of a regression counts in standard deviations of the training labels,
            squared; `mae` and `rmse` are in the label's unit.
    """

    model_path: str
    task: Task
    classes: int | None
    best_epoch: int
    history: tuple[Mapping[str, float], ...]

    @classmethod
    def load(cls, directory: str) -> TrainResult:
        """Return the result of a training that finished in `directory`.

        Raises:
            RunError: If none did.
        """
        path = pathlib.Path(directory) / "training.json"
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError):
            raise RunError(f"there is no finished training in {directory}; train first") from None
        history = tuple(values.pop("history"))
        return cls(str(path.with_name("model.keras")), history=history, **values)


def train(
    network: Network,
    *,
    transform_graph: str,
    train_files: Sequence[str],
    eval_files: Sequence[str],
    label: str,
    directory: str,
    seed: int = 0,
    warm_start: str | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train `network` and write `model.keras` and `training.json`.

    After each epoch all state is saved in `directory`. Called again with the same
    arguments after a kill, it goes on from there and ends with the very same weights.
    TensorFlow's random seeds and deterministic operations are set for the whole process.

    Args:
        network: What to train, and how.
        transform_graph: A directory in tf.Transform's own layout.
        train_files: TFRecord files of transformed tf.Examples to learn from.
        eval_files: Those that decide when to stop; may be empty.
        label: The name of the transformed label: an integer is a class (two classes are
            `binary`), a float a number.
        directory: Where to write; made if missing.
        seed: What all that is random follows from.
        warm_start: An earlier `model.keras` to begin from: layers of the same name and
            shape take its weights. Categories are matched by position in the vocabulary,
            and the label keeps the scale it has now.
        on_epoch: Called after each epoch with its index and its measures.

    Returns:
        The result, as `TrainResult.load` gives it.

    Raises:
        RecipeError: If the settings do not fit the features or the label.
        DataError: If there are no rows to learn from, only one class, or labels that are
            no finite numbers.
        RunError: If the loss is no longer a number.
    """
    _check_backend()
    inputs = read_inputs(transform_graph, label)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    train_rows, eval_rows = Examples(train_files, inputs), Examples(eval_files, inputs)
    task, classes = _task(inputs, train_rows, eval_rows)
    model = build(network, inputs, task, classes, train_rows.label_scale)
    compile_model(model, network, task, train_rows.label_scale)
    if warm_start is not None:
        _copy_weights(warm_start, model)

    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    files = [*train_files, *eval_files, *([warm_start] if warm_start else [])]
    purpose = _purpose(network, inputs, seed, files)
    path = folder / "checkpoint.npz"
    state = Checkpoint.load(path, purpose)
    if state.history:
        state.restore(model)
    monitor = "val_loss" if eval_rows.count else None
    epochs = Epochs(model, _class_weight(network, task, train_rows))
    while not _finished(state, network, monitor):
        epoch = len(state.history)
        rows = train_rows.shuffled(network.batch_size, seed=seed, epoch=epoch)
        measures = epochs.train(rows)
        if monitor:
            evaluated = epochs.evaluate(eval_rows.batches(_EVALUATED_AT_ONCE))
            measures |= {f"val_{name}": value for name, value in evaluated.items()}
        _check_finite(measures, epoch, network)
        state.record(model, measures, monitor)
        state.save(path)
        if on_epoch is not None:
            on_epoch(epoch, measures)

    model.set_weights(state.best)
    result = TrainResult(
        str(folder / "model.keras"), task, classes, state.best_epoch, tuple(state.history)
    )
    _save(model, result, folder)
    path.unlink()
    return result


def _check_backend() -> None:
    if keras.config.backend() != "tensorflow":
        raise RunError(
            f"Keras runs on {keras.config.backend()}; expected tensorflow: "
            "set KERAS_BACKEND=tensorflow before starting"
        )


def _task(inputs: Inputs, train: Examples, evaluation: Examples) -> tuple[Task, int | None]:
    """Return what is to be learnt, and check that the rows allow it."""
    if not train.count:
        raise DataError("training: there are no training rows; check the split and the filters")
    if not inputs.is_class:
        _check_numbers("training", inputs.label, train.label_scale)
        _check_numbers("eval", inputs.label, evaluation.label_scale)
        return "regression", None
    seen = train.label_counts
    if len(seen) < 2:
        (only,) = seen
        raise DataError(
            f'training: all {train.count} rows have the label "{inputs.label}" = {only}; '
            "expected at least two classes: check the label and the split"
        )
    classes = inputs.classes or max(*seen, *evaluation.label_counts) + 1
    for name, rows in (("training", train), ("eval", evaluation)):
        for value, count in rows.label_counts.items():
            if not 0 <= value < classes:
                raise DataError(
                    f'{name}: {count} rows have the label "{inputs.label}" = {value}; '
                    f"expected a class from 0 to {classes - 1}: drop or relabel these rows"
                )
    return ("binary" if classes == 2 else "multiclass"), classes


def _check_numbers(name: str, label: str, scale: Scale) -> None:
    if not _LEAST_DEVIATION < scale.deviation < _MOST_DEVIATION:
        raise DataError(
            f'{name}: the label "{label}" has a standard deviation of {scale.deviation}; '
            f"expected one from {_LEAST_DEVIATION} to {_MOST_DEVIATION}: drop rows whose label "
            "is not a finite number, or give it in another unit"
        )


def _class_weight(network: Network, task: Task, rows: Examples) -> dict[int, float] | None:
    if network.class_weight is None:
        return None
    if task == "regression":
        raise RecipeError(
            f"{type(network).__name__}: class_weight needs a label that is a class; "
            "this one is a number: leave class_weight out"
        )
    counts = rows.label_counts
    if network.class_weight == "balanced":
        return {c: rows.count / (len(counts) * n) for c, n in counts.items()}
    if missing := sorted(set(counts) - set(network.class_weight)):
        raise RecipeError(
            f"{type(network).__name__}: class_weight has no weight for class {missing[0]}; "
            f"the classes are {sorted(counts)}"
        )
    return dict(network.class_weight)


def _purpose(network: Network, inputs: Inputs, seed: int, files: Sequence[str]) -> str:
    """Return a digest of all that the result depends on."""
    sizes = [(name, tf.io.gfile.stat(name).length) for name in files]
    known = repr((network, inputs.columns, inputs.label, inputs.classes, seed, sizes))
    return hashlib.sha256(known.encode()).hexdigest()


def _finished(state: Checkpoint, network: Network, monitor: str | None) -> bool:
    done = len(state.history)
    waited = done - 1 - state.best_epoch
    return done >= network.epochs or (monitor is not None and waited >= network.patience)


def _check_finite(measures: Mapping[str, float], epoch: int, network: Network) -> None:
    for name in ("loss", "val_loss"):
        if not math.isfinite(measures.get(name, 0.0)):
            raise RunError(
                f"training: {name} is {measures[name]} after epoch {epoch + 1}; lower "
                f"learning_rate (now {network.learning_rate}), and check that every feature "
                "and the label are finite"
            )


def _copy_weights(path: str, model: keras.Model) -> None:
    """Give `model` the weights of an earlier one, layer by layer where they fit."""
    try:
        earlier = keras.models.load_model(path, compile=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"warm_start: {path} is not a Keras model: {reason}") from None
    found = {layer.name: layer for layer in earlier.layers if layer.weights}
    fitting = [
        (layer, found[layer.name].get_weights())
        for layer in model.layers
        if layer.weights
        and layer.name in found
        and [w.shape for w in layer.weights] == [w.shape for w in found[layer.name].weights]
    ]
    if not fitting:
        raise RecipeError(
            f"warm_start: no layer of {path} has the name and shape of one in the new model; "
            "leave warm_start out, or name a model of the same kind"
        )
    for layer, weights in fitting:
        layer.set_weights(weights)


def _save(model: keras.Model, result: TrainResult, folder: pathlib.Path) -> None:
    """Write the model first: where `training.json` is, the training is complete."""
    save_atomically(folder / "model.keras", model.save)
    values: dict[str, Any] = dataclasses.asdict(result)
    del values["model_path"]
    text = json.dumps(values, indent=1, sort_keys=True)
    save_atomically(folder / "training.json", lambda partial: partial.write_text(text))
