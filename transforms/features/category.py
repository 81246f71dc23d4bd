"""Categories, lists of them, crosses and words in the graph: strings to ids."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from skewless.transforms.features import statistics
from skewless.transforms.features.columns import (
    Categories,
    Category,
    Cross,
    Hashed,
    Text,
    Vocabulary,
)
from skewless.transforms.features.raw import Raw, set_ids

__all__ = ["encode", "make_categories", "make_category", "make_cross", "make_text"]

# Between the parts of a cross: the ASCII unit separator, which is not in ordinary text.
_SEPARATOR = "\x1f"


def make_category(column: Category, key: str, raw: Raw) -> dict[str, Any]:
    """Return ids, int64 [rows], or one-hot, float32 [rows, ids]."""
    names, present = raw.name(column.column)
    return {key: _one_id(column, names, present, key)}


def make_cross(column: Cross, key: str, raw: Raw) -> dict[str, Any]:
    """Return ids of the combination, int64 [rows], or one-hot, float32 [rows, ids]."""
    parts = [raw.name(name) for name in column.columns]
    names = tf.strings.join([names for names, _ in parts], separator=_SEPARATOR)
    present = tf.reduce_all(tf.stack([present for _, present in parts]), axis=0)
    return {key: _one_id(column, names, present, key)}


def make_categories(column: Categories, key: str, raw: Raw) -> dict[str, Any]:
    """Return ids, int64 SparseTensor [rows, ragged], or multi-hot, float32 [rows, ids]."""
    return {key: _many_ids(column, raw.names(column.column), key)}


def make_text(column: Text, key: str, raw: Raw) -> dict[str, Any]:
    """Return ids, int64 SparseTensor [rows, ragged], or multi-hot, float32 [rows, ids]."""
    names, _ = raw.scalar(column.column)
    words = tf.strings.regex_replace(
        tf.strings.lower(names, encoding="utf-8"), r"[^\p{L}\p{N}]+", " "
    )
    shortest, longest = column.widths
    tokens = tf.strings.split(words)
    if longest > 1:
        tokens = tf.strings.ngrams(tokens, tuple(range(shortest, longest + 1)), separator=" ")
    return {key: _many_ids(column, tokens, key)}


def encode(
    names: tf.Tensor, known: tf.Tensor, encoding: Vocabulary | Hashed, key: str, source: str
) -> tuple[tf.Tensor, int]:
    """Turn strings into ids.

    Args:
        names: Strings [n].
        known: Those of them that are present, from which a vocabulary is made.
        encoding: How.
        key: The name of the feature, and of its vocabulary file.
        source: The feature and column, for the error when there is no value at all.

    Returns:
        Ids, int64 [n], -1 for what the vocabulary does not hold if it has no OOV ids; and
        how many ids there are.
    """
    if isinstance(encoding, Hashed):
        return tf.strings.to_hash_bucket_fast(names, encoding.size), encoding.size
    statistics.require_values(known, source)
    file = tft.vocabulary(
        known, top_k=encoding.top, frequency_threshold=encoding.min_count, vocab_filename=key
    )
    sizes: list[int] = []

    def look_up(strings: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope():
            table = _table(path, encoding.oov)
            size = table.size()
        # Known while tracing, because the table is made outside of the graph: this is
        # what gives one-hot features their static width.
        sizes.append(int(size))
        return table.lookup(strings), size

    ids = tft.apply_vocabulary(names, file, lookup_fn=look_up)
    return ids, sizes[0]


def _table(path: tf.Tensor, oov: int) -> Any:
    initializer = tf.lookup.TextFileInitializer(
        path,
        key_dtype=tf.string,
        key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    if oov:
        return tf.lookup.StaticVocabularyTable(initializer, num_oov_buckets=oov)
    return tf.lookup.StaticHashTable(initializer, default_value=-1)


def _source(column: Category | Categories | Cross | Text, key: str) -> str:
    names = " and ".join(f'"{name}"' for name in column.inputs)
    return f'feature "{key}": column {names}'


def _one_id(column: Category | Cross, names: tf.Tensor, present: tf.Tensor, key: str) -> tf.Tensor:
    known = tf.boolean_mask(names, present)
    ids, size = encode(names, known, column.encoding, key, _source(column, key))
    ids = tf.where(present & (ids >= 0), ids, tf.constant(size, tf.int64))
    if column.hot:
        return tf.one_hot(ids, size, dtype=tf.float32)
    set_ids(ids, size + 1)
    return ids


def _many_ids(column: Categories | Text, names: tf.RaggedTensor, key: str) -> Any:
    flat = names.flat_values
    ids, size = encode(flat, flat, column.encoding, key, _source(column, key))
    ragged = tf.ragged.boolean_mask(names.with_flat_values(ids), names.with_flat_values(ids >= 0))
    if not column.hot:
        sparse = ragged.to_sparse()
        set_ids(sparse.values, size)
        return sparse
    at = tf.stack([ragged.value_rowids(), ragged.flat_values], axis=1)
    ones = tf.ones_like(ragged.flat_values, tf.float32)
    counts = tf.scatter_nd(at, ones, tf.stack([ragged.nrows(), size]))
    return tf.ensure_shape(tf.minimum(counts, 1.0), [None, size])
