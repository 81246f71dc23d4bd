"""The raw rows of the equivalence suite, and what a case of it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from skewless.schema import Feature, Schema, arrow_schema, make_feature, make_schema

Tensors = dict[str, Any]

LABELS = 3
WIDTH = 3
ROWS = 400


def _vector() -> Feature:
    feature = make_feature("vector", pa.list_(pa.float32()), required=True)
    feature.ClearField("value_count")
    feature.shape.dim.add(size=WIDTH)
    return feature


SCHEMA: Schema = make_schema(
    [
        make_feature("x", pa.float32(), required=True),
        make_feature("i", pa.int64(), required=True),
        make_feature("s", pa.string(), required=True),
        make_feature("key", pa.string(), required=True),
        make_feature("label", pa.int64(), required=True),
        make_feature("w", pa.float32(), required=True),
        _vector(),
        make_feature("o", pa.float32(), required=False),
        make_feature("n", pa.int64(), required=False),
        make_feature("t", pa.string(), required=False),
        make_feature("numbers", pa.list_(pa.float32()), required=False),
        make_feature("keys", pa.list_(pa.string()), required=False),
        make_feature("words", pa.list_(pa.string()), required=False),
    ]
)

# Ties, spaces, what is more than one byte, and what text vocabularies leave out.
TOKENS = ["a", "b", "c", "b b", "é", "zz", "Z", "7", "70", "\n", "-1", "中", "q"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "The", "hat", "of the", "ö"]


def ordinary(rows: int = ROWS, seed: int = 0) -> pa.RecordBatch:
    """Return rows with ties, gaps, empty lists and tails."""
    rng = np.random.default_rng(seed)

    def gaps(values: list[Any]) -> list[Any]:
        return [None if rng.random() < 0.25 else value for value in values]

    def lists(values: Callable[[int], list[Any]]) -> list[list[Any]]:
        return [values(int(size)) for size in rng.integers(0, 5, rows)]

    # 40% of the numbers are of few values, so that quantiles fall on ties.
    x = np.where(rng.random(rows) < 0.4, rng.integers(-2, 3, rows), rng.standard_t(3, rows) * 50)
    numbers = lists(lambda size: np.float32(rng.lognormal(2, 1, size)).tolist())
    columns = {
        "x": x.astype(np.float32),
        "i": rng.integers(-(2**40), 2**40, rows) // rng.choice([1, 2**38], rows),
        "s": rng.choice(TOKENS, rows, p=_falling(TOKENS)).tolist(),
        "key": rng.choice(["k1", "k2", "k3", "only once"], rows, p=[0.5, 0.3, 0.19, 0.01]),
        "label": rng.integers(0, LABELS, rows),
        # Eighths, so that sums of them are exact in float32 too.
        "w": (rng.integers(0, 40, rows) / 8).astype(np.float32),
        "vector": np.float32(rng.normal(5, [1, 10, 0.1], (rows, WIDTH))).tolist(),
        "o": pa.array(gaps((rng.random(rows) * 7).tolist()), pa.float32()),
        "n": gaps(rng.integers(-5, 30, rows).tolist()),
        "t": gaps(rng.choice(TOKENS, rows).tolist()),
        "numbers": pa.array(numbers, pa.list_(pa.float32())),
        "keys": [rng.choice(["k1", "k2", "r"], len(row)).tolist() for row in numbers],
        "words": lists(lambda size: rng.choice(WORDS, size, p=_falling(WORDS)).tolist()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=arrow_schema(SCHEMA))


def _falling(values: list[str]) -> Any:
    weights = 1 / (2 + np.arange(len(values)) // 2)
    return weights / weights.sum()


def fewer() -> pa.RecordBatch:
    """Return as many as it takes where the work for a row is slow."""
    return ordinary(120)


def no_rows() -> pa.RecordBatch:
    return ordinary(1).slice(0, 0)


def nothing_optional() -> pa.RecordBatch:
    """Return rows without a value in any column that may lack it."""
    batch = ordinary(20)
    for at, feature in enumerate(SCHEMA.feature):
        if feature.presence.min_fraction != 1:
            column = batch.schema.field(at)
            batch = batch.set_column(at, column, pa.nulls(len(batch), column.type))
    return batch


def awkward() -> pa.RecordBatch:
    """Return numbers that are not finite, signed zeros, subnormal, huge, or all the same."""
    batch = ordinary(48)
    odd = [0.0, -0.0, 1e-45, -1e-45, 1.0, 16777216.0, 0.1, 3e38, -5.0, np.nan, np.inf, -np.inf]
    columns: dict[str, Any] = {
        "x": np.float32(odd * 4),
        "w": np.float32([0, 1, 0.125, 1, 2, 0, 1, 1, 1, 1, 5, 3] * 4),
        "vector": np.float32([[1, odd[row % 7], 0] for row in range(48)]).tolist(),
        "i": [2**62, -(2**62), 0] * 16,
        "o": pa.array([0.1] * 24 + [None] * 24, pa.float32()),
    }
    for name, values in columns.items():
        at = batch.schema.get_field_index(name)
        column = batch.schema.field(at)
        batch = batch.set_column(at, column, pa.array(values, column.type))
    return batch


@dataclasses.dataclass(frozen=True)
class Case:
    """A `preprocessing_fn`, rows to analyze, and how near tf.Transform's results must be.

    Attributes:
        name: For the test's id.
        function: Returns features; exactly equal where nothing else is said.
        rows: What is analyzed.
        close: For features made of sums, which tf.Transform adds up in float32: by the
            beginning of the name, how far they may be apart, as a part of the largest.
        close_assets: The same for numbers in vocabularies, each for itself.
        runner: Where tf.Transform's own pipeline works.
    """

    name: str
    function: Callable[[Tensors], Tensors]
    rows: Callable[[], pa.RecordBatch] = ordinary
    close: Mapping[str, float] = dataclasses.field(default_factory=dict)
    close_assets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    runner: str = "FnApiRunner"


def first_row(inputs: Tensors, value: tf.Tensor) -> tf.SparseTensor:
    """Return an analyzer's result as a feature: all of it in the first row, flat.

    Floats of 64 bits become the integers with the same bits.
    """
    flat = tf.reshape(value, [-1])
    if flat.dtype == tf.float64:
        flat = tf.bitcast(flat, tf.int64)
    elif flat.dtype == tf.int32:
        flat = tf.cast(flat, tf.int64)
    count = tf.size(flat, tf.int64)
    indices = tf.stack([tf.zeros([count], tf.int64), tf.range(count)], axis=1)
    return tf.SparseTensor(indices, flat, tf.stack([row_count(inputs), count]))


def row_count(inputs: Tensors) -> tf.Tensor:
    return tf.shape(inputs["x"], tf.int64)[0]


def filled(values: tf.SparseTensor) -> tf.Tensor:
    """Return an optional column with 0, or no text, where a row has nothing."""
    default = "" if values.dtype == tf.string else 0
    narrow = tf.SparseTensor(values.indices, values.values, [values.dense_shape[0], 1])
    return tf.sparse.to_dense(narrow, default)[:, 0]
