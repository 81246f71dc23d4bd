"""Metrics in TensorFlow Model Analysis's own files: what `tfma.load_eval_result` opens.

Apart from the rest, as importing TFMA takes longer than evaluating does.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from google.protobuf import json_format
from tensorflow_model_analysis import version
from tensorflow_model_analysis.metrics.metric_types import MetricKey
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.writers.metrics_plots_and_validations_writer import (
    convert_slice_metrics_to_proto,
)

__all__ = ["write_for_tfma"]

_METRICS, _CONFIG = "metrics-00000-of-00001.tfrecord", "eval_config.json"
# What an example is called to weigh; here each weighs 1.
_WEIGHTS = "rows"

# The metrics that TFMA would compute alike from the same rows, by its own classes.
_BINARY = (
    ("AUC", {"name": "auc"}),
    ("AUCPrecisionRecall", {"name": "auc_pr"}),
    ("Precision", {"name": "precision", "thresholds": [0.5]}),
    ("Recall", {"name": "recall", "thresholds": [0.5]}),
    ("F1Score", {"name": "f1", "thresholds": [0.5]}),
    ("BinaryAccuracy", {"name": "accuracy"}),
    ("Calibration", {"name": "calibration"}),
    ("MeanLabel", {"name": "mean_label"}),
    ("MeanPrediction", {"name": "mean_prediction"}),
)
_KNOWN = {
    "binary": _BINARY,
    "multiclass": (),
    "regression": (*_BINARY[-2:], ("MeanAbsoluteError", {"name": "mae"})),
}

SliceKey = tuple[tuple[str, str], ...]


def write_for_tfma(
    output: str,
    results: Iterable[tuple[SliceKey, Mapping[str, float]]],
    task: str,
    slices: Iterable[Sequence[str]],
) -> None:
    """Write the metrics, sorted by slice, and the configuration they belong to.

    Args:
        output: The directory to write to; made if missing.
        results: The metrics of each slice by name.
        task: `binary`, `multiclass` or `regression`.
        slices: The columns of each slice.
    """
    tf.io.gfile.makedirs(output)
    with tf.io.TFRecordWriter(FileSystems.join(output, _METRICS)) as file:
        for slice_key, metrics in sorted(results, key=operator.itemgetter(0)):
            keyed = {MetricKey(name, example_weighted=True): v for name, v in metrics.items()}
            proto = convert_slice_metrics_to_proto((slice_key, keyed), None)
            file.write(proto.SerializeToString())
    run = config_pb2.EvalRun(
        eval_config=eval_config(task, slices),
        version=version.VERSION,
        data_location="<user provided PCollection>",
        file_format="<unknown>",
        model_locations={"": "<unknown>"},
    )
    with tf.io.gfile.GFile(FileSystems.join(output, _CONFIG), "w") as file:
        file.write(json_format.MessageToJson(run) + "\n")


def eval_config(task: str, slices: Iterable[Sequence[str]]) -> config_pb2.EvalConfig:
    """Return TFMA's configuration: those metrics that it knows, overall and by slice."""
    metrics = [
        config_pb2.MetricConfig(class_name=name, config=json.dumps(arguments))
        for name, arguments in (*_KNOWN[task], ("ExampleCount", {"name": "example_count"}))
    ]
    return config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(example_weight_key=_WEIGHTS)],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=columns) for columns in slices),
        ],
    )
