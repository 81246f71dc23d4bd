"""Raw rows as serialized `tf.train.Example`s, the way a client of `serving_default` writes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from skewless.arrays import raw_arrays
from skewless.schema import Schema

__all__ = ["raw_examples"]


def raw_examples(batch: pa.RecordBatch, schema: Schema, nulls: Collection[str] = ()) -> list[bytes]:
    """Return each row as an Example with the columns of `schema`; what is null is left out.

    Args:
        batch: Rows with at least the schema's columns.
        schema: The raw columns wanted.
        nulls: The columns of which what is null is written too, as a feature of no values.

    Raises:
        RecipeError: If the batch lacks a column.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("a", pa.int64(), required=False)])
    >>> raw_examples(pa.RecordBatch.from_pydict({"a": pa.array([None], pa.int64())}), schema)
    [b'']
    """
    arrays = raw_arrays(batch, schema)
    values = [_row_values(batch.column(name), array) for name, array in arrays.items()]
    written = [name in nulls for name in arrays]
    return [_example(arrays, row, written) for row in zip(*values, strict=True)]


def _row_values(column: pa.Array, array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any] | None]:
    """Yield the values of each row, None for null."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if array.ndim == 1:
        lengths = np.ones(len(array), np.int64)
    else:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    for row, (there, length) in enumerate(zip(valid.tolist(), lengths.tolist(), strict=True)):
        yield array[row : row + 1].ravel()[:length] if there else None


def _example(names: Any, row: tuple[npt.NDArray[Any] | None, ...], nulls: list[bool]) -> bytes:
    example = tf.train.Example()
    features = example.features.feature
    for name, values, written in zip(names, row, nulls, strict=True):
        if values is not None:
            _write(features[name], values)
        elif written:
            features[name].SetInParent()
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _write(feature: Any, values: npt.NDArray[Any]) -> None:
    if values.dtype == object:
        feature.bytes_list.value.extend(values.tolist())
    elif values.dtype == np.float32:
        feature.float_list.value.extend(values)
    else:
        feature.int64_list.value.extend(values)
