"""Beam's MLTransform as its documentation has it, for rows as dicts.

Write mode on the training rows, then read mode, in a second pipeline, on the others. What
has no operation of its own is a `TFTOperation` of the user's, as the documentation says:
one-hot, sine and cosine, the label.
https://beam.apache.org/documentation/ml/preprocess-data/
"""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.tft import (
    Bucketize,
    ComputeAndApplyVocabulary,
    HashStrings,
    ScaleTo01,
    ScaleToZScore,
    TFTOperation,
    register_input_dtype,
)
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tests.benchmarks.canonical import split_of
from tests.benchmarks.graphs import CARRIERS, LATE_AFTER
from tests.benchmarks.work import WORKS, Job

FLOATS = (
    *("distance", "dep_delay", "air_time", "sched_dep_time", "sched_arr_time", "minute"),
    *("carrier", "hour_sin", "hour_cos"),
)
INTEGERS = ("distance_bucket", "dep_time_bucket", "origin", "dest", "tail_hash", "late")


@register_input_dtype(str)
class OneHotVocabulary(TFTOperation):
    """A vocabulary, its numbers one-hot."""

    def apply_transform(self, data: Any, output_column_name: str) -> dict[str, Any]:
        numbers = tft.compute_and_apply_vocabulary(data, num_oov_buckets=1)
        return {output_column_name: tf.one_hot(tf.sparse.to_dense(numbers)[:, 0], CARRIERS)}


@register_input_dtype(float)
class Cyclic(TFTOperation):
    """Sine and cosine of an hour."""

    def apply_transform(self, data: Any, output_column_name: str) -> dict[str, Any]:
        angle = tf.reshape(tf.sparse.to_dense(data), [-1, 1]) * (2 * math.pi / 24)
        return {
            f"{output_column_name}_sin": tf.sin(angle),
            f"{output_column_name}_cos": tf.cos(angle),
        }


@register_input_dtype(float)
class IsLate(TFTOperation):
    """The label."""

    def apply_transform(self, data: Any, output_column_name: str) -> dict[str, Any]:
        delay = tf.reshape(tf.sparse.to_dense(data), [-1, 1])
        return {output_column_name: tf.cast(delay > LATE_AFTER, tf.int64)}


OPERATIONS = (
    ScaleToZScore(["distance", "dep_delay", "air_time"]),
    ScaleTo01(["sched_dep_time", "sched_arr_time", "minute"]),
    Bucketize(["distance_bucket"], num_buckets=10),
    Bucketize(["dep_time_bucket"], num_buckets=20),
    OneHotVocabulary(["carrier"]),
    ComputeAndApplyVocabulary(["origin"]),
    ComputeAndApplyVocabulary(["dest"], num_oov_buckets=1),
    HashStrings(["tail_hash"], hash_buckets=512),
    Cyclic(["hour"]),
    IsLate(["late"]),
)


def to_row(line: bytes, names: list[str]) -> dict[str, Any]:
    """Return a line as a row with a column for each operation: each changes its own."""
    cells = dict(zip(names, line.decode().split(","), strict=True))
    return {
        "distance": float(cells["distance"]),
        "dep_delay": float(cells["dep_delay"] or 0),
        "air_time": float(cells["air_time"] or 0),
        "sched_dep_time": float(cells["sched_dep_time"]),
        "sched_arr_time": float(cells["sched_arr_time"]),
        "minute": float(cells["minute"]),
        "distance_bucket": float(cells["distance"]),
        "dep_time_bucket": float(cells["dep_time"] or 0),
        "carrier": cells["carrier"],
        "origin": cells["origin"],
        "dest": cells["dest"],
        "tail_hash": cells["tailnum"],
        "hour": float(cells["hour"]),
        "late": float(cells["arr_delay"] or 0),
    }


def to_example(row: beam.Row) -> bytes:
    values = row.as_dict()
    feature = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=values[name].ravel()))
        for name in FLOATS
    }
    for name in INTEGERS:
        feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values[name]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def run(job: Job) -> None:
    is_train = {key.encode(): train for key, train in json.loads(job.split.read_text()).items()}
    schema = text_format.Parse(job.schema.read_text(), schema_pb2.Schema())
    parse = functools.partial(to_row, names=[feature.name for feature in schema.feature])
    artifacts = str(job.transform_graph)
    with beam.Pipeline("FnApiRunner") as pipeline:
        lines = pipeline | beam.io.ReadFromText(
            str(job.csv), skip_header_lines=1, coder=beam.coders.BytesCoder()
        )
        train, evaluation = lines | beam.Partition(split_of, 2, WORKS[job.work], is_train)
        _ = (
            train
            | beam.Map(parse)
            | MLTransform(write_artifact_location=artifacts, transforms=list(OPERATIONS))
            | beam.Map(to_example)
            | beam.io.WriteToTFRecord(str(job.output / "train"), file_name_suffix=".tfrecord.gz")
        )
        _ = evaluation | beam.io.WriteToText(
            str(job.temporary / "eval"), coder=beam.coders.BytesCoder()
        )
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromText(str(job.temporary / "eval*"), coder=beam.coders.BytesCoder())
            | beam.Map(parse)
            | MLTransform(read_artifact_location=artifacts)
            | beam.Map(to_example)
            | beam.io.WriteToTFRecord(str(job.output / "eval"), file_name_suffix=".tfrecord.gz")
        )
