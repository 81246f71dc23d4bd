"""One SavedModel that takes raw rows: the transform graph and the network behind it."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from skewless.arrays import raw_arrays
from skewless.errors import RecipeError
from skewless.models.inputs import Inputs, read_inputs
from skewless.models.networks import Task
from skewless.models.raw_examples import raw_examples
from skewless.models.serving.recorded import Recorded, record, write_recorded
from skewless.parity import PAD_TO, TransformGraph, pad_rows
from skewless.schema import format_schema

__all__ = ["export", "versions"]


def export(
    *,
    model_path: str,
    transform_graph: str,
    label: str,
    task: Task,
    classes: int | None,
    directory: str,
    name: str,
    class_names: Sequence[str] | None = None,
    version: int | None = None,
    sample: pa.RecordBatch | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> str:
    """Write a SavedModel that needs nothing but TensorFlow to be loaded and called.

    Its signatures take raw rows, without the label; columns that only the label needs are
    not inputs. A missing value is written as `skewless.arrays` writes it.

    - `serving_default`: `examples` [rows] string, serialized raw `tf.train.Example`s.
    - `predict_rows`: each raw column as a tensor, [rows] or [rows, longest], by the name
      that `skewless.arrays.argument_names` gives it.
    - `transform`: the same inputs, and the features as outputs; a feature of any number of
      values is `<name>/values` and `<name>/row_lengths`.

    The first two answer with `prediction` float32: the probability of class 1 [rows], the
    probabilities of all classes [rows, classes], or the value [rows]; and for several
    classes with `classes` [rows, classes], the names of the columns of `prediction`.

    Args:
        model_path: The `model.keras` of a training.
        transform_graph: The transform graph it was trained with.
        label: The name of the transformed label.
        task: What the model predicts.
        classes: How many classes, or None for regression.
        directory: Where the versions lie; `<directory>/<version>/` appears in one move.
        name: The name of the model, for those who find the file.
        class_names: Names of the classes; None numbers them.
        version: The version to write, replaced if it is there; None takes the next one.
        sample: A few raw rows, with which requests and their answers are recorded in the
            version, see `skewless.models.serving.recorded`.
        extra: Further files of the version's `assets.extra`, by name.

    Returns:
        The path of the version.

    Raises:
        RecipeError: If the model was trained with other features, or the names of the
            classes are not as many as the classes.
    """
    inputs = read_inputs(transform_graph, label)
    names = _class_names(task, classes, class_names)
    graph = TransformGraph(transform_graph, without=(label,))
    module = _Exported(graph, _load_model(model_path, inputs), inputs, task, names)
    base = pathlib.Path(directory)
    base.mkdir(parents=True, exist_ok=True)
    target = base / str(version if version is not None else max(versions(directory), default=0) + 1)
    partial = base / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        signatures = module.signatures()
        tf.saved_model.save(module, str(partial), signatures=signatures)
        _write_extra(partial / "assets.extra", graph, name, task, names)
        for file, content in (extra or {}).items():
            (partial / "assets.extra" / file).write_bytes(content)
        if sample is not None and sample.num_rows:
            requests = _recorded(signatures, graph, sample)
            write_recorded(partial / "assets.extra", name, requests)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(target)


def versions(directory: str) -> list[int]:
    """Return the versions under `directory`, oldest first."""
    base = pathlib.Path(directory)
    found = base.iterdir() if base.is_dir() else []
    return sorted(int(path.name) for path in found if path.name.isdecimal())


class _Exported(tf.Module):  # type: ignore[misc]
    """The functions that are exported, and all that they hold on to."""

    def __init__(
        self,
        graph: TransformGraph,
        model: keras.Model,
        inputs: Inputs,
        task: Task,
        class_names: Sequence[str],
    ) -> None:
        super().__init__(name="skewless")
        self._graph = graph
        self._model = model
        self._inputs = inputs
        self._task = task
        self._class_names = tuple(class_names)

    def signatures(self) -> dict[str, Any]:
        """Return the concrete functions by signature."""
        rows = self._graph.row_signature()
        examples = tf.TensorSpec([None], tf.string, name="examples")
        return {
            "serving_default": _traced(self._predict_examples, examples),
            "predict_rows": _traced(self._predict_rows, rows),
            "transform": _traced(self._transform, rows),
        }

    def _predict_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict(self._graph.from_examples(examples))

    def _predict_rows(self, rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._predict(self._graph.from_rows(rows))

    def _transform(self, rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = {}
        for name, value in self._graph.from_rows(rows).items():
            if isinstance(value, tf.SparseTensor):
                value = tf.RaggedTensor.from_sparse(value)
            if isinstance(value, tf.RaggedTensor):
                outputs[f"{name}/values"] = value.flat_values
                outputs[f"{name}/row_lengths"] = value.row_lengths()
            else:
                outputs[name] = tf.identity(value)
        return outputs

    def _predict(self, features: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        # Padded like the transform graph, so that a row's prediction does not depend on
        # how many others it is asked with.
        packed = self._inputs.pack(features)
        rows = tf.shape(next(iter(packed.values())))[0]
        prediction = self._model(pad_rows(packed, PAD_TO), training=False)[:rows]
        if self._task != "multiclass":
            return {"prediction": prediction[:, 0]}
        names = tf.constant([self._class_names])
        return {"prediction": prediction, "classes": tf.tile(names, [rows, 1])}


def _traced(function: Callable[[Any], dict[str, tf.Tensor]], spec: Any) -> Any:
    # All its branches and loops are over names. Rewriting them for tensors, as autograph
    # does, takes three times as long as tracing.
    return tf.function(function, autograph=False).get_concrete_function(spec)


def _class_names(task: Task, classes: int | None, given: Sequence[str] | None) -> list[str]:
    count = classes or 0
    if given is None:
        return [str(i) for i in range(count)]
    if len(given) != count:
        raise RecipeError(
            f"export: class_names has {len(given)} names; the {task} model has {count} classes"
        )
    return list(given)


def _load_model(model_path: str, inputs: Inputs) -> keras.Model:
    """Load the Keras model, and check that it takes what the features are packed to."""
    try:
        model = keras.models.load_model(model_path, compile=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"export: {model_path} is not a Keras model: {reason}") from None
    expected = inputs.packed_widths()
    found = {tensor.name: tensor.shape[1] for tensor in model.inputs}
    if found != expected:
        raise RecipeError(
            f"export: {model_path} takes {found}, but the transform graph gives {expected}; "
            "train again with this graph"
        )
    return model


def _write_extra(
    folder: pathlib.Path, graph: TransformGraph, name: str, task: Task, class_names: Sequence[str]
) -> None:
    """Write what a caller must know: the schema of the raw rows, and what is predicted."""
    folder.mkdir(parents=True)
    (folder / "schema.pbtxt").write_text(format_schema(graph.raw_schema))
    about = {"name": name, "task": task, "class_names": list(class_names)}
    (folder / "model.json").write_text(json.dumps(about, indent=1, sort_keys=True))


def _recorded(
    signatures: Mapping[str, Any], graph: TransformGraph, sample: pa.RecordBatch
) -> list[Recorded]:
    """Return requests of all rows at once and of the first alone, as Examples and as columns."""
    return [
        request
        for rows in (sample, sample.slice(0, 1))
        for request in (
            _ask_examples(signatures["serving_default"], graph, rows),
            _ask_rows(signatures["predict_rows"], graph, rows),
        )
    ]


def _ask_examples(function: Any, graph: TransformGraph, rows: pa.RecordBatch) -> Recorded:
    examples = raw_examples(rows, graph.raw_schema)
    inputs = {"examples": np.array(examples, object)}
    return record("serving_default", inputs, function(tf.constant(examples, tf.string)))


def _ask_rows(function: Any, graph: TransformGraph, rows: pa.RecordBatch) -> Recorded:
    arrays = raw_arrays(rows, graph.raw_schema)
    specs = graph.row_signature()
    inputs = {specs[name].name: array for name, array in arrays.items()}
    tensors = {name: tf.constant(array, specs[name].dtype) for name, array in arrays.items()}
    return record("predict_rows", inputs, function(tensors))
