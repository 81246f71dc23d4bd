"""Raw rows as serialized `tf.train.Example`s, the way a client of `serving_default` writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from skewless.arrays import raw_arrays
from skewless.schema import Schema

__all__ = ["raw_examples"]


def raw_examples(batch: pa.RecordBatch, schema: Schema) -> list[bytes]:
    """Return each row as an Example with the columns of `schema`; what is null is left out.

    Args:
        batch: Rows with at least the schema's columns.
        schema: The raw columns wanted.

    Raises:
        RecipeError: If the batch lacks a column.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("a", pa.int64(), required=False)])
    >>> raw_examples(pa.RecordBatch.from_pydict({"a": pa.array([None], pa.int64())}), schema)
    [b'']
    """
    return [_example(batch.slice(row, 1), schema) for row in range(batch.num_rows)]


def _example(row: pa.RecordBatch, schema: Schema) -> bytes:
    example = tf.train.Example()
    for name, values in raw_arrays(row, schema).items():
        if row.column(name).null_count == 0:
            _write(example.features.feature[name], values.ravel())
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _write(feature: Any, values: npt.NDArray[Any]) -> None:
    if values.dtype == object:
        feature.bytes_list.value.extend(values.tolist())
    elif values.dtype == np.float32:
        feature.float_list.value.extend(values)
    else:
        feature.int64_list.value.extend(values)
