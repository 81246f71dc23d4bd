"""Keras models from a recipe's settings and the columns of a transform graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from skewless.models.inputs import IDS, NUMBERS, STANDARD, Inputs, Scale, scope_name
from skewless.models.networks import Dnn, Linear, Network, Task, WideAndDeep

__all__ = ["build", "compile_model"]

_ACTIVATION = {"binary": "sigmoid", "multiclass": "softmax"}


def build(
    network: Network, inputs: Inputs, task: Task, classes: int | None, scale: Scale = STANDARD
) -> keras.Model:
    """Return an untrained Keras model.

    It consists of Keras's own layers only, named after the features, so that
    `keras.models.load_model` needs nothing else and weights can be found again by name.
    For regression the last layer maps standard units to the label's, so that weights are
    of the same size whether the label is a price or a share.

    Args:
        network: The settings.
        inputs: What the model is fed, packed by `Inputs.pack`.
        task: What it predicts.
        classes: How many classes, for `multiclass`.
        scale: Where the labels lie, for `regression`.

    Returns:
        A model from packed tensors to probabilities [rows, 1] (binary) or
        [rows, classes] (multiclass), or values [rows, 1] (regression).
    """
    units = (classes or 0) if task == "multiclass" else 1
    tensors = _keras_inputs(inputs)
    parts = []
    if isinstance(network, Linear | WideAndDeep):
        parts.extend(_wide(network, inputs, tensors, units))
    if isinstance(network, Dnn):
        parts.append(_deep(network, inputs, tensors, units))
    total = keras.layers.Add(name="total")(parts) if len(parts) > 1 else parts[0]
    output = _head(task, scale)(total)
    return keras.Model(tensors, output, name=type(network).__name__.lower())


def compile_model(
    model: keras.Model, network: Network, task: Task, scale: Scale = STANDARD
) -> None:
    """Give `model` its optimizer, and the loss and metrics of its task.

    The loss of a regression is the mean squared error in units of `scale`: with that of
    the training labels, 1 is no better than always answering their mean. Its metrics are
    in the label's own unit.
    """
    loss, metrics = _loss_and_metrics(task)
    # XLA would compile again for the last batch of an epoch, which is smaller.
    model.compile(
        keras.optimizers.Adam(network.learning_rate),
        loss,
        loss_weights=scale.deviation**-2,
        metrics=metrics,
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)


def _head(task: Task, scale: Scale) -> Any:
    if task == "regression":
        return keras.layers.Rescaling(
            scale.deviation, offset=scale.mean, name="prediction", dtype="float32"
        )
    return keras.layers.Activation(_ACTIVATION[task], name="prediction", dtype="float32")


def _loss_and_metrics(task: Task) -> tuple[Any, list[Any]]:
    if task == "binary":
        return keras.losses.BinaryCrossentropy(), [
            keras.metrics.AUC(name="auc"),
            keras.metrics.AUC(curve="PR", name="auc_pr"),
        ]
    if task == "multiclass":
        return keras.losses.SparseCategoricalCrossentropy(), [
            keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        ]
    return keras.losses.MeanSquaredError(), [
        keras.metrics.MeanAbsoluteError(name="mae"),
        keras.metrics.RootMeanSquaredError(name="rmse"),
    ]


def _keras_inputs(inputs: Inputs) -> dict[str, Any]:
    return {
        name: keras.Input([width], dtype="float32" if name == NUMBERS else "int64", name=name)
        for name, width in inputs.packed_widths().items()
    }


def _wide(network: Network, inputs: Inputs, tensors: dict[str, Any], units: int) -> list[Any]:
    """Return the linear terms: a weight per number, and one per category."""
    numbers, *others = _embedded(
        network, inputs, tensors, prefix="weight_", width=lambda _: units, initializer="zeros"
    )
    dense = keras.layers.Dense(
        units,
        kernel_initializer="zeros",
        kernel_regularizer=_l2(network),
        name="weight_numbers",
    )
    return [*([dense(numbers)] if numbers is not None else []), *others]


def _deep(network: Dnn, inputs: Inputs, tensors: dict[str, Any], units: int) -> Any:
    """Return the output of the hidden layers over numbers and embeddings."""
    parts = _embedded(
        network,
        inputs,
        tensors,
        prefix="embedding_",
        width=network.embedding_width,
        initializer="uniform",
    )
    present = [part for part in parts if part is not None]
    value = keras.layers.Concatenate(name="features")(present) if present[1:] else present[0]
    for i, hidden in enumerate(network.hidden):
        value = keras.layers.Dense(
            hidden, activation="relu", kernel_regularizer=_l2(network), name=f"hidden_{i}"
        )(value)
        if network.dropout:
            value = keras.layers.Dropout(network.dropout, name=f"dropout_{i}")(value)
    return keras.layers.Dense(units, kernel_regularizer=_l2(network), name="output")(value)


def _embedded(
    network: Network,
    inputs: Inputs,
    tensors: dict[str, Any],
    *,
    prefix: str,
    width: Callable[[int], int],
    initializer: str,
) -> list[Any]:
    """Return the numbers (or None), and a vector for each categorical column."""

    def embedding(name: str, categories: int, size: int) -> Any:
        return keras.layers.Embedding(
            categories,
            width(size),
            embeddings_initializer=initializer,
            embeddings_regularizer=_l2(network),
            name=prefix + scope_name(name),
        )

    parts = [tensors.get(NUMBERS)]
    for i, column in enumerate(inputs.of_kind("id")):
        parts.append(embedding(column.name, column.size, column.size)(tensors[IDS][:, i]))
    for column in inputs.of_kind("ids"):
        ids = tensors[column.list_name]
        vectors = embedding(column.name, column.size + 1, column.size)(ids)
        parts.append(_mean_of_present(vectors, ids))
    return parts


def _mean_of_present(vectors: Any, ids: Any) -> Any:
    """Return the mean of the vectors [rows, n, width] whose id is not the filling 0."""
    present = keras.ops.cast(keras.ops.expand_dims(ids > 0, -1), "float32")
    total = keras.ops.sum(vectors * present, axis=1)
    return total / keras.ops.maximum(keras.ops.sum(present, axis=1), 1.0)


def _l2(network: Network) -> Any:
    return keras.regularizers.L2(network.l2) if network.l2 else None
