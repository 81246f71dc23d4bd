"""Analyzers and mappers by key: dense, sparse, ragged, weighted, and by a file of keys."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import Case, Tensors, first_row


def keys(inputs: Tensors) -> Tensors:
    """Everything that is done for each key apart."""
    x, i, key = inputs["x"], inputs["i"], inputs["key"]
    numbers, their_keys = inputs["numbers"], inputs["keys"]
    vector = inputs["vector"]
    ragged = tf.RaggedTensor.from_sparse(numbers)
    features = {
        "min_max_x": tft.scale_by_min_max_per_key(x, key, -1, 3),
        "min_max_by_row": tft.scale_by_min_max_per_key(numbers, key, output_min=-1, output_max=3),
        "zero_one_numbers": tft.scale_to_0_1_per_key(numbers, their_keys),
        "z_x": tft.scale_to_z_score_per_key(x, key),
        "z_i": tft.scale_to_z_score_per_key(i, key),
        "z_vector": tft.scale_to_z_score_per_key(vector, key),
        "z_by_row": tft.scale_to_z_score_per_key(numbers, key),
    }
    for name in ("min_max", "zero_one", "z"):
        scale = getattr(tft, _SCALERS[name])
        features[f"{name}_each"] = scale(vector, key, elementwise=True)
        features[f"{name}_file"] = scale(x, key, key_vocabulary_filename=f"{name} by key")
    by_ragged = tf.RaggedTensor.from_sparse(their_keys)
    features["z_ragged"] = tft.scale_to_z_score_per_key(ragged, by_ragged).to_sparse()
    as_double = tft.scale_to_z_score_per_key(x, key, output_dtype=tf.float64)
    features["z_as_double"] = tf.cast(as_double, tf.float32)
    weights = inputs["w"]
    features["bucket_x"] = tft.bucketize_per_key(x, key, 3)
    features["bucket_fine"] = tft.bucketize_per_key(x, key, num_buckets=9, epsilon=0.001)
    features["bucket_weighted"] = tft.bucketize_per_key(x, key, 4, weights=weights)
    features["bucket_numbers"] = tft.bucketize_per_key(numbers, their_keys, num_buckets=3)
    return features


_SCALERS = {
    "min_max": "scale_by_min_max_per_key",
    "zero_one": "scale_to_0_1_per_key",
    "z": "scale_to_z_score_per_key",
}


def counts(inputs: Tensors) -> Tensors:
    """How often each key is there."""
    kinds = {
        "s": inputs["s"],
        "label": inputs["label"],
        "i": inputs["i"],
        "words": inputs["words"],
        "ragged": tf.RaggedTensor.from_sparse(inputs["words"]),
        "n": inputs["n"],
    }
    features = {}
    for name, value in kinds.items():
        found, count = tft.count_per_key(value)
        features[f"keys_{name}"] = first_row(inputs, found)
        features[f"counts_{name}"] = first_row(inputs, count)
    path = tft.count_per_key(inputs["key"], key_vocabulary_filename="counts by key")
    features["has_file"] = tf.zeros_like(inputs["i"]) + tf.cast(tf.size(path), tf.int64)
    return features


CASES = (
    Case("keys", keys, close={"z": 1e-3}, close_assets={"z by key": 1e-5}),
    Case("counts", counts),
)
