"""Feature pipelines on Apache Beam without training/serving skew, and the proof of it.

Everything public is here, loaded when it is first used: `import skewless` loads neither
TensorFlow nor Beam.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pyarrow.compute import field

    from skewless.errors import DataError, RecipeError, RunError, SkewlessError
    from skewless.models.networks import Dnn, Linear, WideAndDeep
    from skewless.models.predict import Predictor
    from skewless.pipeline.live import online_features
    from skewless.pipeline.recipe import Recipe, load_recipe
    from skewless.transforms.aggregate.aggregate import Aggregate
    from skewless.transforms.aggregate.functions import (
        count,
        distinct_count,
        first,
        last,
        last_n,
        max,
        mean,
        min,
        ratio,
        sum,
        time_since_last,
        top_k,
        variance,
    )
    from skewless.transforms.aggregate.online import OnlineFeatures
    from skewless.transforms.analyze import Analyze
    from skewless.transforms.analyze_and_transform import AnalyzeAndTransform
    from skewless.transforms.apply import ApplyTransform
    from skewless.transforms.deduplicate import Deduplicate
    from skewless.transforms.evaluation.decision import Evaluation, at_least, at_most, improves
    from skewless.transforms.evaluation.evaluate import Evaluate
    from skewless.transforms.features.columns import (
        categories,
        category,
        cross,
        cyclic,
        date_parts,
        label,
        numeric,
        passthrough,
        text,
    )
    from skewless.transforms.filter import Require, Where
    from skewless.transforms.infer import InferSchema, infer_schema
    from skewless.transforms.join import JoinAsOf
    from skewless.transforms.predict import Predict
    from skewless.transforms.rows import Rejected, Rows
    from skewless.transforms.sinks.bigquery import WriteBigQuery
    from skewless.transforms.sinks.json_lines import WriteJsonLines
    from skewless.transforms.sinks.kafka import WriteKafka, WriteRejectedToKafka
    from skewless.transforms.sinks.parquet import WriteParquet
    from skewless.transforms.sinks.pubsub import WritePubSub, WriteRejectedToPubSub
    from skewless.transforms.sinks.tfrecord import WriteTFRecord
    from skewless.transforms.sinks.tfrecord_file import TFRecordOptions
    from skewless.transforms.sources.avro import ReadAvro
    from skewless.transforms.sources.bigquery import ReadBigQuery
    from skewless.transforms.sources.csv import ReadCsv
    from skewless.transforms.sources.database import ReadDatabase
    from skewless.transforms.sources.http import ReadHttp
    from skewless.transforms.sources.http_pages import Cursor, LinkHeader, PageNumber
    from skewless.transforms.sources.json_lines import ReadJsonLines
    from skewless.transforms.sources.kafka import ReadKafka
    from skewless.transforms.sources.parquet import ReadParquet
    from skewless.transforms.sources.patterns import RollingRange, StaticRange
    from skewless.transforms.sources.pubsub import ReadPubSub
    from skewless.transforms.sources.tfrecord import ReadTFRecord
    from skewless.transforms.split import SplitByHash, SplitByTime
    from skewless.transforms.validate import Validate

_HOMES = {
    "errors": ("DataError", "RecipeError", "RunError", "SkewlessError"),
    "models.networks": ("Dnn", "Linear", "WideAndDeep"),
    "models.predict": ("Predictor",),
    "pipeline.live": ("online_features",),
    "pipeline.recipe": ("Recipe", "load_recipe"),
    "transforms.aggregate.aggregate": ("Aggregate",),
    "transforms.aggregate.functions": (
        "count",
        "distinct_count",
        "first",
        "last",
        "last_n",
        "max",
        "mean",
        "min",
        "ratio",
        "sum",
        "time_since_last",
        "top_k",
        "variance",
    ),
    "transforms.aggregate.online": ("OnlineFeatures",),
    "transforms.analyze": ("Analyze",),
    "transforms.analyze_and_transform": ("AnalyzeAndTransform",),
    "transforms.apply": ("ApplyTransform",),
    "transforms.deduplicate": ("Deduplicate",),
    "transforms.evaluation.decision": ("Evaluation", "at_least", "at_most", "improves"),
    "transforms.evaluation.evaluate": ("Evaluate",),
    "transforms.features.columns": (
        "categories",
        "category",
        "cross",
        "cyclic",
        "date_parts",
        "label",
        "numeric",
        "passthrough",
        "text",
    ),
    "transforms.filter": ("Require", "Where", "field"),
    "transforms.infer": ("InferSchema", "infer_schema"),
    "transforms.join": ("JoinAsOf",),
    "transforms.predict": ("Predict",),
    "transforms.rows": ("Rejected", "Rows"),
    "transforms.sinks.bigquery": ("WriteBigQuery",),
    "transforms.sinks.json_lines": ("WriteJsonLines",),
    "transforms.sinks.kafka": ("WriteKafka", "WriteRejectedToKafka"),
    "transforms.sinks.parquet": ("WriteParquet",),
    "transforms.sinks.pubsub": ("WritePubSub", "WriteRejectedToPubSub"),
    "transforms.sinks.tfrecord": ("WriteTFRecord",),
    "transforms.sinks.tfrecord_file": ("TFRecordOptions",),
    "transforms.sources.avro": ("ReadAvro",),
    "transforms.sources.bigquery": ("ReadBigQuery",),
    "transforms.sources.csv": ("ReadCsv",),
    "transforms.sources.database": ("ReadDatabase",),
    "transforms.sources.http": ("ReadHttp",),
    "transforms.sources.http_pages": ("Cursor", "LinkHeader", "PageNumber"),
    "transforms.sources.json_lines": ("ReadJsonLines",),
    "transforms.sources.kafka": ("ReadKafka",),
    "transforms.sources.parquet": ("ReadParquet",),
    "transforms.sources.patterns": ("RollingRange", "StaticRange"),
    "transforms.sources.pubsub": ("ReadPubSub",),
    "transforms.sources.tfrecord": ("ReadTFRecord",),
    "transforms.split": ("SplitByHash", "SplitByTime"),
    "transforms.validate": ("Validate",),
}
_HOME = {name: f"skewless.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "Aggregate",
    "Analyze",
    "AnalyzeAndTransform",
    "ApplyTransform",
    "Cursor",
    "DataError",
    "Deduplicate",
    "Dnn",
    "Evaluate",
    "Evaluation",
    "InferSchema",
    "JoinAsOf",
    "Linear",
    "LinkHeader",
    "OnlineFeatures",
    "PageNumber",
    "Predict",
    "Predictor",
    "ReadAvro",
    "ReadBigQuery",
    "ReadCsv",
    "ReadDatabase",
    "ReadHttp",
    "ReadJsonLines",
    "ReadKafka",
    "ReadParquet",
    "ReadPubSub",
    "ReadTFRecord",
    "Recipe",
    "RecipeError",
    "Rejected",
    "Require",
    "RollingRange",
    "Rows",
    "RunError",
    "SkewlessError",
    "SplitByHash",
    "SplitByTime",
    "StaticRange",
    "TFRecordOptions",
    "Validate",
    "Where",
    "WideAndDeep",
    "WriteBigQuery",
    "WriteJsonLines",
    "WriteKafka",
    "WriteParquet",
    "WritePubSub",
    "WriteRejectedToKafka",
    "WriteRejectedToPubSub",
    "WriteTFRecord",
    "at_least",
    "at_most",
    "categories",
    "category",
    "count",
    "cross",
    "cyclic",
    "date_parts",
    "distinct_count",
    "field",
    "first",
    "improves",
    "infer_schema",
    "label",
    "last",
    "last_n",
    "load_recipe",
    "max",
    "mean",
    "min",
    "numeric",
    "online_features",
    "passthrough",
    "ratio",
    "sum",
    "text",
    "time_since_last",
    "top_k",
    "variance",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'skewless' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
