"""The one way from raw rows to features, shared by Beam and by every SavedModel.

Vectorised kernels treat the tail of a tensor with other code than its body, so the same
row can get another last bit in a batch of 1 than in a batch of 65,536. Padding the rows
inside the graph to a multiple of 16 removes that for every elementwise operation (16
float32 fill the widest vector register, AVX-512). The values of a sparse tensor are not
rows: each of them is padded to a multiple of 16 too, by values in the padding rows.

The only place that knows tf.Transform's SavedModel loader.
"""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf
from tensorflow_transform.saved import saved_transform_io_v2
from tensorflow_transform.tf_metadata import schema_utils

from skewless.arrays import argument_names
from skewless.errors import RecipeError
from skewless.schema import Schema, find_feature, missing_int, parse_schema

__all__ = [
    "PAD_TO",
    "TransformGraph",
    "as_inputs",
    "pad_rows",
    "read_raw_schema",
    "row_signature",
    "slice_rows",
]

PAD_TO = 16

Tensors = Mapping[str, Any]


def read_raw_schema(transform_graph: str) -> Schema:
    """Return the schema of the raw rows that a transform graph was analyzed with."""
    path = pathlib.Path(transform_graph) / "metadata" / "schema.pbtxt"
    return parse_schema(path.read_text(), str(path))


class TransformGraph(tf.Module):  # type: ignore[misc]
    """A written transform graph as functions of raw rows, padded.

    Args:
        path: A directory in tf.Transform's own layout, `metadata/` included.
        without: Features not wanted; raw columns that only they need are not inputs.
        pad_to: Rows and sparse values are padded to a multiple of this; 1 pads nothing.

    Attributes:
        feature_spec: The raw inputs, as `tf.io.parse_example` takes them.
        raw_schema: The schema of the raw inputs.
        outputs: The names of the features, sorted.
    """

    def __init__(self, path: str, *, without: Collection[str] = (), pad_to: int = PAD_TO) -> None:
        super().__init__(name="transform_graph")
        self._pad_to = pad_to
        self._loader = saved_transform_io_v2.SavedModelLoader(
            str(pathlib.Path(path) / "transform_fn")
        )
        # Vocabularies are found, when a model is exported, through attributes alone.
        self._imported = self._loader._imported
        outputs = set(self._loader.structured_outputs)
        if unknown := set(without) - outputs:
            raise RecipeError(
                f"transform graph: there is no feature {sorted(unknown)}; "
                f"the features are {', '.join(sorted(outputs))}"
            )
        self.outputs = tuple(sorted(outputs - set(without)))
        inputs = self._inputs_of(self.outputs)
        self._unfed = {
            name: tf.type_spec_from_value(value)
            for name, value in self._loader._structured_inputs.items()
            if name not in inputs
        }
        whole = read_raw_schema(path)
        self.raw_schema = Schema()
        self.raw_schema.CopyFrom(whole)
        del self.raw_schema.feature[:]
        self.raw_schema.feature.extend(f for f in whole.feature if f.name in inputs)
        self.feature_spec = schema_utils.schema_as_feature_spec(self.raw_schema).feature_spec

    def _inputs_of(self, outputs: Collection[str]) -> set[str]:
        """Return the raw inputs that at least one of `outputs` depends on."""
        sources = [self._loader._output_to_inputs_map[name] for name in outputs]
        reached = {tensor.ref() for tensors in sources for tensor in tensors}
        return {
            name
            for name, value in self._loader._structured_inputs.items()
            if any(t.ref() in reached for t in tf.nest.flatten(value, expand_composites=True))
        }

    def row_signature(self) -> dict[str, tf.TensorSpec]:
        """Return the spec of each raw tensor: [rows], or [rows, longest] for lists.

        The keys are the columns' names; the specs have those of `argument_names`, by which
        a signature is called.
        """
        return row_signature(self.raw_schema)

    def from_rows(self, rows: Tensors) -> dict[str, Any]:
        """Return the features of raw rows given as dense tensors (see `row_signature`)."""
        return self.from_tensors(as_inputs(rows, self.raw_schema))

    def from_examples(self, serialized: tf.Tensor) -> dict[str, Any]:
        """Return the features of serialized raw `tf.train.Example`s, shape [rows]."""
        parsed = tf.io.parse_example(serialized, self.feature_spec)
        inputs = {}
        for name, value in parsed.items():
            if isinstance(value, tf.SparseTensor):
                feature = find_feature(self.raw_schema, name)
                missing = missing_int(feature) if value.dtype == tf.int64 else None
                value = tf.sparse.retain(value, _is_present(value.values, missing))
                value = _without_holes(value)
            inputs[name] = value
        return self.from_tensors(inputs)

    def from_tensors(self, inputs: Tensors) -> dict[str, Any]:
        """Return the features of raw tensors as the `preprocessing_fn` takes them."""
        rows = _row_count(inputs)
        padded = pad_rows(inputs, self._pad_to)
        # tf.Transform would give columns that no output needs a single row, which fails where
        # the graph compares the numbers of rows (a vocabulary with labels does).
        padded.update(_no_values(self._unfed, _row_count(padded)))
        features = self._features(padded)
        return {name: _settle(slice_rows(features[name], rows)) for name in self.outputs}

    def _features(self, inputs: Tensors) -> dict[str, Any]:
        """Call the written function with all that it takes.

        The loader's own way compares each feature's inputs with all that are fed, to leave out
        features that it cannot make: a minute for thousands of columns. Here all are fed.
        """
        flat = tf.nest.flatten(inputs, expand_composites=True)
        return dict(self._loader._wrapped_function(*flat))


def row_signature(schema: Schema) -> dict[str, tf.TensorSpec]:
    """Return the spec of each raw column as a dense tensor; see `TransformGraph`."""
    specs = {}
    arguments = argument_names(schema)
    features = {feature.name: feature for feature in schema.feature}
    for name, spec in schema_utils.schema_as_feature_spec(schema).feature_spec.items():
        listed = _rank(features[name], spec) == 2
        shape = [None, None] if listed else [None]
        specs[name] = tf.TensorSpec(shape, spec.dtype, name=arguments[name])
    return specs


def as_inputs(rows: Tensors, schema: Schema) -> dict[str, Any]:
    """Return dense raw tensors as a `preprocessing_fn` takes them.

    Args:
        rows: For each column of `schema` a tensor as `row_signature` says, with missing
            values written out.
        schema: The raw columns.

    Returns:
        A tensor for each required column, a SparseTensor of present values for the others.
    """
    inputs = {}
    features = {feature.name: feature for feature in schema.feature}
    for name, spec in schema_utils.schema_as_feature_spec(schema).feature_spec.items():
        missing = missing_int(features[name]) if spec.dtype == tf.int64 else None
        inputs[name] = _as_spec(tf.convert_to_tensor(rows[name], spec.dtype), spec, missing)
    return inputs


def _no_values(specs: Mapping[str, tf.TypeSpec], rows: tf.Tensor) -> dict[str, Any]:
    """Return `rows` rows of zeros, or of nothing, for each column."""
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if isinstance(spec, tf.SparseTensorSpec):
            indices, none = tf.zeros([0, 2], tf.int64), tf.zeros([0], spec.dtype)
            values[name] = tf.SparseTensor(indices, none, tf.stack([rows, 0]))
        else:
            inner = [size or 1 for size in spec.shape[1:]]
            values[name] = tf.zeros(tf.stack([rows, *inner]), spec.dtype)
    return values


def pad_rows(inputs: Tensors, multiple: int) -> dict[str, Any]:
    """Pad every tensor to a multiple of `multiple` rows, and sparse values likewise.

    A padding row repeats the last row (dense), so that no function meets a value that the
    data does not hold. Where there are sparse tensors, at least `multiple` padding rows are
    added, and each tensor puts as many copies of its last value in them, one a row, as
    fill its values up to a multiple. No rows in, no rows out.

    Args:
        inputs: Tensors, SparseTensors or RaggedTensors of the same number of rows.
        multiple: What to pad to; 1 returns the inputs.

    Returns:
        The padded tensors, by the same names.
    """
    if multiple == 1 or not inputs:
        return dict(inputs)
    rows = _row_count(inputs)
    extra = (-rows) % multiple
    if any(not isinstance(value, tf.Tensor) for value in inputs.values()):
        extra += multiple
    extra = tf.where(rows > 0, extra, 0)
    padded = _repeating_last(rows, extra)
    return {
        name: _take(value, padded)
        if isinstance(value, tf.Tensor)
        else _pad(value, rows, extra, multiple)
        for name, value in inputs.items()
    }


def _pad(
    value: tf.SparseTensor | tf.RaggedTensor, rows: tf.Tensor, extra: tf.Tensor, multiple: int
) -> Any:
    if isinstance(value, tf.SparseTensor):
        count = tf.size(value.values, out_type=tf.int64)
        more = (-count) % multiple
        at_row = rows + tf.range(more, dtype=tf.int64)
        padding = tf.stack([at_row, tf.zeros_like(at_row)], axis=1)
        width = tf.maximum(value.dense_shape[1], tf.cast(more > 0, tf.int64))
        return tf.SparseTensor(
            tf.concat([value.indices, padding], 0),
            _take(value.values, _repeating_last(count, more)),
            tf.stack([rows + extra, width]),
        )
    flat = value.flat_values
    count = tf.shape(flat, out_type=tf.int64)[0]
    more = (-count) % multiple
    lengths = tf.cast(tf.range(extra) < more, value.row_splits.dtype)
    splits = tf.concat([value.row_splits, value.row_splits[-1] + tf.cumsum(lengths)], 0)
    values = _take(flat, _repeating_last(count, more))
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def _repeating_last(count: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
    """Return 0 to `count` - 1, then `more` times the last of them."""
    return tf.minimum(tf.range(count + more, dtype=tf.int64), tf.maximum(count - 1, 0))


def _take(values: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    shape = values.shape[:0].concatenate([None]).concatenate(values.shape[1:])
    return tf.ensure_shape(tf.gather(values, at), shape)


def slice_rows(value: Any, rows: tf.Tensor) -> Any:
    """Return the first `rows` rows of a tensor of any kind."""
    if isinstance(value, tf.SparseTensor):
        kept = tf.sparse.retain(value, value.indices[:, 0] < rows)
        shape = tf.concat([[rows], value.dense_shape[1:]], 0)
        return tf.SparseTensor(kept.indices, kept.values, shape)
    return value[:rows]


def _row_count(inputs: Tensors) -> tf.Tensor:
    value = next(iter(inputs.values()))
    if isinstance(value, tf.SparseTensor):
        return tf.cast(value.dense_shape[0], tf.int64)
    if isinstance(value, tf.RaggedTensor):
        return tf.cast(value.nrows(), tf.int64)
    return tf.shape(value, out_type=tf.int64)[0]


def _rank(feature: Any, spec: Any) -> int:
    if isinstance(spec, tf.io.FixedLenFeature):
        return 2 if any(size != 1 for size in spec.shape) else 1
    return 2 if feature.value_count.max != 1 and feature.HasField("value_count") else 1


def _as_spec(value: tf.Tensor, spec: Any, missing: int | None) -> Any:
    """Turn a dense tensor with written-out missing values into what the graph expects."""
    if isinstance(spec, tf.io.FixedLenFeature):
        return tf.reshape(value, [-1, *spec.shape])
    where = tf.where(_is_present(value, missing))
    shape = tf.shape(value, out_type=tf.int64)
    if value.shape.rank == 1:
        # At most one value a row, and so no holes to look for.
        indices = tf.pad(where, [[0, 0], [0, 1]])
        shape = tf.concat([shape, [1]], 0)
        return tf.SparseTensor(indices, tf.gather(value, where[:, 0]), shape)
    return _without_holes(tf.SparseTensor(where, tf.gather_nd(value, where), shape))


def _settle(feature: Any) -> Any:
    """Return a feature as a tf.Example holds it: without the places that a function left out."""
    if isinstance(feature, tf.SparseTensor) and feature.shape.rank == 2:
        return _without_holes(feature)
    return feature


def _without_holes(value: tf.SparseTensor) -> tf.SparseTensor:
    """Move the values of each row up: a missing one is not an element of a list."""
    rows = value.indices[:, 0]
    first = tf.searchsorted(rows, rows, out_type=tf.int64)
    at = tf.range(tf.size(rows, tf.int64)) - first
    return tf.SparseTensor(tf.stack([rows, at], axis=1), value.values, value.dense_shape)


def _is_present(values: tf.Tensor, missing: int | None) -> tf.Tensor:
    if values.dtype == tf.string:
        return tf.strings.length(values) > 0
    if values.dtype == tf.int64:
        return values != tf.constant(missing, tf.int64)
    return tf.logical_not(tf.math.is_nan(values))
