"""Unmodified tf.Transform between skewless' reader and skewless' sink."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
import tensorflow_transform.beam as tft_beam

from skewless import WriteTFRecord
from skewless.transforms.analyze.columns import adapter_config, as_tensor_columns
from tests.benchmarks.graphs import FUNCTIONS
from tests.benchmarks.reading import SPLITS, graph_schema, read_splits
from tests.benchmarks.work import Job


def run(job: Job) -> None:
    schema = graph_schema(job)
    config = adapter_config(schema)
    with beam.Pipeline("FnApiRunner") as pipeline, tft_beam.Context(temp_dir=str(job.temporary)):
        splits = read_splits(pipeline, job)
        train, evaluation = (
            getattr(splits, name)
            | f"Columns{name}"
            >> beam.Map(as_tensor_columns, schema).with_output_types(pa.RecordBatch)
            for name in SPLITS
        )
        (train_features, _), graph = (train, config) | tft_beam.AnalyzeAndTransformDataset(
            FUNCTIONS[job.work], output_record_batches=True
        )
        eval_features, _ = ((evaluation, config), graph) | tft_beam.TransformDataset(
            output_record_batches=True
        )
        for name, features in zip(SPLITS, (train_features, eval_features), strict=True):
            batches = features | f"Batch{name}" >> beam.Keys()
            _ = batches | f"Write{name}" >> WriteTFRecord(str(job.output / name))
        _ = graph | tft_beam.WriteTransformFn(str(job.transform_graph))
