"""tf.Transform as its documentation has it, for rows as lines of CSV.

ReadFromText, BeamRecordCsvTFXIO, AnalyzeAndTransformDataset on the training rows,
TransformDataset on the others, RecordBatchToExamplesEncoder, WriteToTFRecord: the census
example (https://www.tensorflow.org/tfx/tutorials/transform/census) with a split in it.
"""

from __future__ import annotations

import json

import apache_beam as beam
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
from tfx_bsl.public import tfxio

from tests.benchmarks.graphs import FUNCTIONS
from tests.benchmarks.work import WORKS, Job, Work

SPLITS = ("train", "eval")


def split_of(line: bytes, splits: int, work: Work, is_train: dict[bytes, bool]) -> int:
    """Return 0 for a line of training data, 1 for another."""
    first, last = work.split_at, work.split_at + len(work.split_by)
    return 0 if is_train[b",".join(line.split(b",", last)[first:last])] else 1


def run(job: Job) -> None:
    work = WORKS[job.work]
    is_train = {key.encode(): train for key, train in json.loads(job.split.read_text()).items()}
    schema = text_format.Parse(job.schema.read_text(), schema_pb2.Schema())
    csv = tfxio.BeamRecordCsvTFXIO(
        physical_format="text",
        column_names=[feature.name for feature in schema.feature],
        schema=schema,
    )
    encoder = RecordBatchToExamplesEncoder(schema=None)
    with (
        beam.Pipeline("FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(job.temporary)),
    ):
        lines = pipeline | beam.io.ReadFromText(
            str(job.csv), skip_header_lines=1, coder=beam.coders.BytesCoder()
        )
        train_lines, eval_lines = lines | beam.Partition(split_of, 2, work, is_train)
        config = csv.TensorAdapterConfig()
        train = (train_lines | "DecodeTrain" >> csv.BeamSource(), config)
        (train_features, _), graph = train | tft_beam.AnalyzeAndTransformDataset(
            FUNCTIONS[job.work], output_record_batches=True
        )
        evaluation = (eval_lines | "DecodeEval" >> csv.BeamSource(), config)
        eval_features, _ = (evaluation, graph) | tft_beam.TransformDataset(
            output_record_batches=True
        )
        for split, features in zip(SPLITS, (train_features, eval_features), strict=True):
            _ = (
                features
                | f"Encode{split}" >> beam.FlatMapTuple(lambda batch, _: encoder.encode(batch))
                | f"Write{split}"
                >> beam.io.WriteToTFRecord(str(job.output / split), file_name_suffix=".tfrecord.gz")
            )
        _ = graph | tft_beam.WriteTransformFn(str(job.transform_graph))
