"""What a network is fed: the features of a transform graph, packed into few tensors.

All numbers go into one matrix and all single categories into another, because each tensor
costs time at every step and every request, however small it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError, no_such_column
from skewless.schema import Feature

__all__ = [
    "IDS",
    "NUMBERS",
    "STANDARD",
    "Column",
    "Inputs",
    "Scale",
    "parse_failure",
    "read_inputs",
    "scope_name",
]

NUMBERS = "numbers"
IDS = "ids"


@dataclasses.dataclass(frozen=True)
class Column:
    """One feature, as a network sees it.

    Attributes:
        name: The feature's name.
        kind: `numbers` (a fixed number of values, or the mean of any number of them),
            `id` (one category) or `ids` (any number of categories).
        width: Values per row of `numbers`; 1 for the others.
        first: The lowest category (tf.Transform writes -1 for unknown without OOV).
        size: How many categories there are; 0 for numbers.
    """

    name: str
    kind: Literal["numbers", "id", "ids"]
    width: int = 1
    first: int = 0
    size: int = 0

    @property
    def list_name(self) -> str:
        """The name of its own packed tensor, if it is of the kind `ids`."""
        # Keras keeps "/" for the paths of its variables.
        return "list_" + scope_name(self.name)


class Scale(NamedTuple):
    """Where labels that are numbers lie, in their own unit.

    Attributes:
        mean: Their mean.
        deviation: Their standard deviation, or 1 where all are the same.
    """

    mean: float = 0.0
    deviation: float = 1.0


STANDARD = Scale()


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The columns of a transform graph's output, its label apart.

    Attributes:
        columns: The features in the order in which they are packed.
        label: The name of the label.
        is_class: Whether the label is a class (an integer) rather than a number.
        classes: How many classes the schema states, or None.
        feature_spec: What `tf.io.parse_example` takes for the features and the label.
    """

    columns: tuple[Column, ...]
    label: str
    is_class: bool
    classes: int | None
    feature_spec: Mapping[str, Any]

    def of_kind(self, kind: str) -> tuple[Column, ...]:
        """Return the columns of one kind, in packing order."""
        return tuple(column for column in self.columns if column.kind == kind)

    def packed_widths(self) -> dict[str, int | None]:
        """Return the width of each tensor that `pack` gives; None where rows differ."""
        widths: dict[str, int | None] = {}
        if numbers := self.of_kind("numbers"):
            widths[NUMBERS] = sum(column.width for column in numbers)
        if ids := self.of_kind("id"):
            widths[IDS] = len(ids)
        return widths | {column.list_name: None for column in self.of_kind("ids")}

    def pack(self, features: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Return features as a network takes them.

        Args:
            features: Dense, sparse or ragged tensors by feature name.

        Returns:
            `numbers` [rows, width] float32, `ids` [rows, columns] int64 counted from 0,
            and for each column of several categories `list_<name>` [rows, longest] int64
            counted from 1, filled up with 0. Those without columns are left out.
        """
        packed = {}
        if numbers := self.of_kind("numbers"):
            packed[NUMBERS] = tf.concat([_numbers(features[c.name], c) for c in numbers], 1)
        if ids := self.of_kind("id"):
            values = [tf.reshape(features[c.name], [-1]) - c.first for c in ids]
            packed[IDS] = tf.stack(values, axis=1)
        for column in self.of_kind("ids"):
            shift = column.first - 1
            packed[column.list_name] = _to_dense(features[column.name], shift) - shift
        return packed

    def pack_label(self, features: Mapping[str, Any]) -> tf.Tensor:
        """Return the label [rows], int64 for a class and float32 for a number."""
        return tf.reshape(features[self.label], [-1])


def _numbers(value: Any, column: Column) -> tf.Tensor:
    if isinstance(value, tf.Tensor):
        return tf.reshape(tf.cast(value, tf.float32), [-1, column.width])
    values = _to_dense(tf.cast(value, tf.float32), float("nan"))
    present = tf.logical_not(tf.math.is_nan(values))
    count = tf.reduce_sum(tf.cast(present, tf.float32), axis=1, keepdims=True)
    total = tf.reduce_sum(tf.where(present, values, 0.0), axis=1, keepdims=True)
    return total / tf.maximum(count, 1.0)


def _to_dense(value: Any, fill: float) -> tf.Tensor:
    if isinstance(value, tf.SparseTensor):
        return tf.sparse.to_dense(value, fill)
    if isinstance(value, tf.RaggedTensor):
        return value.to_tensor(fill)
    return value


def read_inputs(transform_graph: str, label: str) -> Inputs:
    """Return what the features of a transform graph are to a network.

    Args:
        transform_graph: A directory in tf.Transform's own layout.
        label: The name of the transformed label.

    Raises:
        RecipeError: If the label is not there or cannot be learnt, or if a feature is
            not a number or a category.
    """
    output = tft.TFTransformOutput(transform_graph)
    schema = output.transformed_metadata.schema
    spec = output.transformed_feature_spec()
    features = {feature.name: feature for feature in schema.feature}
    if label not in features:
        raise no_such_column(label, features, "label")
    columns = [_column(features[name], spec[name]) for name in sorted(features) if name != label]
    if not columns:
        raise RecipeError("features: there is nothing but the label; add at least one feature")
    target = features[label]
    if not isinstance(spec[label], tf.io.FixedLenFeature) or _width(spec[label]) != 1:
        raise RecipeError(
            f'label "{label}": expected one value in every row; '
            "drop rows without it, and make it dense in the preprocessing_fn"
        )
    if target.type == schema_pb2.BYTES:
        raise RecipeError(
            f'label "{label}" is a string; expected a number or a class; '
            "give it a vocabulary, or compare it with a value"
        )
    is_class = target.type == schema_pb2.INT
    known = is_class and target.HasField("int_domain") and target.int_domain.max > 0
    classes = int(target.int_domain.max) + 1 if known else None
    return Inputs(tuple(columns), label, is_class, classes, spec)


def parse_failure(error: tf.errors.OpError) -> str:
    """Return why `tf.io.parse_example` failed, without the names of TensorFlow's nodes."""
    found = re.search(r"(Feature|Key): (.|\n)*?(?=\s*(\n|\[Op:|\[\[|$))", error.message)
    return " ".join((found.group() if found else error.message).split())[:200]


def _column(feature: Feature, spec: Any) -> Column:
    if feature.type == schema_pb2.BYTES:
        raise RecipeError(
            f'feature "{feature.name}" is a string, which a network cannot take; '
            "give it a vocabulary, hash it, or leave it out"
        )
    dense = isinstance(spec, tf.io.FixedLenFeature)
    width = _width(spec) if dense else 1
    if feature.type == schema_pb2.INT and feature.HasField("int_domain"):
        first, last = feature.int_domain.min, feature.int_domain.max
        kind: Literal["id", "ids"] = "id" if dense and width == 1 else "ids"
        return Column(feature.name, kind, 1, int(first), int(max(last, first) - first) + 1)
    return Column(feature.name, "numbers", width)


def _width(spec: Any) -> int:
    width = 1
    for size in spec.shape:
        width *= size
    return width


def scope_name(name: str) -> str:
    """Return a feature's name in the characters that TensorFlow allows, no two the same."""
    return re.sub(r"[^A-Za-z0-9_.]", lambda found: f"-{ord(found[0]):x}-", name)
