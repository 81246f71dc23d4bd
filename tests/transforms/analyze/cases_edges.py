"""A few analyzers of each kind, on rows of which there are none, or with nothing in them."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import (
    Case,
    Tensors,
    awkward,
    first_row,
    no_rows,
    nothing_optional,
)


def few(inputs: Tensors) -> Tensors:
    """One analyzer for each way to go through the rows."""
    x, o, n, t = (inputs[column] for column in ("x", "o", "n", "t"))
    double, vector = tf.cast(x, tf.float64), inputs["vector"]
    found, counts = tft.count_per_key(t)
    results = {
        "min_x": tft.min(x),
        "max_n": tft.max(n),
        "min_o": tft.min(o),
        "max_double": tft.max(double),
        "sum_x": tft.sum(x),
        "sum_n": tft.sum(n),
        "size_o": tft.size(o),
        "mean_double": tft.mean(double),
        "var_o": tft.var(o),
        "mean_each": tft.mean(vector, reduce_instance_dims=False),
        "quantiles_x": tft.quantiles(x, 4, 0.01),
        "quantiles_o": tft.quantiles(o.values, 3, 0.01),
        "quantiles_weighted": tft.quantiles(x, 3, 0.01, weights=inputs["w"]),
        "keys": found,
        "counts": counts,
    }
    return {
        **{name: first_row(inputs, value) for name, value in results.items()},
        "zero_one": tft.scale_to_0_1(o),
        "bucket": tft.bucketize(o, 3),
        "t_top": tft.compute_and_apply_vocabulary(
            t, vocab_filename="t_top", top_k=2, store_frequency=True
        ),
        "n": tft.compute_and_apply_vocabulary(n, vocab_filename="n", weights=_ones(n)),
        "records": tft.compute_and_apply_vocabulary(
            t, vocab_filename="records", file_format="tfrecord_gzip", num_oov_buckets=1
        ),
    }


def _ones(values: tf.SparseTensor) -> tf.Tensor:
    return tf.ones_like(values.values, tf.float32)


_CLOSE = {"mean": 1e-5, "var": 1e-5, "sum": 1e-5}

CASES = (
    Case("no-rows", few, no_rows, close=_CLOSE),
    Case("nothing-optional", few, nothing_optional, close=_CLOSE),
    Case("awkward-numbers", few, awkward, close=_CLOSE),
)
