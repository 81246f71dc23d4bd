"""A model made by hand, as an export lays it out: it doubles a number, and reads another."""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import tensorflow as tf

from skewless.schema import Schema, format_schema, make_feature, make_schema

# `code` must be digits, or missing: the graph fails at anything else.
COLUMNS = {
    "x": (pa.float32(), True),
    "code": (pa.string(), False),
    "at": (pa.timestamp("s", tz="UTC"), False),
}


def schema() -> Schema:
    return make_schema(
        make_feature(name, type_, required=required) for name, (type_, required) in COLUMNS.items()
    )


class _Doubler(tf.Module):
    def predict(self, x, code, at):
        number = tf.strings.to_number(tf.where(code == "", "0", code))
        return {"prediction": 2 * x + number + 0 * tf.cast(at, tf.float32)}

    def predict_examples(self, examples):
        return {"prediction": tf.zeros(tf.shape(examples))}


def write_model(folder: pathlib.Path, version: int = 1) -> pathlib.Path:
    """Write a version of the model; return the folder of versions."""
    doubler = _Doubler()
    kinds = {"x": tf.float32, "code": tf.string, "at": tf.int64}
    columns = {name: tf.TensorSpec([None], kind, name) for name, kind in kinds.items()}
    rows = tf.function(doubler.predict, autograph=False).get_concrete_function(**columns)
    examples = tf.function(doubler.predict_examples, autograph=False).get_concrete_function(
        tf.TensorSpec([None], tf.string, "examples")
    )
    signatures = {"predict_rows": rows, "transform": rows, "serving_default": examples}
    path = folder / str(version)
    tf.saved_model.save(doubler, str(path), signatures=signatures)
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / "schema.pbtxt").write_text(format_schema(schema()))
    about = {"name": "doubler", "task": "regression", "class_names": []}
    (extra / "model.json").write_text(json.dumps(about))
    return folder
