"""Analyzers and mappers of numbers: dense, sparse, ragged, elementwise, weighted."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import Case, Tensors, filled, first_row

STATISTICS = ("min", "max", "sum", "size", "mean", "var")


def as_wide_as(values: tf.SparseTensor, width: int) -> tf.SparseTensor:
    """Return the same with a given width: a batch is only as wide as its longest list.

    Elementwise, tf.Transform takes nothing else.
    """
    return tf.SparseTensor(values.indices, values.values, [values.dense_shape[0], width])


def statistics(inputs: Tensors) -> Tensors:
    """Every statistic of every kind of tensor, and of each element of those that have some."""
    vector, numbers = inputs["vector"], inputs["numbers"]
    whole = {
        "x": inputs["x"],
        "i": inputs["i"],
        "double": tf.cast(inputs["x"], tf.float64) * 1.1,
        "vector": vector,
        "o": inputs["o"],
        "ragged": tf.RaggedTensor.from_sparse(numbers),
    }
    by_element = {
        "double_vector": tf.cast(vector, tf.float64) / 3,
        "i_pair": tf.stack([inputs["i"], inputs["label"]], axis=1),
        "numbers": as_wide_as(numbers, 4),
    }
    zeros = tf.where(inputs["w"] > 2, 0.0, -0.0)
    results = {"min_zeros": tft.min(zeros), "max_zeros": tft.max(zeros)}
    for name in STATISTICS:
        of = getattr(tft, name)
        for column, value in whole.items():
            results[f"{name}_{column}"] = of(value)
        for column, value in by_element.items():
            results[f"{name}_each_{column}"] = of(value, reduce_instance_dims=False)
    for column in ("x", "i"):
        results[f"mean_as_double_{column}"] = tft.mean(inputs[column], output_dtype=tf.float64)
        results[f"var_as_double_{column}"] = tft.var(inputs[column], output_dtype=tf.float64)
    results["cov"] = tft.covariance(vector, dtype=tf.float32)
    results["cov_double"] = tft.covariance(tf.cast(vector, tf.float64), dtype=tf.float64)
    results["pca"] = tft.pca(vector, output_dim=2, dtype=tf.float32)
    return {name: first_row(inputs, value) for name, value in results.items()}


def scaling(inputs: Tensors) -> Tensors:
    """Every scaler of every kind of tensor."""
    x, vector, numbers = inputs["x"], inputs["vector"], inputs["numbers"]
    features = {
        "min_max_x": tft.scale_by_min_max(x, output_min=-2, output_max=5),
        "min_max_numbers": tft.scale_by_min_max(numbers, 0, 100),
        "zero_one_i": tft.scale_to_0_1(inputs["i"]),
        "zero_one_vector": tft.scale_to_0_1(vector),
    }
    for column in ("x", "i", "vector", "numbers"):
        features[f"z_{column}"] = tft.scale_to_z_score(inputs[column])
    for column in ("x", "numbers"):
        features[f"gaussian_{column}"] = tft.scale_to_gaussian(inputs[column])
    for column, value in (("vector", vector), ("numbers", as_wide_as(numbers, 4))):
        features[f"min_max_each_{column}"] = tft.scale_by_min_max(value, elementwise=True)
        features[f"zero_one_each_{column}"] = tft.scale_to_0_1(value, elementwise=True)
        features[f"z_each_{column}"] = tft.scale_to_z_score(value, elementwise=True)
    features["gaussian_each_vector"] = tft.scale_to_gaussian(vector, elementwise=True)
    ragged = tf.RaggedTensor.from_sparse(numbers)
    features["z_ragged"] = tft.scale_to_z_score(ragged).to_sparse()
    features["zero_one_ragged"] = tft.scale_to_0_1(ragged).to_sparse()
    as_double = tft.scale_to_z_score(x, output_dtype=tf.float64)
    features["z_as_double"] = tf.cast(as_double, tf.float32)
    as_double = tft.scale_to_gaussian(x, output_dtype=tf.float64)
    features["gaussian_as_double"] = tf.cast(as_double, tf.float32)
    return features


def tukey(inputs: Tensors) -> Tensors:
    """The parameters of a Tukey distribution, of everything and of each element."""
    results = {}
    for column in ("x", "numbers"):
        value = inputs[column]
        results[f"tukey_location_{column}"] = tft.tukey_location(value)
        results[f"tukey_scale_{column}"] = tft.tukey_scale(value)
        left, right = tft.tukey_h_params(value)
        results[f"tukey_left_{column}"], results[f"tukey_right_{column}"] = left, right
    vector = inputs["vector"]
    how = {"reduce_instance_dims": False, "output_dtype": tf.float64}
    results["tukey_each_location"] = tf.cast(tft.tukey_location(vector, **how), tf.float32)
    results["tukey_each_scale"] = tf.cast(tft.tukey_scale(vector, **how), tf.float32)
    results["tukey_each_left"] = tf.cast(tft.tukey_h_params(vector, **how)[0], tf.float32)
    return {name: first_row(inputs, value) for name, value in results.items()}


def quantiles(inputs: Tensors) -> Tensors:
    """Quantiles, and the buckets between them."""
    x, vector, w = inputs["x"], inputs["vector"], inputs["w"]
    numbers, double = inputs["numbers"], tf.cast(inputs["x"], tf.float64) / 3
    boundaries = {
        "x": tft.quantiles(x, num_buckets=10, epsilon=0.01),
        "median": tft.quantiles(x, num_buckets=2, epsilon=0.01),
        "i": tft.quantiles(inputs["i"], 7, 0.01),
        "double": tft.quantiles(double, 7, 0.01),
        "weighted": tft.quantiles(x, num_buckets=10, epsilon=0.01, weights=w),
        "each": tft.quantiles(vector, 4, 0.01, reduce_instance_dims=False),
        "values": tft.quantiles(numbers.values, 5, 0.01),
        "many": tft.quantiles(x, num_buckets=500, epsilon=0.001),
    }
    buckets = {
        "x": tft.bucketize(x, num_buckets=10),
        "i": tft.bucketize(inputs["i"], 7),
        "fine": tft.bucketize(x, num_buckets=150, epsilon=0.001),
        "weighted": tft.bucketize(x, 4, weights=w),
        "each": tft.bucketize(vector, 4, elementwise=True),
        "numbers": tft.bucketize(numbers, 5),
        "ragged": tft.bucketize(tf.RaggedTensor.from_sparse(numbers), 5).to_sparse(),
        "applied": tft.apply_buckets(x, boundaries["weighted"]),
        "given": tft.apply_buckets(numbers, [[1.0, 5.0, 20.0]]),
        "one": tft.bucketize(x, 2),
    }
    counted = tft.get_num_buckets_for_transformed_feature(buckets["x"])
    return {
        **{f"quantiles_{name}": first_row(inputs, value) for name, value in boundaries.items()},
        **{f"bucket_{name}": value for name, value in buckets.items()},
        "buckets": tf.zeros_like(inputs["i"]) + counted,
        "interpolated": tft.apply_buckets_with_interpolation(x, boundaries["x"]),
        "interpolated_numbers": tft.apply_buckets_with_interpolation(numbers, boundaries["values"]),
    }


def histograms(inputs: Tensors) -> Tensors:
    """Counts in bins: given, over the range (in two phases), and of distinct values."""
    x, label = inputs["x"], inputs["label"]
    share = tf.math.floormod(x, 1.0)
    results = {
        "default": tft.histogram(share),
        "given": tft.histogram(inputs["numbers"], boundaries=[0.0, 2.0, 4.0, 8.0]),
        "range": tft.histogram(x, boundaries=6),
        "labels": tft.histogram(label, categorical=True),
        "text": tft.histogram(inputs["s"], categorical=True),
    }
    counts = {f"counts_{name}": first_row(inputs, found[0]) for name, found in results.items()}
    bounds = {f"bounds_{name}": first_row(inputs, found[1]) for name, found in results.items()}
    return {
        **counts,
        **bounds,
        "density": tft.estimated_probability_density(share),
        "density_range": tft.estimated_probability_density(x, boundaries=6),
        "density_labels": tft.estimated_probability_density(label, categorical=True),
        "dense": filled(inputs["o"]),
    }


# tf.Transform adds up a batch in float32, and makes variances of what is left.
_SUMS = {"mean": 1e-5, "var": 1e-4, "sum": 1e-5, "cov": 1e-4, "pca": 1e-4}

CASES = (
    Case("statistics", statistics, close=_SUMS),
    Case("scaling", scaling, close={"z": 1e-4, "gaussian": 1e-3}),
    Case("tukey", tukey, close={"tukey": 1e-3}),
    Case("quantiles", quantiles),
    Case("histograms", histograms),
)
