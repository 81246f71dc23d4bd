"""The features, as plain tf.Transform functions: the same for everybody who has a graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from tests.benchmarks.work import WIDE

# 16 airlines, and one more number for those not seen in training.
CARRIERS = 17
LATE_AFTER = 15

Tensors = dict[str, Any]


def dense(values: tf.SparseTensor) -> tf.Tensor:
    """Return an optional column with 0, or no text, where a row has nothing."""
    default = "" if values.dtype == tf.string else 0
    narrow = tf.SparseTensor(values.indices, values.values, [values.dense_shape[0], 1])
    return tf.sparse.to_dense(narrow, default)[:, 0]


def flights(inputs: Tensors) -> Tensors:
    """Make 15 features, the label among them."""
    carrier = tft.compute_and_apply_vocabulary(inputs["carrier"], num_oov_buckets=1)
    angle = tf.cast(inputs["hour"], tf.float32) * (2 * math.pi / 24)
    return {
        "distance": tft.scale_to_z_score(inputs["distance"]),
        "dep_delay": tft.scale_to_z_score(dense(inputs["dep_delay"])),
        "air_time": tft.scale_to_z_score(dense(inputs["air_time"])),
        "sched_dep_time": tft.scale_to_0_1(inputs["sched_dep_time"]),
        "sched_arr_time": tft.scale_to_0_1(inputs["sched_arr_time"]),
        "minute": tft.scale_to_0_1(inputs["minute"]),
        "distance_bucket": tft.bucketize(inputs["distance"], 10),
        "dep_time_bucket": tft.bucketize(dense(inputs["dep_time"]), 20),
        "carrier": tf.one_hot(carrier, CARRIERS),
        "origin": tft.compute_and_apply_vocabulary(inputs["origin"]),
        "dest": tft.compute_and_apply_vocabulary(inputs["dest"], num_oov_buckets=1),
        "tail_hash": tft.hash_strings(dense(inputs["tailnum"]), 512),
        "hour_sin": tf.sin(angle),
        "hour_cos": tf.cos(angle),
        "late": tf.cast(dense(inputs["arr_delay"]) > LATE_AFTER, tf.int64),
    }


def wide(inputs: Tensors) -> Tensors:
    """Scale 2,000 columns."""
    return {name: tft.scale_to_z_score(inputs[name]) for name in WIDE.needed[1:]}


FUNCTIONS: dict[str, Callable[[Tensors], Tensors]] = {"flights": flights, "wide": wide}
