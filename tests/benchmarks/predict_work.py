"""Predict the rows of Parquet files into Parquet files: skewless, or Beam's RunInference.

The clock starts after the imports; it stops when the last file is written. RunInference is
used as Beam's documentation has it, fed row by row, with its own choice of batches: once with
a row's columns as the inputs of the model, once with rows as tf.train.Examples. It reads no
column but those of the model and of a key, and writes no more than key and prediction;
skewless reads and writes all columns.
"""

from __future__ import annotations

import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.arrays import argument_names
from skewless.pipeline.bulk_predicting import BulkPrediction, predict_in_bulk
from skewless.pipeline.predicting import read_model_schema
from skewless.pipeline.prediction_rows import source_of
from skewless.schema import Schema, column_names, missing_int
from tests.benchmarks.predicting import KEY
from tests.benchmarks.work import Job

# Beam imports it, and needs it only for models that are published elsewhere.
sys.modules.setdefault("tensorflow_hub", types.ModuleType("tensorflow_hub"))
from apache_beam.ml.inference.tensorflow_inference import (  # noqa: E402
    TFModelHandlerNumpy,
    TFModelHandlerTensor,
)

_OUT = pa.schema(
    [
        ("carrier", pa.string()),
        ("flight", pa.int64()),
        ("origin", pa.string()),
        ("time_hour", pa.timestamp("ms", tz="UTC")),
        ("prediction", pa.float32()),
    ]
)


def run(job: Job) -> dict[str, Any]:
    variant, model, pattern = job.options
    WAYS[variant](pathlib.Path(model), pattern, job.output / "predicted")
    return {}


def _skewless(model: pathlib.Path, pattern: str, output: pathlib.Path) -> None:
    predict_in_bulk(BulkPrediction(model, source_of([pattern], model), output))


def _run_inference(
    pattern: str, output: pathlib.Path, schema: Schema, to_input: beam.PTransform, handler: Any
) -> None:
    output.mkdir()
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromParquet(pattern, columns=sorted({*column_names(schema), *KEY}))
            | to_input
            | RunInference(KeyedModelHandler(handler))
            | beam.Map(_answer)
            | beam.io.WriteToParquet(str(output / "part"), _OUT)
        )


def _answer(keyed: tuple[tuple[Any, ...], PredictionResult]) -> dict[str, Any]:
    key, result = keyed
    return {**dict(zip(KEY, key, strict=True)), "prediction": float(result.inference)}


# --- An element is a row's columns ------------------------------------------------------


def _columns(model: pathlib.Path, pattern: str, output: pathlib.Path) -> None:
    schema = read_model_schema(model)
    missing = {feature.name: _missing(feature) for feature in schema.feature}
    to_input = beam.Map(_as_arrays, argument_names(schema), missing)
    handler = OfColumns(str(model), inference_fn=_predict_columns)
    _run_inference(pattern, output, schema, to_input, handler)


def _missing(feature: schema_pb2.Feature) -> tuple[Any, Any]:
    """Return what is written for a missing value, and the type of all values."""
    if feature.type == schema_pb2.BYTES:
        return b"", object
    if feature.type == schema_pb2.INT:
        return missing_int(feature), np.int64
    return np.nan, np.float32


def _as_arrays(
    row: dict[str, Any], arguments: Mapping[str, str], missing: Mapping[str, tuple[Any, Any]]
) -> tuple[Any, dict[str, Any]]:
    found = {}
    for name, argument in arguments.items():
        value, (lacking, type_) = _plain(row[name]), missing[name]
        found[argument] = np.array(lacking if value is None else value, type_)
    return tuple(row[name] for name in KEY), found


def _plain(value: Any) -> Any:
    """Return a time as the model has it, in seconds."""
    return int(value.timestamp()) if hasattr(value, "timestamp") else value


class OfColumns(TFModelHandlerTensor):  # type: ignore[misc]
    """Opens a SavedModel as TensorFlow does: Keras, which Beam asks, no longer opens any."""

    def load_model(self) -> Any:
        return _Signature(self._model_uri, "predict_rows")


class _Signature:
    def __init__(self, path: str, name: str) -> None:
        self._model = tf.saved_model.load(path)
        self.call = self._model.signatures[name]


def _predict_columns(
    model: _Signature, batch: Sequence[Mapping[str, Any]], _: Any, model_id: str | None = None
) -> Iterable[PredictionResult]:
    stacked = {name: tf.constant(np.stack([row[name] for row in batch])) for name in batch[0]}
    return _results(batch, model.call(**stacked), model_id)


def _results(
    batch: Sequence[Any], outputs: Mapping[str, Any], model_id: str | None
) -> Iterator[PredictionResult]:
    for row, one in zip(batch, outputs["prediction"].numpy(), strict=True):
        yield PredictionResult(row, one, model_id)


# --- An element is a tf.train.Example ---------------------------------------------------


def _examples(model: pathlib.Path, pattern: str, output: pathlib.Path) -> None:
    schema = read_model_schema(model)
    to_input = beam.Map(_as_example, {f.name: f.type for f in schema.feature})
    handler = OfExamples(str(model), inference_fn=_predict_examples)
    _run_inference(pattern, output, schema, to_input, handler)


def _as_example(row: dict[str, Any], types_of: Mapping[str, int]) -> tuple[Any, Any]:
    example = tf.train.Example()
    for name, type_ in types_of.items():
        value = _plain(row[name])
        if value is None:
            continue
        feature = example.features.feature[name]
        if type_ == schema_pb2.BYTES:
            feature.bytes_list.value.append(value.encode())
        elif type_ == schema_pb2.INT:
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.append(value)
    return tuple(row[name] for name in KEY), np.array(example.SerializeToString(), object)


class OfExamples(TFModelHandlerNumpy):  # type: ignore[misc]
    """As `OfColumns`."""

    def load_model(self) -> Any:
        return _Signature(self._model_uri, "serving_default")


def _predict_examples(
    model: _Signature, batch: Sequence[Any], _: Any, model_id: str | None = None
) -> Iterable[PredictionResult]:
    return _results(batch, model.call(examples=tf.constant(np.stack(batch))), model_id)


WAYS = {
    "skewless": _skewless,
    "run_inference": _columns,
    "run_inference_examples": _examples,
}
