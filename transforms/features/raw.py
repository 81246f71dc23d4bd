"""Raw inputs as the columns want them: dense or ragged, with what is missing known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform import schema_inference

from skewless.schema import Feature, Schema, find_feature, missing_int

__all__ = ["Raw", "kind_of", "set_ids"]


def kind_of(feature: Feature) -> str:
    """Return the kind of a raw column: float, integer, string or timestamp."""
    if feature.type == schema_pb2.BYTES:
        return "string"
    if feature.type == schema_pb2.FLOAT:
        return "float"
    unit = feature.time_domain.integer_format
    return "timestamp" if unit else "integer"


def set_ids(ids: tf.Tensor, size: Any) -> None:
    """Say in the schema of the features that `ids` are categories 0 .. size-1."""
    top = tf.cast(size, tf.int64) - 1
    schema_inference.set_tensor_schema_override(ids, tf.constant(0, tf.int64), top)


@dataclasses.dataclass(frozen=True)
class Raw:
    """The raw inputs of one call of the `preprocessing_fn`."""

    inputs: Mapping[str, Any]
    schema: Schema

    def feature(self, name: str) -> Feature:
        """Return the schema of a raw column."""
        feature = find_feature(self.schema, name)
        assert feature is not None, name
        return feature

    def scalar(self, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a column as values [rows], 0 or empty where missing, and where present."""
        value, feature = self.inputs[name], self.feature(name)
        if isinstance(value, tf.SparseTensor):
            column = tf.stack([value.dense_shape[0], 1])
            value = tf.SparseTensor(value.indices, value.values, column)
            value = tf.sparse.to_dense(value, default_value=_missing(feature))
        value = tf.reshape(value, [-1])
        present = _is_present(value, feature)
        return tf.where(present, value, tf.zeros_like(value)), present

    def number(self, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a column as float64 [rows], and where it is present and finite."""
        value, present = self.scalar(name)
        return tf.cast(value, tf.float64), present

    def name(self, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a column as strings [rows], integers written out, and where present."""
        value, present = self.scalar(name)
        return _as_string(value), present

    def names(self, name: str) -> tf.RaggedTensor:
        """Return a column of lists as ragged strings, without missing elements."""
        ragged = self.ragged(name)
        return ragged.with_flat_values(_as_string(ragged.flat_values))

    def ragged(self, name: str) -> tf.RaggedTensor:
        """Return a column of lists without missing elements."""
        value, feature = self.inputs[name], self.feature(name)
        if not isinstance(value, tf.SparseTensor):
            whole = tf.sparse.from_dense(tf.ones_like(value, tf.int8))
            value = whole.with_values(tf.reshape(value, [-1]))
        value = tf.sparse.retain(value, _is_present(value.values, feature))
        return tf.RaggedTensor.from_value_rowids(
            value.values, value.indices[:, 0], nrows=value.dense_shape[0], validate=False
        )


def _as_string(value: tf.Tensor) -> tf.Tensor:
    return value if value.dtype == tf.string else tf.strings.as_string(value)


def _missing(feature: Feature) -> Any:
    if feature.type == schema_pb2.BYTES:
        return ""
    if feature.type == schema_pb2.FLOAT:
        return float("nan")
    return tf.constant(missing_int(feature), tf.int64)


def _is_present(value: tf.Tensor, feature: Feature) -> tf.Tensor:
    if feature.type == schema_pb2.BYTES:
        return tf.strings.length(value) > 0
    if feature.type == schema_pb2.FLOAT:
        return tf.math.is_finite(value)
    return value != tf.constant(missing_int(feature), tf.int64)
