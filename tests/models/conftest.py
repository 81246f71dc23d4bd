"""A small world: raw rows whose label depends on a number, a category and a list."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tfx_bsl.tfxio import tensor_adapter, tensor_representation_util

from skewless.arrays import raw_arrays
from skewless.models.export import export
from skewless.models.networks import WideAndDeep
from skewless.models.train import train
from skewless.parity import TransformGraph
from skewless.schema import (
    Schema,
    absent_at_serving,
    format_schema,
    make_feature,
    make_schema,
)

RAW = {
    "x": (pa.float32(), True),
    "o": (pa.float32(), False),
    "n": (pa.int64(), False),
    "carrier": (pa.string(), False),
    "tags": (pa.list_(pa.string()), False),
    "late": (pa.int64(), True),
    "kind": (pa.string(), True),
    "delay": (pa.float32(), True),
}
LABELS = {"binary": "late", "multiclass": "kind", "regression": "delay"}


def raw_schema() -> Schema:
    features = [make_feature(name, type_, required=r) for name, (type_, r) in RAW.items()]
    return absent_at_serving(make_schema(features), LABELS.values())


def raw_rows(count: int, seed: int = 0) -> pa.RecordBatch:
    random = np.random.default_rng(seed)
    x = random.normal(size=count)
    carrier = random.choice(["AA", "B6", "UA"], count)
    tags = [list(random.choice(["red", "blue", "new"], random.integers(0, 3))) for _ in x]
    delay = x + (carrier == "B6") + 0.5 * np.array([("red" in t) for t in tags])
    missing = random.random(count) < 0.2
    columns = {
        "x": x,
        "o": np.where(missing, None, random.normal(5, 2, count)),
        "n": np.where(missing, None, random.integers(0, 9, count)),
        "carrier": np.where(random.random(count) < 0.1, None, carrier),
        "tags": tags,
        "late": (delay > 0.5).astype(int),
        "kind": np.select([delay > 1, delay > 0], ["high", "mid"], "low"),
        "delay": delay,
    }
    arrays = [pa.array(list(columns[name]), type_) for name, (type_, _) in RAW.items()]
    return pa.RecordBatch.from_arrays(arrays, names=list(RAW))


def preprocess(inputs: dict, label: str) -> dict:
    def dense(value: tf.SparseTensor, default: object) -> tf.Tensor:
        narrow = tf.SparseTensor(value.indices, value.values, [value.dense_shape[0], 1])
        return tf.sparse.to_dense(narrow, default)[:, 0]

    o = dense(inputs["o"], 0.0)
    carrier = dense(inputs["carrier"], "")
    outputs = {
        "x_scaled": tft.scale_to_z_score(inputs["x"]),
        "x_pair": tf.stack([tf.math.log1p(tf.abs(inputs["x"])), tf.sigmoid(o)], axis=1),
        "n": dense(inputs["n"], -1),
        "carrier": tft.compute_and_apply_vocabulary(carrier, num_oov_buckets=1),
        "tags": tft.compute_and_apply_vocabulary(inputs["tags"]),
        label: inputs[label],
    }
    if label == "kind":
        outputs[label] = tft.compute_and_apply_vocabulary(inputs[label])
    return outputs


@dataclasses.dataclass(frozen=True)
class World:
    """A transform graph, and the examples it made of raw rows."""

    label: str
    transform_graph: str
    train_files: list[str]
    eval_files: list[str]

    def arguments(self) -> dict:
        return dict(vars(self))


def write_graph(folder: pathlib.Path, label: str, rows: pa.RecordBatch) -> str:
    schema = raw_schema()
    lists = {pa.float32(): pa.float32(), pa.int64(): pa.int64(), pa.string(): pa.large_binary()}
    arrays = []
    for name, (type_, _) in RAW.items():
        values = rows.column(name).to_pylist()
        listed = pa.types.is_list(type_)
        wanted = pa.large_list(lists[type_.value_type if listed else type_])
        arrays.append(pa.array([v if listed else [] if v is None else [v] for v in values], wanted))
    batch = pa.RecordBatch.from_arrays(arrays, names=list(RAW))
    config = tensor_adapter.TensorAdapterConfig(
        batch.schema,
        tensor_representation_util.InferTensorRepresentationsFromMixedSchema(schema),
    )
    with tft_beam.Context(temp_dir=str(folder / "temp")), beam.Pipeline("FnApiRunner") as p:
        fitted = (p | beam.Create([batch]), config) | tft_beam.AnalyzeDataset(
            functools.partial(preprocess, label=label)
        )
        _ = fitted | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata = folder / "graph" / "metadata"
    metadata.mkdir(exist_ok=True)
    (metadata / "schema.pbtxt").write_text(format_schema(schema))
    return str(folder / "graph")


def write_examples(transform_graph: str, rows: pa.RecordBatch, path: pathlib.Path) -> str:
    """Write what the graph makes of `rows`, the label included."""
    graph = TransformGraph(transform_graph)
    features = graph.from_rows(
        {name: tf.constant(a) for name, a in raw_arrays(rows, graph.raw_schema).items()}
    )
    columns = {
        name: (tf.RaggedTensor.from_sparse(v) if isinstance(v, tf.SparseTensor) else v).numpy()
        for name, v in features.items()
    }
    options = tf.io.TFRecordOptions("GZIP" if path.suffix == ".gz" else "")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for i in range(rows.num_rows):
            example = tf.train.Example()
            for name, column in columns.items():
                values = np.ravel(column[i])
                feature = example.features.feature[name]
                if values.dtype.kind == "f":
                    feature.float_list.value.extend(values)
                else:
                    feature.int64_list.value.extend(values)
            writer.write(example.SerializeToString())
    return str(path)


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory):
    """Return a function from a task to its (cached) `World`."""

    @functools.cache
    def make(task: str = "binary") -> World:
        folder = tmp_path_factory.mktemp(task)
        rows = raw_rows(600)
        graph = write_graph(folder, LABELS[task], rows)
        parts = [
            write_examples(graph, rows.slice(start, 200), folder / f"train-{start}.tfrecord.gz")
            for start in (0, 200, 400)
        ]
        evaluation = write_examples(graph, raw_rows(200, 1), folder / "eval.tfrecord.gz")
        return World(LABELS[task], graph, parts, [evaluation])

    return make


@pytest.fixture(scope="session")
def world(make_world) -> World:
    return make_world("binary")


@pytest.fixture(scope="session")
def raw():
    """Return the function that makes raw rows: `raw(count, seed)`."""
    return raw_rows


@pytest.fixture(scope="session")
def with_column():
    """Return the function that makes raw rows with other values in one column."""

    def make(count: int, name: str, values: object) -> pa.RecordBatch:
        rows = raw_rows(count)
        at = rows.schema.get_field_index(name)
        return rows.set_column(at, name, pa.array(values, RAW[name][0]))

    return make


@pytest.fixture(scope="session")
def write():
    """Return the function that writes examples: `write(transform_graph, rows, path)`."""
    return write_examples


@pytest.fixture(scope="session")
def make_export(make_world, tmp_path_factory):
    """Return a function that trains and exports one task's model."""

    def make(task, network, **options):
        world = make_world(task)
        folder = tmp_path_factory.mktemp(task)
        result = train(network, **world.arguments(), directory=str(folder / "training"))
        arguments = {
            "model_path": result.model_path,
            "transform_graph": world.transform_graph,
            "label": world.label,
            "task": result.task,
            "classes": result.classes,
            "directory": str(folder / "model"),
            "name": "small",
        }
        export(**arguments, **options)
        return arguments

    return make


@pytest.fixture(scope="session")
def exported(make_export):
    network = WideAndDeep([16, 8], epochs=2, batch_size=64)
    extra = {"more.json": b"{}"}
    return make_export("binary", network, sample=raw_rows(3, 4), extra=extra)
