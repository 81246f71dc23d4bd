"""The arrays that go into the exact combiners, as tensors of the traced graph."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow_transform import tf_utils

__all__ = [
    "LABELLED",
    "dense_key",
    "dense_nans",
    "dense_x",
    "dense_zeros",
    "token_weights",
    "unique_counts",
    "unique_tokens",
    "unpacked",
    "weighed_tokens",
]


def unpacked(
    function: Callable[..., Any], specs: Sequence[tf.TypeSpec], *flat: tf.Tensor
) -> tf.Tensor:
    """Call `function` with the tensors, sparse and ragged ones put together again."""
    return function(*tf.nest.pack_sequence_as(specs, flat, expand_composites=True))


def unique_tokens(tokens: tf.Tensor) -> tf.Tensor:
    """Return the distinct tokens of a batch."""
    return tf.unique_with_counts(tokens, tf.int64).y


def unique_counts(tokens: tf.Tensor) -> tf.Tensor:
    """Return how often each of `unique_tokens` is there."""
    return tf.unique_with_counts(tokens, tf.int64).count


def weighed_tokens(given: tuple[Any, ...], tokens: Any, weights: tf.Tensor) -> tf.Tensor:
    """Return the tokens that `reduce_batch_weighted_counts` adds up the weights of."""
    return _tokens_and_weights(given, tokens, weights)[0]


def token_weights(given: tuple[Any, ...], tokens: Any, weights: tf.Tensor) -> tf.Tensor:
    """Return the weight of each of `weighed_tokens`."""
    return _tokens_and_weights(given, tokens, weights)[1]


def _tokens_and_weights(
    given: tuple[Any, ...], tokens: Any, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what `reduce_batch_weighted_counts` adds up."""
    (regex,) = given
    flat = tf.reshape(tf_utils.get_values(tokens), [-1])
    keep = tf_utils._make_regex_filter_fn(flat, regex)
    return keep(flat), keep(tf.reshape(weights, [-1]))


def _labelled_part(
    part: int, given: tuple[Any, ...], tokens: Any, labels: Any, weights: tf.Tensor
) -> tf.Tensor:
    """Return one of the five arrays of `MutualInformation`.

    They are what `reduce_batch_weighted_cooccurrences` adds up: first for each token, then
    for each row, as `extend_reduced_batch_with_y_counts` does.
    """
    (regex,) = given
    if isinstance(labels, tf.SparseTensor):
        labels = tf.sparse.to_dense(tf.cast(labels, tf.int64), default_value=-1)
    rows = tf.range(tf.shape(labels, tf.int64)[0])
    tokens, rows, of_tokens = tf_utils._preprocess_tensors_for_cooccurences(
        tokens, rows, weights, regex
    )
    of_rows = tf.reshape(weights, [-1])
    return (tokens, tf.gather(labels, rows), of_tokens, labels, of_rows)[part]


LABELLED = tuple(functools.partial(_labelled_part, part) for part in range(5))


def dense_zeros(indices: tf.Tensor, values: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Return a sparse tensor as a dense one, 0 where it has no value."""
    return tf.sparse.to_dense(tf.SparseTensor(indices, values, shape))


def dense_nans(indices: tf.Tensor, values: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Return a sparse tensor as a dense one, NaN where it has no value."""
    return tf.sparse.to_dense(tf.SparseTensor(indices, values, shape), default_value=math.nan)


def dense_key(values: Any, keys: Any) -> tf.Tensor:
    """Return the key of each value of a reduction by key."""
    return tf_utils._validate_and_get_dense_value_key_inputs(values, keys)[1]


def dense_x(values: Any, keys: Any) -> tf.Tensor:
    """Return the values of a reduction by key."""
    return tf_utils._validate_and_get_dense_value_key_inputs(values, keys)[0]
