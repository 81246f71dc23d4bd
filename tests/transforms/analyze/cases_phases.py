"""Analyzers of what other analyzers found, as real functions have them."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import Case, Tensors, filled


def phases(inputs: Tensors) -> Tensors:
    """Impute, scale, cut into buckets, count the buckets; look words up, scale their numbers."""
    o = inputs["o"]
    there = tf.sparse.to_dense(
        tf.SparseTensor(o.indices, tf.ones_like(o.values), [o.dense_shape[0], 1])
    )
    imputed = tf.where(there[:, 0] > 0, filled(o), tft.min(o) / 2)
    scaled = tft.scale_to_0_1(imputed)
    bucket = tft.bucketize(scaled, 5)
    counted = tft.compute_and_apply_vocabulary(bucket, vocab_filename="buckets")
    ids = tft.compute_and_apply_vocabulary(inputs["s"], vocab_filename="s", num_oov_buckets=1)
    most = tft.max(ids)
    cross = tf.strings.join([inputs["s"], tf.strings.as_string(bucket)], separator="_x_")
    crossed = tft.compute_and_apply_vocabulary(cross, vocab_filename="crossed", top_k=9)
    largest = tft.max(crossed)
    return {
        "imputed": imputed,
        "scaled": scaled,
        "bucket": bucket,
        "counted": counted,
        "ids": ids,
        "share": tf.cast(ids, tf.float32) / tf.cast(most, tf.float32),
        "of_ids": tft.bucketize(ids, 3),
        "ids_by_key": tft.scale_to_0_1_per_key(tf.cast(ids, tf.float32), inputs["key"]),
        "crossed": crossed,
        "beyond": tf.cast(crossed > largest, tf.int64),
        "z_of_bucket": tft.scale_to_z_score(tf.cast(bucket, tf.float32)),
    }


def without_analyzers(inputs: Tensors) -> Tensors:
    """Nothing to analyze at all."""
    return {"twice": inputs["x"] * 2, "hashed": tft.hash_strings(inputs["s"], 9)}


def control_flow(inputs: Tensors) -> Tensors:
    """Analyzers of what branches, loops and functions give."""
    x = inputs["x"]
    folded = tf.cond(tf.size(x) >= 0, lambda: tf.abs(x), lambda: x)
    looped = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v / 2), [0, x])[1]
    mapped = tf.map_fn(lambda row: tf.reduce_max(row), inputs["vector"])
    called = tf.function(lambda v: v * 3)(x)
    return {
        "folded": tft.scale_to_0_1(folded),
        "looped": tft.bucketize(looped, 4),
        "mapped": tft.scale_to_0_1(mapped),
        "called": tft.scale_to_0_1(called),
    }


CASES = (
    # Plain tf.Transform fails on the FnApiRunner when three phases follow each other.
    Case("phases", phases, close={"z": 1e-4}, runner="BundleBasedDirectRunner"),
    Case("without-analyzers", without_analyzers),
    Case("control-flow", control_flow),
)
