"""Raw rows in the form that tf.Transform's own analysis takes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx_bsl.tfxio import tensor_adapter, tensor_representation_util

from skewless.errors import DataError, no_such_column
from skewless.schema import Schema, arrow_type, is_required

__all__ = ["adapter_config", "as_tensor_columns", "raw_columns"]


def raw_columns(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return the columns of `schema` alone.

    Raises:
        RecipeError: If the batch lacks a column.
        DataError: If a row lacks a required value.
    """
    names = set(batch.schema.names)
    for feature in schema.feature:
        if feature.name not in names:
            raise no_such_column(feature.name, batch.schema.names, "rows")
        column = batch.column(feature.name)
        if is_required(feature) and column.null_count:
            raise DataError(
                f'rows: column "{feature.name}" is required by the schema, but '
                f"{column.null_count} of {len(column)} rows have no value; reject them before "
                "(Validate), or make the column optional"
            )
    return batch.select([feature.name for feature in schema.feature])


def as_tensor_columns(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return raw rows as tf.Transform's TensorAdapter takes them.

    Args:
        batch: Raw rows; columns that are not in `schema` are dropped.
        schema: The raw schema.

    Returns:
        A batch in which each column is large_list<int64 | float | large_binary>, and a
        missing value is an empty list.

    Raises:
        RecipeError: If the batch lacks a column.
        DataError: If a row lacks a required value.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("n", pa.float32(), required=False)])
    >>> batch = pa.RecordBatch.from_pydict({"n": pa.array([1, None], pa.float32())})
    >>> as_tensor_columns(batch, schema).column("n").to_pylist()
    [[1.0], []]
    """
    raw = raw_columns(batch, schema)
    arrays = [
        _as_lists(raw.column(feature.name), _value_type(arrow_type(feature)))
        for feature in schema.feature
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[f.name for f in schema.feature])


def _as_lists(column: pa.Array, value_type: pa.DataType) -> pa.Array:
    """Return a column as lists of its values, a missing value being no element."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = pc.list_flatten(column)
        parents = pc.list_parent_indices(column).filter(values.is_valid())
        sizes = np.bincount(parents.to_numpy(), minlength=len(column))
    else:
        values = column
        sizes = column.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values.drop_null().cast(value_type))


def _value_type(type_: pa.DataType) -> pa.DataType:
    value = type_.value_type if pa.types.is_list(type_) else type_
    if pa.types.is_timestamp(value):
        return pa.int64()
    return pa.large_binary() if pa.types.is_string(value) else value


def adapter_config(schema: Schema) -> tensor_adapter.TensorAdapterConfig:
    """Return how tf.Transform makes tensors of `as_tensor_columns(batch, schema)`."""
    types = [pa.field(f.name, pa.large_list(_value_type(arrow_type(f)))) for f in schema.feature]
    return tensor_adapter.TensorAdapterConfig(
        pa.schema(types),
        tensor_representation_util.InferTensorRepresentationsFromMixedSchema(schema),
    )
