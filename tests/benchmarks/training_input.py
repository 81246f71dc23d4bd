"""The suite `training_input`: how fast a network can be fed with the examples."""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf

from skewless.models.dataset import Examples, examples_dataset
from skewless.models.inputs import read_inputs
from tests.benchmarks.work import Job

BATCH = 2048
LABEL = "late"
SEED = 7


def per_record(files: list[str], spec: Any, inputs: Any) -> tf.data.Dataset:
    """Parse records one by one, as many tutorials do."""
    records = tf.data.TFRecordDataset(files, "GZIP")
    parsed = records.map(lambda record: tf.io.parse_single_example(record, spec), tf.data.AUTOTUNE)
    return parsed.shuffle(10_000, seed=SEED).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def batched_features(files: list[str], spec: Any, inputs: Any) -> tf.data.Dataset:
    """TensorFlow's own function for it, which TFX' examples use."""
    return tf.data.experimental.make_batched_features_dataset(
        files,
        BATCH,
        spec,
        reader=lambda names: tf.data.TFRecordDataset(names, "GZIP"),
        label_key=LABEL,
        num_epochs=1,
        shuffle_seed=SEED,
    )


def skewless_files(files: list[str], spec: Any, inputs: Any) -> tf.data.Dataset:
    """Read by skewless, from the files in every epoch."""
    return examples_dataset(files, inputs, batch_size=BATCH, shuffle_seed=SEED)


DATASETS = {
    "per_record": per_record,
    "batched_features": batched_features,
    "skewless_files": skewless_files,
}


def _seconds(dataset: tf.data.Dataset) -> float:
    started = time.perf_counter()
    for _ in dataset:
        pass
    return time.perf_counter() - started


def run(job: Job) -> dict[str, object]:
    """Go through the examples once; the options are their folder and the way."""
    folder, way = job.options
    files = sorted(str(path) for path in (job.output / folder).glob("train*.tfrecord.gz"))
    inputs = read_inputs(f"{folder}/transform_graph", LABEL)
    if way == "skewless_memory":
        examples = Examples(files, inputs)
        seconds = _seconds(examples.shuffled(BATCH, seed=SEED, epoch=1))
        return {"seconds": seconds, "rows": examples.count}
    if way == "cached":
        cached = skewless_files(files, inputs.feature_spec, inputs).cache()
        _seconds(cached)
        seconds = _seconds(cached)
    else:
        seconds = _seconds(DATASETS[way](files, inputs.feature_spec, inputs))
    rows = sum(1 for _ in tf.data.TFRecordDataset(files, "GZIP"))
    return {"seconds": seconds, "rows": rows}
