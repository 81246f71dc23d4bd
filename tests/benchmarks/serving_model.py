"""A model as every server but ours loads it: raw rows in, predictions out, by TensorFlow alone.

The environments of the peers have no skewless, so nothing here needs it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

# From so many rows on, a tensor a column is faster than an Example a row.
MANY = 16
MISSING = {tf.string: "", tf.float32: float("nan"), tf.int64: -(2**63)}
TIMES = ("time_hour",)

Row = Mapping[str, Any]


class Model:
    """An exported model of rows without lists.

    Args:
        path: The directory of its version; by default what the environment names.
    """

    def __init__(self, path: str = "") -> None:
        # Who calls a signature must keep the model, whose tables it reads.
        self._model = tf.saved_model.load(path or os.environ["SERVING_MODEL"])
        self._by_example = self._model.signatures["serving_default"]
        self._by_column = self._model.signatures["predict_rows"]
        self._columns = self._by_column.structured_input_signature[1]

    def predict(self, rows: Sequence[Row]) -> list[float]:
        """Return the predictions for raw rows, the faster way for so many."""
        if len(rows) < MANY:
            examples = [self.example(row) for row in rows]
            found = self._by_example(examples=tf.constant(examples, tf.string))
        else:
            named = {name: self._column(name, rows) for name in self._columns}
            found = self._by_column(**named)
        predictions: list[float] = found["prediction"].numpy().tolist()
        return predictions

    def example(self, row: Row) -> bytes:
        """Return a raw row as a serialized tf.train.Example."""
        example = tf.train.Example()
        features = example.features.feature
        for name, spec in self._columns.items():
            value = row.get(name)
            if value is None:
                continue
            if spec.dtype == tf.string:
                features[name].bytes_list.value.append(value.encode())
            elif spec.dtype == tf.int64:
                features[name].int64_list.value.append(_number(name, value))
            else:
                features[name].float_list.value.append(value)
        serialized: bytes = example.SerializeToString()
        return serialized

    def _column(self, name: str, rows: Sequence[Row]) -> tf.Tensor:
        dtype = self._columns[name].dtype
        missing = MISSING[dtype]
        values = [row.get(name) for row in rows]
        values = [missing if value is None else value for value in values]
        if name in TIMES:
            values = [_number(name, value) for value in values]
        return tf.constant(values, dtype)


def _number(name: str, value: Any) -> int:
    if name in TIMES and isinstance(value, str):
        time = datetime.datetime.fromisoformat(value)
        return int(time.timestamp())
    return int(value)
