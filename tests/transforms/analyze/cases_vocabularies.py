"""Vocabularies: how they are ordered, cut off, written and applied."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import Case, Tensors, fewer, filled


def frequencies(inputs: Tensors) -> Tensors:
    """Vocabularies in the order of frequency, of every kind of tensor, cut off in every way."""
    s, words, n = inputs["s"], inputs["words"], inputs["n"]
    w = inputs["w"]
    made = {
        "all": (s, {}),
        "tied_top": (inputs["t"], {"top_k": 3}),
        "often": (words, {"top_k": 6, "frequency_threshold": 30}),
        "ragged": (tf.RaggedTensor.from_sparse(words), {"top_k": 4}),
        "top_numbers": (n, {"top_k": 4}),
        "large_numbers": (inputs["i"], {"frequency_threshold": 2}),
        "weighted": (s, {"weights": w}),
        "weighted_top": (s, {"weights": w, "top_k": 3, "frequency_threshold": 50}),
        "weighted_words": (words, {"weights": _weights(words)}),
        "shuffled": (s, {"fingerprint_shuffle": True}),
        "records": (s, {"file_format": "tfrecord_gzip"}),
        "reserved_top": (s, {"reserved_tokens": ["<pad>", "b"], "top_k": 4}),
        "covered": (s, {"key_fn": first_letter, "coverage_top_k": 1, "top_k": 3}),
        "covered_often": (
            words,
            {
                "key_fn": first_letter,
                "coverage_top_k": 2,
                "coverage_frequency_threshold": 20,
                "frequency_threshold": 60,
            },
        ),
    }
    return _applied(made)


def stored(inputs: Tensors) -> Tensors:
    """Vocabularies with frequencies in the file, which go another way where none are."""
    s, w = inputs["s"], inputs["w"]
    made = {
        "counted": (s, {"store_frequency": True}),
        "counted_numbers": (inputs["n"], {"store_frequency": True}),
        "weighed": (s, {"store_frequency": True, "weights": w}),
        "weighed_top": (s, {"store_frequency": True, "weights": w, "top_k": 4}),
        "weighed_records": (
            s,
            {"store_frequency": True, "weights": w, "file_format": "tfrecord_gzip"},
        ),
        "counted_reserved": (s, {"store_frequency": True, "reserved_tokens": ["<pad>"]}),
        "counted_records": (s, {"store_frequency": True, "file_format": "tfrecord_gzip"}),
        "counted_covered": (
            s,
            {"store_frequency": True, "key_fn": first_letter, "coverage_top_k": 1, "top_k": 3},
        ),
    }
    return _applied(made)


def informative(inputs: Tensors) -> Tensors:
    """Vocabularies in the order of what tokens say of a label."""
    s, words, label, w = inputs["s"], inputs["words"], inputs["label"], inputs["w"]
    unique = tft.deduplicate_tensor_per_row(words)
    several = tf.sparse.from_dense(tf.stack([label, label % 2], axis=1) + 1)
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "labelled_above": (s, {"labels": label, "frequency_threshold": 0.5, "top_k": 4}),
        "labelled_words": (unique, {"labels": label, "min_diff_from_avg": 0.0}),
        "labelled_numbers": (inputs["n"], {"labels": label}),
        "labelled_weighted": (s, {"labels": label, "weights": w}),
        "labelled_several": (s, {"labels": several}),
        "adjusted_words": (
            unique,
            {"labels": label, "use_adjusted_mutual_info": True, "min_diff_from_avg": 1.0},
        ),
        "adjusted_weighted": (
            s,
            {"labels": label, "use_adjusted_mutual_info": True, "weights": tf.round(w) + 1},
        ),
    }
    # Stored, so that the numbers are compared and not only the order.
    return _applied({name: (x, {**how, **_STORED}) for name, (x, how) in made.items()})


_STORED = {"store_frequency": True}


def applied(inputs: Tensors) -> Tensors:
    """The parts by themselves, and what stands for a value that is in no vocabulary."""
    s, words, text, number = inputs["s"], inputs["words"], filled(inputs["t"]), inputs["n"]
    few = {"top_k": 3}
    path = tft.vocabulary(s, vocab_filename="by itself", top_k=6, frequency_threshold=3)
    records = tft.vocabulary(words, vocab_filename="as records", file_format="tfrecord_gzip")
    tft.vocabulary(s, vocab_filename="not applied", store_frequency=True, weights=inputs["w"])
    tft.vocabulary(inputs["t"], name="unnamed")
    tft.vocabulary(
        s,
        vocab_filename="of labels",
        labels=inputs["label"],
        use_adjusted_mutual_info=False,
        min_diff_from_avg=None,
        reserved_tokens=["<pad>"],
        fingerprint_shuffle=True,
    )
    tft.vocabulary(
        s,
        vocab_filename="covered",
        top_k=2,
        key_fn=first_letter,
        coverage_top_k=2,
        coverage_frequency_threshold=5,
    )
    tft.annotate_asset("by another name", "by-itself")
    found = tft.apply_vocabulary(s, path, num_oov_buckets=2)
    size = tft.experimental.get_vocabulary_size_by_name("by itself")
    buckets = tft.get_num_buckets_for_transformed_feature(found)
    return {
        "found": found,
        "found_words": tft.apply_vocabulary(
            words, records, default_value=-7, file_format="tfrecord_gzip"
        ),
        "looked_up": tft.apply_vocabulary(s, path, lookup_fn=look_up),
        "size": tf.zeros_like(inputs["i"]) + size,
        "buckets": tf.zeros_like(inputs["i"]) + buckets,
        "hot": tf.one_hot(found, 8),
        "default": tft.compute_and_apply_vocabulary(text, default_value=99, **few),
        "hashed": tft.compute_and_apply_vocabulary(text, num_oov_buckets=4, **few),
        "hashed_numbers": tft.compute_and_apply_vocabulary(number, num_oov_buckets=4, **few),
    }


def look_up(keys: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    index = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(
        path, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(lines, default_value=-3)
    return table.lookup(keys), table.size()


def first_letter(token: Any) -> str:
    return tf.compat.as_str_any(token)[:1]


def _applied(made: dict[str, tuple[Any, dict[str, Any]]]) -> Tensors:
    features = {}
    for name, (value, how) in made.items():
        ids = tft.compute_and_apply_vocabulary(value, vocab_filename=name, **how)
        features[name] = ids.to_sparse() if isinstance(ids, tf.RaggedTensor) else ids
    return features


def _weights(values: tf.SparseTensor) -> tf.Tensor:
    """Return a weight in eighths for each value of a sparse tensor."""
    if values.dtype == tf.string:
        return tf.cast(tf.strings.length(values.values), tf.float32) / 8
    return tf.cast(tf.abs(values.values), tf.float32) / 8


CASES = (
    Case("frequencies", frequencies),
    Case("stored", stored),
    Case("informative", informative, fewer),
    Case("applied", applied),
)
