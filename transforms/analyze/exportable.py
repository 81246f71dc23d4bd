"""Trace a `preprocessing_fn`, and refuse what could not be exported with a model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tfx_bsl.tfxio import tensor_adapter

from skewless.errors import RecipeError, SkewlessError, no_such_column
from skewless.schema import Schema
from skewless.transforms.analyze.columns import adapter_config
from skewless.transforms.analyze.internals.traced import Traced

__all__ = ["PreprocessingFn", "check_exportable", "trace"]

PreprocessingFn = Callable[[dict[str, Any]], Mapping[str, Any]]

_NOT_EXPORTABLE = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"})
_FEATURE_DTYPES = (tf.float32, tf.int64, tf.string)


def check_exportable(preprocessing_fn: PreprocessingFn, schema: Schema) -> None:
    """Raise a `RecipeError` if `preprocessing_fn` cannot become a transform graph.

    Args:
        preprocessing_fn: A function of tf.Transform.
        schema: The schema of the raw rows, label included.

    Raises:
        RecipeError: As `trace` does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trace(preprocessing_fn, schema, scratch)


def trace(preprocessing_fn: PreprocessingFn, schema: Schema, temp_dir: str) -> Traced:
    """Return `preprocessing_fn` as tf.Transform traces it.

    Args:
        preprocessing_fn: A function of tf.Transform.
        schema: The schema of the raw rows, label included.
        temp_dir: Where tf.Transform may leave temporary files.

    Raises:
        RecipeError: Naming the function, if it asks for a column that does not exist,
            fails, leaves TensorFlow (`tf.py_function`), or returns what is no feature.
    """
    name = _name_of(preprocessing_fn)
    specs = tensor_adapter.TensorAdapter(adapter_config(schema)).OriginalTypeSpecs()

    def guarded(inputs: dict[str, Any]) -> Mapping[str, Any]:
        return preprocessing_fn(_Inputs(inputs, name))

    try:
        traced = Traced(preprocessing_fn, specs, temp_dir, guarded)
    except SkewlessError:
        raise
    except Exception as error:
        line = str(error).strip().splitlines()
        raise RecipeError(
            f"{name}: it cannot be traced as a TensorFlow graph: "
            f"{type(error).__name__}: {line[-1] if line else ''}"
        ) from error
    if ops := _operations(traced.graph) & _NOT_EXPORTABLE:
        raise RecipeError(
            f"{name}: it calls Python from the graph ({', '.join(sorted(ops))}), which is lost "
            "when the model is exported; write it with TensorFlow operations"
        )
    _check_outputs(traced.outputs, name)
    return traced


class _Inputs(dict[str, Any]):
    """Raw tensors by column; asking for another one names the nearest."""

    def __init__(self, inputs: Mapping[str, Any], function: str) -> None:
        super().__init__(inputs)
        self._function = function

    def __missing__(self, name: str) -> Any:
        raise no_such_column(name, self, self._function)


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"preprocessing_fn {function.__module__}.{name}"


def _operations(graph: Any) -> set[str]:
    """Return the types of all operations, those inside of functions included."""
    definition = graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes.extend(function.node_def)
    return {node.op for node in nodes}


def _check_outputs(outputs: Any, name: str) -> None:
    if not isinstance(outputs, Mapping) or not outputs:
        raise RecipeError(f"{name}: it returns no features; return a dict of tensors by name")
    for key, value in outputs.items():
        if getattr(value, "dtype", None) not in _FEATURE_DTYPES:
            found = getattr(getattr(value, "dtype", type(value)), "name", type(value).__name__)
            raise RecipeError(
                f'{name}: feature "{key}" is {found}; a feature is float32, int64 or string '
                "(use tf.cast)"
            )
        if value.shape.rank == 0:
            raise RecipeError(f'{name}: feature "{key}" is one value, not one for each row')
