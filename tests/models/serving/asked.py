"""Rows of the small model, as Examples."""

import tensorflow as tf

ROWS = [
    {"x": 0.5, "o": 4.5, "n": 3, "carrier": "AA", "tags": ["red", "new"]},
    {"x": -1.25, "carrier": "??", "tags": []},
    {"x": 2.0, "n": 1, "tags": ["blue"]},
]
_KINDS = {"x": "float_list", "o": "float_list", "n": "int64_list"}


def example(row) -> tf.train.Example:
    made = tf.train.Example()
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if name not in _KINDS:
            values = [text.encode() for text in values]
        getattr(made.features.feature[name], _KINDS.get(name, "bytes_list")).value.extend(values)
    return made


def serialized(rows) -> list[bytes]:
    return [example(row).SerializeToString() for row in rows]
