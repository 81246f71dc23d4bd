"""What every server is asked: serving_rows RUN VERSION FOLDER COUNT.

Raw rows that the run did not train on, as JSON and as serialized Examples, and what the exported
signature, called directly, predicts of them.
"""

from __future__ import annotations

import json
import pathlib
import pickle
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow.parquet as pq
import tensorflow as tf

from skewless.models.predict import read_input_schema
from skewless.pipeline.json_rows import json_rows
from tests.benchmarks.serving_model import Model


class Asked(NamedTuple):
    """The same rows in the two forms, and their predictions."""

    rows: Sequence[bytes]
    examples: Sequence[bytes]
    expected: Sequence[float]


def write(run: str, version: str, path: pathlib.Path, count: int) -> None:
    """Write an `Asked` of a run's test rows."""
    (part, *_) = sorted((pathlib.Path(run) / "rows" / "test").glob("*.parquet"))
    table = pq.read_table(part).slice(0, count).combine_chunks()
    (batch,) = table.to_batches()
    rows = json_rows(batch, read_input_schema(version))
    model = Model(version)
    examples = [model.example(json.loads(row)) for row in rows]
    signature = tf.saved_model.load(version).signatures["serving_default"]
    expected = signature(examples=tf.constant(examples))["prediction"].numpy().tolist()
    path.write_bytes(pickle.dumps(tuple(Asked(rows, examples, expected))))


def read(path: pathlib.Path) -> Asked:
    """Return what `write` wrote."""
    return Asked(*pickle.loads(path.read_bytes()))


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4]))
