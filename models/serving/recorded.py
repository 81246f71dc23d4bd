"""Requests with their answers, in the model: TensorFlow Serving's own warm-up file.

`assets.extra/tf_serving_warmup_requests` holds a `PredictionLog` for each request. A server
replays them when it loads the model, and a check compares what it answers with what was
answered at export. Imports nothing but TensorFlow.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from skewless.errors import RecipeError
from skewless.models.serving.requests import Arrays

__all__ = ["RECORDED", "Recorded", "read_recorded", "record", "write_recorded"]

RECORDED = "tf_serving_warmup_requests"
# TensorFlow Serving refuses to load a model with more.
_MOST = 1000


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A request and its answer.

    Attributes:
        signature: The signature that was asked.
        inputs: Its inputs by name.
        outputs: What it answered, by name.
    """

    signature: str
    inputs: Arrays
    outputs: Arrays


def record(signature: str, inputs: Arrays, answered: Mapping[str, tf.Tensor]) -> Recorded:
    """Return a request with the tensors that it was answered with."""
    return Recorded(signature, inputs, {name: np.asarray(t) for name, t in answered.items()})


def write_recorded(folder: pathlib.Path, name: str, requests: Iterable[Recorded]) -> pathlib.Path:
    """Write requests and their answers as TensorFlow Serving's warm-up file.

    Args:
        folder: The version's `assets.extra`.
        name: The name of the model.
        requests: At least one, at most 1,000.

    Returns:
        The file.

    Raises:
        RecipeError: If there are none, or too many.
    """
    logs = [_log(name, request) for request in requests]
    if not 1 <= len(logs) <= _MOST:
        raise RecipeError(f"recorded requests: there are {len(logs)}; expected 1 to {_MOST:,}")
    path = folder / RECORDED
    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))
    return path


def read_recorded(version_dir: str) -> list[Recorded]:
    """Return the recorded requests of an exported model, none if it has no such file.

    Raises:
        RecipeError: If the file is damaged, or holds anything but answered `predict` requests.
    """
    path = pathlib.Path(version_dir) / "assets.extra" / RECORDED
    if not path.is_file():
        return []
    try:
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        return [_recorded(record, path) for record in records]
    except (tf.errors.OpError, DecodeError) as error:
        line = str(error).splitlines()[0]
        raise RecipeError(f"{path} is damaged ({line}); export the model again") from None


def _log(name: str, request: Recorded) -> Any:
    log = prediction_log_pb2.PredictionLog()
    predict = log.predict_log
    for message in (predict.request, predict.response):
        message.model_spec.name = name
        message.model_spec.signature_name = request.signature
    for key, array in request.inputs.items():
        predict.request.inputs[key].CopyFrom(_proto(array))
    for key, array in request.outputs.items():
        predict.response.outputs[key].CopyFrom(_proto(array))
    return log


def _recorded(record: bytes, path: pathlib.Path) -> Recorded:
    log = prediction_log_pb2.PredictionLog.FromString(record)
    request, response = log.predict_log.request, log.predict_log.response
    if not request.inputs or not response.outputs:
        kind = log.WhichOneof("log_type")
        raise RecipeError(
            f"{path}: a record is {kind or 'empty'}; expected a predict_log with a response"
        )
    return Recorded(
        request.model_spec.signature_name,
        {key: tf.make_ndarray(value) for key, value in request.inputs.items()},
        {key: tf.make_ndarray(value) for key, value in response.outputs.items()},
    )


def _proto(array: npt.NDArray[Any]) -> Any:
    # The type of no strings at all could not be told.
    dtype = tf.string if array.dtype == object else None
    return tf.make_tensor_proto(array, dtype=dtype, shape=array.shape)
