"""What the machine can do: pyarrow and numpy, no Beam, no graph, no retries, all in memory.

The features are those of `graphs`, the encoder and the compression are skewless' own. It
leaves its statistics as JSON where the others write a transform graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import tensorflow as tf

from skewless import TFRecordOptions
from skewless.schema import arrow_schema, parse_schema
from skewless.transforms.sinks.tfrecord_file import TFRecordFile
from tests.benchmarks.graphs import CARRIERS, LATE_AFTER
from tests.benchmarks.work import WORKS, Job, Work

ROWS_AT_ONCE = 65_536

Array = npt.NDArray[Any]
Features = dict[str, Array]


def read(job: Job) -> pa.Table:
    """Return the needed columns, all rows in memory, nothing missing."""
    schema = arrow_schema(parse_schema(job.schema.read_text()))
    needed = list(WORKS[job.work].needed)
    types = {name: schema.field(name).type for name in needed}
    convert = pa_csv.ConvertOptions(column_types=types, include_columns=needed, null_values=[""])
    # Blocks that hold a few thousand lines of the wide table too.
    table = pa_csv.read_csv(job.csv, pa_csv.ReadOptions(block_size=8 << 20), None, convert)
    return pa.table(
        {
            name: column if not column.null_count else pc.fill_null(column, 0)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    ).combine_chunks()


def is_train(job: Job, work: Work, table: pa.Table) -> Array:
    """Return for each row whether the split's table calls it training."""
    known = json.loads(job.split.read_text())
    # Month and day in one number, or one key as it is.
    texts = [text.split(",") for text in known]
    width = 32
    keys = [sum(int(part) * width**n for n, part in enumerate(text[::-1])) for text in texts]
    by_key = np.zeros(max(keys) + 1, bool)
    by_key[keys] = list(known.values())
    columns = [table[name].to_numpy() for name in work.split_by[::-1]]
    return by_key[sum(column * width**n for n, column in enumerate(columns))]


class Statistics:
    """What is learnt from the training rows, kept to be written."""

    def __init__(self, train: Array) -> None:
        self._train = train
        self.found: dict[str, Any] = {}

    def z_score(self, name: str, values: Array) -> Array:
        train = values[self._train].astype(np.float64)
        mean, deviation = float(train.mean()), float(train.std())
        self.found[name] = [mean, deviation]
        return ((values - mean) / (deviation or 1.0)).astype(np.float32)

    def zero_to_one(self, name: str, values: Array) -> Array:
        train = values[self._train]
        low, high = float(train.min()), float(train.max())
        self.found[name] = [low, high]
        return ((values - low) / (high - low)).astype(np.float32)

    def bucket(self, name: str, values: Array, count: int) -> Array:
        at = np.arange(1, count) / count
        bounds = np.quantile(values[self._train], at, method="inverted_cdf")
        self.found[name] = bounds.tolist()
        return np.searchsorted(bounds, values, side="right").astype(np.int64)

    def vocabulary(self, name: str, values: pa.DictionaryArray) -> Array:
        """Number words by how often they are, then backwards; an unseen one comes last."""
        codes = values.indices.to_numpy()
        words = values.dictionary.to_pylist()
        counts = np.bincount(codes[self._train], minlength=len(words))
        order = sorted(range(len(words)), key=lambda n: (counts[n], words[n]), reverse=True)
        seen = int((counts > 0).sum())
        numbers = np.full(len(words), seen, np.int64)
        numbers[order[:seen]] = np.arange(seen)
        self.found[name] = [words[n] for n in order[:seen]]
        return numbers[codes]


def flights(table: pa.Table, learnt: Statistics) -> Features:
    number = {
        field.name: table[field.name].to_numpy()
        for field in table.schema
        if not pa.types.is_string(field.type)
    }
    word = {
        name: table[name].combine_chunks().dictionary_encode()
        for name in ("carrier", "origin", "dest", "tailnum")
    }
    # The hash is TensorFlow's, so that the result is the same: once for each distinct word.
    tails = word["tailnum"].dictionary.to_numpy(zero_copy_only=False).astype("S")
    hashed = tf.strings.to_hash_bucket_fast(tails, 512).numpy()
    angle = number["hour"] * (2 * math.pi / 24)
    return {
        **{n: learnt.z_score(n, number[n]) for n in ("distance", "dep_delay", "air_time")},
        **{
            n: learnt.zero_to_one(n, number[n])
            for n in ("sched_dep_time", "sched_arr_time", "minute")
        },
        "distance_bucket": learnt.bucket("distance_bucket", number["distance"], 10),
        "dep_time_bucket": learnt.bucket("dep_time_bucket", number["dep_time"], 20),
        "carrier": np.eye(CARRIERS, dtype=np.float32)[
            learnt.vocabulary("carrier", word["carrier"])
        ],
        "origin": learnt.vocabulary("origin", word["origin"]),
        "dest": learnt.vocabulary("dest", word["dest"]),
        "tail_hash": hashed[word["tailnum"].indices.to_numpy()],
        "hour_sin": np.sin(angle).astype(np.float32),
        "hour_cos": np.cos(angle).astype(np.float32),
        "late": (number["arr_delay"] > LATE_AFTER).astype(np.int64),
    }


def wide(table: pa.Table, learnt: Statistics) -> Features:
    names = table.column_names[1:]
    return {name: learnt.z_score(name, table[name].to_numpy()) for name in names}


FUNCTIONS: dict[str, Callable[[pa.Table, Statistics], Features]] = {
    "flights": flights,
    "wide": wide,
}


def batches(features: Features, chosen: Array) -> Iterator[pa.RecordBatch]:
    """Yield the chosen rows as batches."""
    for start in range(0, len(chosen), ROWS_AT_ONCE):
        at = chosen[start : start + ROWS_AT_ONCE]
        columns = {name: _column(values[at]) for name, values in features.items()}
        yield pa.record_batch(columns)


def _column(values: Array) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(0, values.size + 1, values.shape[1])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def run(job: Job) -> None:
    table = read(job)
    train = is_train(job, WORKS[job.work], table)
    learnt = Statistics(train)
    features = FUNCTIONS[job.work](table, learnt)
    for split, chosen in (("train", train), ("eval", ~train)):
        path = job.output / f"{split}-00000-of-00001.tfrecord.gz"
        with path.open("wb") as file, TFRecordFile(file, TFRecordOptions()) as records:
            for batch in batches(features, np.flatnonzero(chosen)):
                records.write(batch)
    (job.output / "statistics.json").write_text(json.dumps(learnt.found))
