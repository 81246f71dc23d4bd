"""Mappers of words and lists, and analyzers of documents."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import Case, Tensors, first_row, row_count


def documents(inputs: Tensors) -> Tensors:
    """How often words are in documents, of which the vocabulary is another phase."""
    words = inputs["words"]
    ids = tft.compute_and_apply_vocabulary(words, vocab_filename="words", top_k=8)
    size = tft.experimental.get_vocabulary_size_by_name("words")
    index, weight = tft.tfidf(ids, size)
    rough_index, rough_weight = tft.tfidf(ids, 12, smooth=False)
    experimental = tft.experimental
    frequency = experimental.document_frequency(ids, size)
    return {
        "ids": ids,
        "tfidf_index": index,
        "tfidf_weight": weight,
        "rough_index": rough_index,
        "rough_weight": rough_weight,
        "frequency": tf.cast(frequency, tf.int64),
        "idf": experimental.idf(ids, size),
        "idf_rough": experimental.idf(ids, 12, smooth=False, add_baseline=False),
    }


def lists(inputs: Tensors) -> Tensors:
    """Mappers without an analyzer of their own, before and after some."""
    words, numbers = inputs["words"], inputs["numbers"]
    pairs = tft.ngrams(words, ngram_range=(1, 2), separator=" ")
    bag = tft.bag_of_words(words, (1, 3), "_")
    once = tft.deduplicate_tensor_per_row(words)
    holes = tf.sparse.retain(numbers, numbers.values > 5)
    aligned = tft.sparse_tensor_left_align(holes)
    wide = tft.sparse_tensor_to_dense_with_shape(_narrowed(numbers), [None, 2], default_value=-1.0)
    counted = tft.word_count(words)
    place = tft.segment_indices(words.indices[:, 0])
    known = tft.make_and_track_object(lambda: tf.Variable([3.0, 4.0]), name="known")
    shaped = tf.SparseTensor(once.indices, tf.strings.length(once.values), once.dense_shape)
    shaped = tf.cast(shaped, tf.int64)
    tft.experimental.annotate_sparse_output_shape(shaped, [9])
    true_sparse = tf.identity(numbers.values)
    true_sparse = tf.SparseTensor(numbers.indices, true_sparse, numbers.dense_shape)
    tft.experimental.annotate_true_sparse_output(true_sparse)
    return {
        "pairs": tft.compute_and_apply_vocabulary(pairs, vocab_filename="pairs", top_k=20),
        "bag": tft.compute_and_apply_vocabulary(bag, vocab_filename="bag", frequency_threshold=5),
        "once": once,
        "aligned": tft.scale_to_0_1(aligned),
        "wide": tft.scale_to_0_1(wide),
        "counted": counted,
        "count_ragged": tft.word_count(tf.RaggedTensor.from_sparse(words)),
        "bucket_count": tft.bucketize(counted, 3),
        "place": tf.SparseTensor(words.indices, place, words.dense_shape),
        "hashed": tft.hash_strings(inputs["s"], hash_buckets=5),
        "hashed_words": tft.hash_strings(words, 7, key=[1, 2]),
        "max_hash": first_row(inputs, tft.max(tft.hash_strings(inputs["s"], 1000))),
        "tracked": tf.ones_like(inputs["x"]) * known[1],
        "shaped": shaped,
        "rows": tf.fill([row_count(inputs)], tft.size(inputs["x"])),
    }


def _narrowed(values: tf.SparseTensor) -> tf.SparseTensor:
    return tf.sparse.slice(values, [0, 0], [values.dense_shape[0], 2])


# tf.Transform adds up how many documents there are as integers, and its logarithms are of
# these, so nothing needs to be close only.
CASES = (Case("documents", documents), Case("lists", lists))
