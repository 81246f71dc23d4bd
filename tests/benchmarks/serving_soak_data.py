"""What the load test asks: rows, and what two models predict of them with the store's aggregates.

A row is asked in three ways: as JSON without its aggregates, as an Example of all columns, and as
tensors without its aggregates. All are the same row, and have the same prediction.
"""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import pickle
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from skewless.arrays import argument_names, raw_arrays
from skewless.models.predict import Predictor, read_input_schema
from skewless.pipeline.backfilling import backfill
from skewless.pipeline.execution import Execution
from skewless.pipeline.json_rows import json_rows
from skewless.pipeline.live import online_features
from skewless.schema import make_schema
from tests.benchmarks.serving_model import Model
from tests.benchmarks.serving_soak_client import Asked
from tests.benchmarks.streaming import flights_run

ROWS = 200
# Of the two models. They differ in nothing else.
SEEDS = (2013, 7)


class Prepared(NamedTuple):
    """Two models, and what they are asked.

    Attributes:
        models: The directories of their versions.
        now: As of when the store is read, in microseconds since 1970.
        asked: The file of an `Asked`.
    """

    models: list[pathlib.Path]
    now: int
    asked: pathlib.Path


def prepare(folder: pathlib.Path, store: str) -> Prepared:
    """Train two models, fill an online store, and calculate what is to be answered."""
    places = [folder / str(seed) for seed in SEEDS]
    for place in places:
        place.mkdir()
    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        runs = list(pool.map(flights_run, places, ["export"] * len(places), SEEDS))
    run, recipe = runs[0]
    backfill(recipe, run, store, Execution())
    models = [max(run.glob("model/[0-9]*")) for run, _ in runs]
    rows = pa.concat_tables(map(pq.read_table, sorted(run.glob("rows/*/*.parquet"))))
    now = pc.max(rows.column("time_hour")).cast(pa.int64()).as_py()
    features = online_features(run, store)
    # Of the last day, so that the windows are not empty.
    rows = rows.sort_by([("time_hour", "descending")]).slice(0, 10 * ROWS)
    batch = rows.take(list(range(0, 10 * ROWS, 10))).combine_chunks().to_batches()[0]
    read = features.features_at(batch, now)
    expected = [Predictor(str(model)).predict(_joined(batch, read)) for model in models]
    asked = Asked(
        _rest(models[0], batch, set(read.schema.names)),
        _grpc(models[0], batch, read),
        [found["prediction"].tolist() for found in expected],
    )
    path = folder / "asked"
    path.write_bytes(pickle.dumps(tuple(asked)))
    return Prepared(models, now, path)


def _joined(batch: pa.RecordBatch, read: pa.RecordBatch) -> pa.RecordBatch:
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns |= {name: read.column(name) for name in read.schema.names}
    return pa.RecordBatch.from_pydict(columns)


def _rest(model: pathlib.Path, batch: pa.RecordBatch, without: set[str]) -> list[bytes]:
    schema = read_input_schema(str(model))
    wanted = make_schema([f for f in schema.feature if f.name not in without])
    planes = batch.column("tailnum").to_pylist()
    rows = map(json.loads, json_rows(batch, wanted))
    return [
        json.dumps({"instances": [row | {"tailnum": plane}]}).encode()
        for row, plane in zip(rows, planes, strict=True)
    ]


def _grpc(model: pathlib.Path, batch: pa.RecordBatch, read: pa.RecordBatch) -> list[bytes]:
    schema = read_input_schema(str(model))
    whole = Model(str(model))
    examples = [whole.example(json.loads(r)) for r in json_rows(_joined(batch, read), schema)]
    without = make_schema([f for f in schema.feature if f.name not in read.schema.names])
    arguments = argument_names(schema)
    arrays = {arguments[n]: a for n, a in raw_arrays(batch, without).items()}
    planes = [plane or "" for plane in batch.column("tailnum").to_pylist()]
    arrays["tailnum"] = np.array([plane.encode() for plane in planes], np.object_)
    requests = []
    for number, example in enumerate(examples):
        request = PredictRequest()
        request.model_spec.name = "flights"
        if number % 2:
            request.model_spec.signature_name = "predict_rows"
            for name, array in arrays.items():
                values = tf.make_tensor_proto(array[number : number + 1])
                request.inputs[name].CopyFrom(values)
        else:
            request.inputs["examples"].CopyFrom(tf.make_tensor_proto([example], tf.string))
        requests.append(request.SerializeToString())
    return requests
