"""How skewless reads a table and splits it, for all variants that do."""

from __future__ import annotations

import apache_beam as beam

from skewless import ReadCsv, SplitByHash
from skewless.schema import Schema, drop_columns, parse_schema
from skewless.transforms.split import Splits
from tests.benchmarks.work import TRAIN, WORKS, Job

SPLITS = ("train", "eval")


def source(job: Job) -> ReadCsv:
    schema = parse_schema(job.schema.read_text(), str(job.schema))
    return ReadCsv(job.csv, schema=schema, columns=WORKS[job.work].needed)


def split(job: Job) -> SplitByHash:
    return SplitByHash(by=WORKS[job.work].split_by, train=TRAIN, eval=1 - TRAIN)


def graph_schema(job: Job) -> Schema:
    """Return the schema of what the features are made of."""
    schema = source(job).raw_schema()
    return drop_columns(schema, WORKS[job.work].split_by)


def read_splits(begin: beam.Pipeline, job: Job) -> Splits:
    return (begin | "Read" >> source(job)).rows | "Split" >> split(job)
