"""Ask an exported model about raw rows."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from skewless.arrays import argument_names, raw_arrays
from skewless.errors import RecipeError
from skewless.models.export import versions
from skewless.models.inputs import parse_failure
from skewless.schema import Schema, parse_schema

__all__ = ["Predictor", "read_input_schema"]

Arrays = dict[str, npt.NDArray[Any]]


class Predictor:
    """An exported model, called with raw rows.

    Args:
        model_dir: The directory of one version, or of all, of which the newest is taken.

    Attributes:
        path: The directory of the version.
        name: The model's name.
        task: `binary`, `multiclass` or `regression`.
        class_names: The names of the classes; empty for regression.
        schema: The raw columns it needs.

    Raises:
        RecipeError: If there is no exported model.
    """

    def __init__(self, model_dir: str) -> None:
        path = _version_path(pathlib.Path(model_dir))
        self.path = str(path)
        try:
            about = json.loads((path / "assets.extra" / "model.json").read_text())
            self.schema = read_input_schema(self.path)
            self._model = tf.saved_model.load(self.path)
            signatures = self._model.signatures
            self._predict_rows = signatures["predict_rows"]
            self._transform = signatures["transform"]
            self._predict_examples = signatures["serving_default"]
        except (OSError, KeyError, ValueError) as error:
            raise RecipeError(
                f"model {self.path} was not exported by skewless, or is damaged "
                f"({' '.join(str(error).split())[:200]}); export it again"
            ) from None
        self._arguments = argument_names(self.schema)
        self.name: str = about["name"]
        self.task: str = about["task"]
        self.class_names: tuple[str, ...] = tuple(about["class_names"])

    def predict(self, batch: pa.RecordBatch) -> Arrays:
        """Return the predictions for raw rows.

        Args:
            batch: Rows with at least the columns of `schema`; others are ignored, null is
                missing, and a category never seen in training is as any unknown one.

        Returns:
            `prediction` float32 [rows] or [rows, classes], and for several classes
            `classes`, see `export`.

        Raises:
            RecipeError: If the batch lacks a column.
        """
        return self._call(self._predict_rows, batch)

    def transform(self, batch: pa.RecordBatch) -> Arrays:
        """Return the features of raw rows, by the names of the `transform` signature.

        Raises:
            RecipeError: If the batch lacks a column.
        """
        return self._call(self._transform, batch)

    def predict_examples(self, examples: Sequence[bytes]) -> Arrays:
        """Return the predictions for serialized raw `tf.train.Example`s.

        Raises:
            RecipeError: If one is not an Example with the columns of `schema`.
        """
        try:
            return _arrays(self._predict_examples(examples=tf.constant(list(examples), tf.string)))
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            # TensorFlow quotes what it cannot parse, and Python cannot always read the quote.
            quoted = isinstance(error, UnicodeDecodeError)
            why = "one is no serialized Example" if quoted else parse_failure(error)
            raise RecipeError(
                f"examples: not as the schema of model {self.path} says: {why}"
            ) from None

    def _call(self, function: Any, batch: pa.RecordBatch) -> Arrays:
        rows = raw_arrays(batch, self.schema)
        named = {self._arguments[name]: tf.constant(array) for name, array in rows.items()}
        return _arrays(function(**named))


def read_input_schema(version_dir: str) -> Schema:
    """Return the schema of the raw columns that an exported model needs, without loading it."""
    path = pathlib.Path(version_dir) / "assets.extra" / "schema.pbtxt"
    return parse_schema(path.read_text(), str(path))


def _arrays(tensors: Mapping[str, tf.Tensor]) -> Arrays:
    return {name: np.asarray(value) for name, value in tensors.items()}


def _version_path(path: pathlib.Path) -> pathlib.Path:
    """Return `path` or its newest version, whichever holds a SavedModel."""
    found = versions(str(path))
    chosen = path if not found else path / str(found[-1])
    if not path.is_dir():
        raise RecipeError(f"model {path}: there is no such directory; export a model first")
    if not (chosen / "saved_model.pb").is_file():
        raise RecipeError(
            f"model {path}: expected a SavedModel, or a directory of numbered versions of one; "
            "export a model there first"
        )
    return chosen
