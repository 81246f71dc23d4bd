"""An exported model's signatures as functions of few tensors, called as cheaply as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skewless.models.serving.packing import KINDS, Layout, Packed
from skewless.models.serving.requests import Arrays

__all__ = ["example_function", "row_function"]

_DTYPES = (tf.float32, tf.int64, tf.string)


def row_function(signature: Any, layout: Layout) -> Callable[[Packed], Arrays]:
    """Return a signature of raw columns as a function of packed rows.

    One tensor a column costs more than the graph: here they are taken apart inside.

    Args:
        signature: `predict_rows` or `transform` of a loaded model.
        layout: How its columns are packed.
    """
    matrices = [
        tf.TensorSpec([len(features), None], dtype)
        for features, dtype in zip(layout.singles, _DTYPES, strict=True)
    ]
    lists = [tf.TensorSpec([None, None], _DTYPES[KINDS.index(f.type)]) for f in layout.lists]

    def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        named: dict[str, tf.Tensor] = {}
        for features, matrix in zip(layout.singles, tensors, strict=False):
            columns = tf.unstack(matrix, num=len(features)) if features else []
            named |= {layout.arguments[f.name]: c for f, c in zip(features, columns, strict=True)}
        for feature, tensor in zip(layout.lists, tensors[3:], strict=True):
            named[layout.arguments[feature.name]] = tensor
        outputs: dict[str, tf.Tensor] = signature(**named)
        return outputs

    run = _flat(tf.function(call, input_signature=[*matrices, *lists], autograph=False))

    def call_packed(packed: Packed) -> Arrays:
        return run([packed.floats, packed.ints, packed.texts, *packed.lists])

    return call_packed


def example_function(signature: Any) -> Callable[[Sequence[bytes]], Arrays]:
    """Return a signature of serialized Examples as a function of them."""

    def call(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = signature(examples=examples)
        return outputs

    spec = tf.TensorSpec([None], tf.string)
    run = _flat(tf.function(call, input_signature=[spec], autograph=False))

    def call_examples(examples: Sequence[bytes]) -> Arrays:
        return run([np.asarray(examples, np.object_)])

    return call_examples


def _flat(function: Any) -> Callable[[list[npt.NDArray[Any]]], Arrays]:
    """Return a function as one from arrays to arrays, without TensorFlow's looks at arguments.

    TensorFlow binds the arguments of each call to names, and outputs to a structure: a third of
    a small call. What it calls in the end takes the tensors as they are.
    """
    concrete = function.get_concrete_function()
    names = sorted(concrete.structured_outputs)
    run, captured = concrete._inference_function.call_flat, concrete.captured_inputs

    def call(arrays: list[npt.NDArray[Any]]) -> Arrays:
        outputs = run(*[tf.constant(array) for array in arrays], *captured)
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    # The function lives as long as what it captured.
    call.__dict__["keep"] = (function, concrete)
    return call
