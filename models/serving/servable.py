"""One loaded version of a model, ready to be called from many threads."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from skewless.errors import RecipeError
from skewless.models.predict import read_input_schema
from skewless.models.serving.functions import example_function, row_function
from skewless.models.serving.json_rows import RowReader
from skewless.models.serving.packing import Layout, Packed
from skewless.models.serving.requests import ROW_SIGNATURES, Arrays, Code, ServingError

__all__ = ["EXAMPLES", "Servable", "split_outputs"]

EXAMPLES = "serving_default"


class Servable:
    """A version of an exported model.

    Args:
        path: The version's directory.

    Attributes:
        name: The model's name.
        version: The directory's name as a number; 0 where it is none.
        path: The directory.
        task: `binary`, `multiclass` or `regression`.
        class_names: The names of the classes; empty for regression.
        schema: The raw columns.
        layout: How they are packed.
        reader: What reads them from JSON.
        signature_defs: The signatures, as the SavedModel has them.

    Raises:
        RecipeError: If it is no model that skewless exported, or cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        folder = pathlib.Path(path)
        self.path = str(folder)
        self.version = int(folder.name) if folder.name.isdecimal() else 0
        try:
            about = json.loads((folder / "assets.extra" / "model.json").read_text())
            self.schema = read_input_schema(self.path)
            self.signature_defs = _signature_defs(folder)
            # Whoever calls a signature must keep the model, whose tables it reads.
            self._model = tf.saved_model.load(self.path)
            self.layout = Layout.of(self.schema)
            signatures = self._model.signatures
            self._examples = example_function(signatures[EXAMPLES])
            self._rows: dict[str, Callable[[Packed], Arrays]] = {
                name: row_function(signatures[name], self.layout) for name in ROW_SIGNATURES
            }
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            raise RecipeError(
                f"model {self.path} was not exported by skewless, or is damaged "
                f"({' '.join(str(error).split())[:200]}); export it again"
            ) from None
        self.name: str = about["name"]
        self.task: str = about["task"]
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.reader = RowReader(self.schema)
        self._by_argument = {argument: name for name, argument in self.layout.arguments.items()}

    def call(self, signature: str, arrays: Arrays) -> Arrays:
        """Return the outputs of a signature for its inputs, by name; columns may be left out.

        Raises:
            ServingError: If an input is not as the signature has it.
        """
        if signature == EXAMPLES:
            return self.call_examples(examples_of(arrays))
        return self.call_rows(signature, self.pack(arrays))

    def call_rows(self, signature: str, packed: Packed) -> Arrays:
        """Return the outputs of one of `ROW_SIGNATURES` for packed rows."""
        return self._rows[signature](packed)

    def call_examples(self, examples: Sequence[bytes]) -> Arrays:
        """Return the predictions for serialized Examples.

        Raises:
            tf.errors.InvalidArgumentError: If one is not as the schema says.
        """
        return self._examples(examples)

    def pack(self, arrays: Arrays, optional: Collection[str] = ()) -> Packed:
        """Return columns by the names of their arguments as packed rows.

        Args:
            arrays: The columns.
            optional: Columns that may be left out even where the schema requires them.

        Raises:
            ServingError: If one is not as its column is, or there is none.
        """
        columns: Arrays = {}
        rows: int | None = None
        for argument, array in arrays.items():
            name = self._by_argument.get(argument, argument)
            if name not in self.layout.arguments:
                raise _invalid(
                    f'input "{argument[:80]}": the model has no such column; '
                    f"its columns are {', '.join(sorted(self._by_argument))}"
                )
            spec = self.signature_defs["predict_rows"].inputs[self.layout.arguments[name]]
            columns[name] = _checked(argument, array, spec)
            if rows is not None and len(array) != rows:
                raise _invalid(
                    f'input "{argument}" has {len(array)} rows, but others have {rows}; '
                    "all inputs of a request have the same rows"
                )
            rows = len(array)
        if rows is None:
            raise _invalid("no inputs; expected at least one column, by its name")
        self._check_required({*columns, *optional})
        return self.layout.pack(columns, rows)

    def _check_required(self, columns: Collection[str]) -> None:
        for feature in self.schema.feature:
            if feature.presence.min_fraction == 1 and feature.name not in columns:
                raise _invalid(
                    f'input "{self.layout.arguments[feature.name]}" is missing, and required'
                )


def examples_of(arrays: Arrays) -> list[bytes]:
    """Return the serialized Examples of a request's inputs.

    Raises:
        ServingError: If there are none, or other inputs.
    """
    if list(arrays) != ["examples"]:
        raise _invalid(
            f"inputs {', '.join(arrays)[:80] or 'none'}: expected one, "
            '"examples", of serialized tf.Examples'
        )
    array = arrays["examples"]
    if array.ndim != 1 or array.dtype.kind not in "OS":
        raise _invalid(
            f'input "examples" is {array.dtype} of shape {list(array.shape)}; '
            "expected strings [rows]"
        )
    return list(array.tolist())


def split_outputs(outputs: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """Return the outputs of a batch as those of the requests it was made of.

    Args:
        outputs: The outputs of all rows.
        rows: How many rows each request has.
    """
    if len(rows) == 1:
        return [outputs]
    ends = np.cumsum(rows)
    starts = ends - rows
    split: list[Arrays] = [{} for _ in rows]
    for name, values in outputs.items():
        first, last = starts, ends
        lengths = outputs.get(name.removesuffix("/values") + "/row_lengths")
        if name.endswith("/values") and lengths is not None:
            before = np.concatenate([[0], np.cumsum(lengths)])
            first, last = before[starts], before[ends]
        for part, start, end in zip(split, first, last, strict=True):
            part[name] = values[start:end]
    return split


def _checked(
    name: str, array: npt.NDArray[Any], spec: meta_graph_pb2.TensorInfo
) -> npt.NDArray[Any]:
    dtype = tf.as_dtype(spec.dtype)
    rank = len(spec.tensor_shape.dim)
    is_text = dtype == tf.string and array.dtype.kind in "OS"
    if not (is_text or array.dtype == dtype.as_numpy_dtype) or array.ndim != rank:
        shape = "[rows]" if rank == 1 else "[rows, longest]"
        raise _invalid(
            f'input "{name}" is {array.dtype} of shape {list(array.shape)}; '
            f"expected {dtype.name} {shape}"
        )
    return array


def _signature_defs(folder: pathlib.Path) -> Mapping[str, SignatureDef]:
    proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return dict(proto.meta_graphs[0].signature_def)


def _invalid(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)
