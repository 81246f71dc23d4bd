"""Answered requests as TensorFlow Serving logs them, for tools of TFX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.core.framework.types_pb2 import DT_STRING
from tensorflow_serving.apis import prediction_log_pb2

from skewless.models.serving.logged import EXAMPLES, Entry, LoggedModel
from skewless.models.serving.requests import Answer, Arrays, Request

__all__ = ["logged_records"]


def logged_records(entries: Iterable[Entry], model: LoggedModel, sample: float) -> Iterator[bytes]:
    """Yield requests of one version as serialized `PredictionLog`s, as TensorFlow Serving does.

    Each is a `predict_log`, whatever the method was. Where columns are excluded, the outputs
    of `transform`, which were made of them, are left out too.

    Args:
        entries: The requests; those that were refused are left out.
        model: The version.
        sample: The share of requests that is logged.
    """
    for time, request, answer, _, _ in entries:
        if answer is None:
            continue
        log = prediction_log_pb2.PredictionLog()
        log.log_metadata.sampling_config.sampling_rate = sample
        log.log_metadata.timestamp_secs = time // 1_000_000
        predict = log.predict_log
        for spec in (
            log.log_metadata.model_spec,
            predict.request.model_spec,
            predict.response.model_spec,
        ):
            spec.name, spec.signature_name = model.name, answer.signature
            spec.version.value = answer.version
        for name, array in _inputs(request, answer, model).items():
            predict.request.inputs[name].CopyFrom(_tensor(array))
        if not (model.excluded and answer.signature == "transform"):
            for name, array in answer.outputs.items():
                predict.response.outputs[name].CopyFrom(_tensor(array))
        yield log.SerializeToString()


def _inputs(request: Request, answer: Answer, model: LoggedModel) -> Arrays:
    if answer.fed is not None:
        return {
            model.arguments[name]: array
            for name, array in answer.fed.items()
            if name not in model.excluded
        }
    inputs = dict(request.arrays or {})
    if model.excluded and EXAMPLES in inputs:
        examples = [_without(one, model.excluded) for one in inputs[EXAMPLES].tolist()]
        inputs[EXAMPLES] = np.array(examples, object)
    return inputs


def _without(serialized: bytes, names: Iterable[str]) -> bytes:
    example = tf.train.Example.FromString(serialized)
    for name in names:
        example.features.feature.pop(name, None)
    return bytes(example.SerializeToString())


def _tensor(array: npt.NDArray[Any]) -> TensorProto:
    """Return an array as `tf.make_tensor_proto` does, at a twentieth of its cost."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    if array.dtype.kind in "OS":
        texts = array.ravel().tolist()
        return TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=texts)
    dtype = tf.as_dtype(array.dtype).as_datatype_enum
    return TensorProto(dtype=dtype, tensor_shape=shape, tensor_content=array.tobytes())
