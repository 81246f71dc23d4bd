"""Do two variants write the same features? Row by row, in an order of the rows' own.

Run by `transform`, as a module's `run` with the folders to compare as options: the first is
the one that the others are compared with.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tests.benchmarks.work import Job

# Statistics in float32 differ in their last digits, and a mean of 1,000 scaled to 0.
TOLERANCE = 1e-4
# tf.Transform's quantiles may be off by a hundredth of a bucket, and a bound by one value.
BUCKETS_APART, BUCKETS_SHARE = 1, 0.02

# Columns that sort alike whoever made them: monotone in what was read, or exact.
SORT_BY = {
    "flights": (
        *("distance", "dep_delay", "air_time", "sched_dep_time", "sched_arr_time"),
        *("tail_hash", "dest", "origin", "late"),
    ),
    "wide": ("x0000", "x0001"),
}
# The training part of the wide table is a gigabyte of the same.
SPLITS = {"flights": ("train", "eval"), "wide": ("eval",)}

Features = dict[str, np.ndarray]


def read(folder: pathlib.Path, splits: tuple[str, ...]) -> Features:
    """Return all features, [rows] or [rows, values], those of the splits after each other."""
    parts = [_read_split(folder, split) for split in splits]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_split(folder: pathlib.Path, split: str) -> Features:
    files = [
        str(path)
        for path in sorted(folder.rglob("*.tfrecord.gz"))
        if split in str(path.relative_to(folder))
    ]
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    batches = records.batch(1024)
    first = tf.train.Example.FromString(next(iter(records)).numpy())
    spec = {name: _spec(feature) for name, feature in first.features.feature.items()}
    parsed = [tf.io.parse_example(batch, spec) for batch in batches]
    return {name: np.concatenate([part[name].numpy() for part in parsed]) for name in spec}


def _spec(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    count = len(getattr(feature, kind).value)
    type_ = {"float_list": tf.float32, "int64_list": tf.int64}[kind]
    return tf.io.FixedLenFeature([] if count == 1 else [count], type_)


def in_order(features: Features, by: tuple[str, ...]) -> Features:
    order = np.lexsort([features[name] for name in reversed(by)])
    return {name: values[order] for name, values in features.items()}


def differences(ours: Features, theirs: Features) -> dict[str, dict[str, float]]:
    """Return, for each feature that differs at all, in what share of rows and by how much."""
    found = {}
    for name, values in theirs.items():
        apart = np.abs(values.astype(np.float64) - ours[name]).reshape(len(values), -1).max(axis=1)
        exact = values.dtype == np.int64
        differs = apart > (0 if exact else TOLERANCE)
        if differs.any():
            found[name] = {"share": float(differs.mean()), "most": float(apart.max())}
    return found


def agrees(found: dict[str, dict[str, float]]) -> bool:
    """Say whether nothing differs but buckets, few of them, by one."""
    return all(
        name.endswith("_bucket")
        and found[name]["most"] <= BUCKETS_APART
        and found[name]["share"] <= BUCKETS_SHARE
        for name in found
    )


def run(job: Job) -> dict[str, object]:
    by, splits = SORT_BY[job.work], SPLITS[job.work]
    reference, *others = (pathlib.Path(folder) for folder in job.options)
    theirs = in_order(read(reference, splits), by)
    result: dict[str, object] = {}
    for folder in others:
        ours = read(folder, splits)
        rows, expected = len(ours[by[0]]), len(theirs[by[0]])
        if rows != expected or set(ours) != set(theirs):
            words = f"{rows} rows of {len(ours)} features; expected {expected} of {len(theirs)}"
            result[folder.name] = {"agrees": False, "differ": words}
            continue
        found = differences(in_order(ours, by), theirs)
        result[folder.name] = {"agrees": agrees(found), "differ": found}
    return {"agreement": result}
