"""A module file as TFX documents it runs as it is: examples/taxi/preprocessing.py."""

import ast
import importlib.util
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform.tf_metadata import schema_utils

from skewless.arrays import raw_arrays
from skewless.parity import TransformGraph
from skewless.schema import arrow_schema, make_feature, make_schema
from skewless.transforms.analyze import Analyze, check_exportable

MODULE = pathlib.Path(__file__).parents[2] / "examples" / "taxi" / "preprocessing.py"
ROWS = 500
REQUIRED = {"fare": pa.float32(), "trip_start_hour": pa.int64(), "payment_type": pa.string()}
OPTIONAL = {
    "trip_miles": pa.float32(),
    "trip_seconds": pa.float32(),
    "pickup_latitude": pa.float32(),
    "pickup_longitude": pa.float32(),
    "dropoff_latitude": pa.float32(),
    "dropoff_longitude": pa.float32(),
    "company": pa.string(),
    "trip_start_day": pa.int64(),
    "trip_start_month": pa.int64(),
    "tips": pa.float32(),
}
SCHEMA = make_schema(
    [make_feature(name, type_, required=True) for name, type_ in REQUIRED.items()]
    + [make_feature(name, type_, required=False) for name, type_ in OPTIONAL.items()]
)


def load():
    spec = importlib.util.spec_from_file_location("taxi_preprocessing", MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_rows():
    rng = np.random.default_rng(0)

    def value(type_):
        if type_ == pa.string():
            return rng.choice(["Cash", "Credit Card", "Taxi Affiliation"], ROWS).tolist()
        if type_ == pa.int64():
            return rng.integers(1, 12, ROWS).tolist()
        return np.float32(rng.random(ROWS) * 20).tolist()

    columns = {name: value(type_) for name, type_ in REQUIRED.items()}
    for name, type_ in OPTIONAL.items():
        columns[name] = [None if rng.random() < 0.3 else item for item in value(type_)]
    return pa.RecordBatch.from_pydict(columns, schema=arrow_schema(SCHEMA))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("taxi")
    with beam.Pipeline("FnApiRunner") as begin:
        rows = begin | beam.Create([make_rows().slice(0, 200), make_rows().slice(200)])
        rows | Analyze(SCHEMA, load().preprocessing_fn, str(root / "graph"), str(root / "tmp"))
    return root / "graph"


def test_the_module_knows_nothing_of_skewless():
    tree = ast.parse(MODULE.read_text())
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert sorted(imported) == ["tensorflow", "tensorflow_transform"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_inputs_arrive_as_the_schema_says():
    spec = schema_utils.schema_as_feature_spec(SCHEMA).feature_spec
    assert spec["fare"] == tf.io.FixedLenFeature([], tf.float32)
    assert spec["tips"] == tf.io.VarLenFeature(tf.float32)
    seen = {}

    def watched(inputs):
        seen.update(inputs)
        return load().preprocessing_fn(inputs)

    check_exportable(watched, SCHEMA)
    assert {n for n, v in seen.items() if isinstance(v, tf.SparseTensor)} == set(OPTIONAL)
    assert {n for n, v in seen.items() if isinstance(v, tf.Tensor)} == set(REQUIRED)
    assert all(seen[name].shape.as_list() == [None] for name in REQUIRED)


def test_features_are_what_the_module_says(folder):
    output = tft.TFTransformOutput(str(folder))
    graph = TransformGraph(str(folder))
    features = graph.from_rows(raw_arrays(make_rows(), graph.raw_schema))
    assert set(features) == set(output.transformed_feature_spec())
    rows = make_rows().to_pydict()
    miles = np.array([0 if v is None else v for v in rows["trip_miles"]])
    expected = (miles - miles.mean()) / miles.std()
    np.testing.assert_allclose(features["trip_miles_xf"], expected, atol=1e-5)
    tips = np.array([0 if v is None else v for v in rows["tips"]], np.float32)
    big = tips > np.float32(rows["fare"]) * np.float32(0.2)
    np.testing.assert_array_equal(features["tips_xf"], big)
    assert set(np.unique(features["payment_type_xf"])) == {0, 1, 2}
    assert features["company_xf"].numpy().max() >= 3, "a missing company is out of vocabulary"
    assert set(np.unique(features["pickup_latitude_xf"])) <= set(range(10))


def test_columns_that_only_the_label_needs_are_not_inputs_of_serving(folder):
    graph = TransformGraph(str(folder), without=("tips_xf",))
    assert set(graph.feature_spec) == {*REQUIRED, *OPTIONAL} - {"tips"}
    arrays = raw_arrays(make_rows(), graph.raw_schema)
    assert set(graph.from_rows(arrays)) == set(graph.outputs)


@pytest.mark.parametrize("size", [1, 7])
def test_no_bit_differs_between_batch_sizes(folder, size):
    graph = TransformGraph(str(folder))
    call = tf.function(graph.from_rows, input_signature=[graph.row_signature()])
    arrays = raw_arrays(make_rows(), graph.raw_schema)
    together = call(arrays)
    parts = [
        call({name: array[start : start + size] for name, array in arrays.items()})
        for start in range(0, ROWS, size)
    ]
    for name, whole in together.items():
        alone = np.concatenate([part[name] for part in parts])
        assert alone.tobytes() == whole.numpy().tobytes(), name
