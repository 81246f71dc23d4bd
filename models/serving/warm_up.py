"""The first calls of a version: before any client's, and to see that it answers as it should."""

from __future__ import annotations

import contextlib

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.models.serving.infra_check import largest_difference
from skewless.models.serving.packing import concat
from skewless.models.serving.recorded import read_recorded
from skewless.models.serving.requests import ROW_SIGNATURES
from skewless.models.serving.servable import Servable
from skewless.schema import is_required

__all__ = ["warm_up"]

_BATCHES = (1, 32)


def warm_up(servable: Servable) -> None:
    """Call every signature, and the recorded requests, whose answers must be the recorded ones.

    Raises:
        SkewlessError: If an answer is another.
    """
    for request in read_recorded(servable.path):
        largest_difference(servable.call(request.signature, request.inputs), request)
    # Rows of missing values, which a graph may refuse: that is no fault of the model.
    row = servable.layout.pack({}, 1)
    for rows in _BATCHES:
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            for signature in ROW_SIGNATURES:
                servable.call_rows(signature, concat([row] * rows, servable.layout))
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            servable.call_examples([_empty_example(servable)] * rows)


def _empty_example(servable: Servable) -> bytes:
    """Return an Example of the columns that an Example must have."""
    example = tf.train.Example()
    for feature in servable.schema.feature:
        if is_required(feature):
            values = example.features.feature[feature.name]
            if feature.type == schema_pb2.FLOAT:
                values.float_list.value.append(0.0)
            elif feature.type == schema_pb2.INT:
                values.int64_list.value.append(0)
            else:
                values.bytes_list.value.append(b"")
    return bytes(example.SerializeToString())
