"""Moments are exact to the last bit, and quantiles are values of the data at the right place."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_numbers import as_wide_as
from tests.transforms.analyze.cases_rows import WIDTH, first_row, ordinary
from tests.transforms.analyze.cases_run import analyze, look, values

EPSILON = 0.01


def hard():
    """Return rows whose differences are small against their mean, with some not finite."""
    rng = np.random.default_rng(5)
    rows = ordinary(1_000, seed=5)
    x = np.float32(123_456 + rng.normal(size=1_000))
    x[::97] = np.nan
    x[5::311] = np.inf
    for name, numbers in {"x": x, "w": np.float32(rng.random(1_000))}.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(numbers))
    return rows


def measured(inputs):
    x, vector, w = inputs["x"], inputs["vector"], inputs["w"]
    numbers = as_wide_as(inputs["numbers"], 4)
    each = {"reduce_instance_dims": False}
    double = {"output_dtype": tf.float64}
    results = {
        "x mean": tft.mean(x),
        "x var": tft.var(x),
        "x mean double": tft.mean(x, **double),
        "x var double": tft.var(x, **double),
        "w sum": tft.sum(w),
        "w sum double": tft.sum(tf.cast(w, tf.float64)),
        "i mean": tft.mean(inputs["i"]),
        "i var": tft.var(inputs["i"]),
        "vector mean": tft.mean(vector, **each),
        "vector var": tft.var(vector, **each),
        "vector sum": tft.sum(vector, **each),
        "vector cov double": tft.covariance(tf.cast(vector, tf.float64), dtype=tf.float64),
        "numbers mean": tft.mean(numbers, **each),
        "numbers var double": tft.var(numbers, **each, **double),
        "numbers sum": tft.sum(numbers, **each),
        "o mean double": tft.mean(inputs["o"], **double),
        "quantiles": tft.quantiles(w, 16, EPSILON),
        "quantiles x": tft.quantiles(x, 5, EPSILON),
        "quantiles i": tft.quantiles(inputs["i"], 5, EPSILON),
        "quantiles weighted": tft.quantiles(x, 7, EPSILON, weights=w),
    }
    tft.vocabulary(inputs["s"], weights=w, store_frequency=True, vocab_filename="weighted")
    by_key = tft.scale_to_z_score_per_key(w, inputs["key"], key_vocabulary_filename="by key")
    features = {name: first_row(inputs, value) for name, value in results.items()}
    return {**features, "by key": by_key}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    rows = hard()
    batches = [rows.slice(0, 7), rows.slice(7)]
    return look(analyze(tmp_path_factory.mktemp("exact"), measured, batches, "fused"))


def numbers_of(found, name):
    numbers = values(found.features[name])
    return numbers.view(np.float64) if name.endswith("double") else numbers


def fractions(numbers):
    return [Fraction(float(number)) for number in numbers if np.isfinite(number)]


def moments(numbers):
    exact = fractions(numbers)
    mean = sum(exact) / len(exact)
    return {
        "sum": sum(exact),
        "mean": mean,
        "var": sum((v - mean) ** 2 for v in exact) / len(exact),
    }


def columns(rows):
    """Return for each name in `measured` the numbers of each of its elements."""
    lists = rows.column("numbers").to_pylist()
    vectors = np.stack(rows.column("vector").to_numpy(zero_copy_only=False))
    return {
        "x": [rows.column("x").to_numpy()],
        "w": [rows.column("w").to_numpy()],
        # tf.Transform makes float32 of integers before anything else.
        "i": [rows.column("i").to_numpy().astype(np.float32)],
        "o": [rows.column("o").drop_null().to_numpy()],
        "vector": list(vectors.T),
        "numbers": [[row[at] for row in lists if len(row) > at] for at in range(4)],
    }


def assert_within_an_ulp(number, exact):
    assert abs(Fraction(float(number)) - exact) <= Fraction(float(np.spacing(abs(number))))


def test_moments_are_within_an_ulp_of_exact(found):
    checked = 0
    for column, elements in columns(hard()).items():
        expected = [moments(element) for element in elements]
        for name in found.features:
            what = name.split()[1] if name.startswith(f"{column} ") else ""
            if what in {"sum", "mean", "var"}:
                numbers = numbers_of(found, name)
                assert len(numbers) == len(expected)
                for number, moment in zip(numbers, expected, strict=True):
                    assert_within_an_ulp(number, moment[what])
                    checked += 1
    assert checked == 9 + 2 * WIDTH + WIDTH + 3 * 4


def test_covariances_are_within_an_ulp_of_exact(found):
    elements = [fractions(element) for element in columns(hard())["vector"]]
    means = [sum(element) / len(element) for element in elements]
    numbers = iter(numbers_of(found, "vector cov double"))
    for one, mean in zip(elements, means, strict=True):
        for other, other_mean in zip(elements, means, strict=True):
            pairs = zip(one, other, strict=True)
            exact = sum((a - mean) * (b - other_mean) for a, b in pairs) / len(one)
            assert_within_an_ulp(next(numbers), exact)


def groups(rows, by):
    of_key = {}
    keys, weights = rows.column(by).to_pylist(), rows.column("w").to_numpy()
    for key, weight in zip(keys, weights, strict=True):
        of_key.setdefault(key, []).append(weight)
    return of_key


def test_weights_of_tokens_are_exact_and_in_their_order(found):
    kept = {key: w for key, w in groups(hard(), "s").items() if key != "\n"}
    expected = sorted(((float(sum(fractions(w))), key) for key, w in kept.items()), reverse=True)
    lines = "".join(f"{weight} {key}\n" for weight, key in expected)
    assert found.assets["weighted"].decode() == lines


def test_moments_by_key_are_within_an_ulp_of_exact(found):
    expected = {key: moments(weights) for key, weights in groups(hard(), "key").items()}
    lines = found.assets["by key"].decode().splitlines()
    assert len(lines) == len(expected)
    for line in lines:
        numbers, _, key = line.partition(" ")
        mean, variance = map(np.float32, numbers.split(","))
        assert_within_an_ulp(mean, expected[key]["mean"])
        assert_within_an_ulp(variance, expected[key]["var"])


@pytest.mark.parametrize(
    ("name", "column", "weighted"),
    [
        ("quantiles", "w", False),
        ("quantiles x", "x", False),
        ("quantiles i", "i", False),
        ("quantiles weighted", "x", True),
    ],
)
def test_quantiles_are_the_values_where_their_share_is_passed(found, name, column, weighted):
    numbers = columns(hard())[column][0]
    weights = hard().column("w").to_numpy() if weighted else np.ones(len(numbers))
    there = ~np.isnan(numbers)
    order = np.argsort(numbers[there], kind="stable")
    ordered = numbers[there][order]
    up_to = np.cumsum([Fraction(float(weight)) for weight in weights[there][order]])
    bounds = values(found.features[name])
    parts = len(bounds) + 1
    for at, bound in enumerate(bounds, 1):
        wanted = up_to[-1] * at / parts
        assert bound == next(v for v, w in zip(ordered, up_to, strict=True) if w > wanted)
        # What tf.Transform promises: the share below, and the share up to it, are around it.
        below, including = (sum(weights[numbers < bound]), sum(weights[numbers <= bound]))
        slack = EPSILON * up_to[-1]
        assert below - slack <= wanted <= including + slack
