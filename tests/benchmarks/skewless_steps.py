"""skewless' PTransforms, put together in a Beam pipeline of one's own.

The same steps as the peers': read, split, analyze the training rows, apply the graph to all
rows, write the features.
"""

from __future__ import annotations

import apache_beam as beam

from skewless import AnalyzeAndTransform, WriteTFRecord
from tests.benchmarks.graphs import FUNCTIONS
from tests.benchmarks.reading import SPLITS, graph_schema, read_splits
from tests.benchmarks.work import Job


def run(job: Job) -> None:
    fit = AnalyzeAndTransform(
        graph_schema(job), FUNCTIONS[job.work], str(job.transform_graph), str(job.temporary)
    )
    runner, *options = job.options or ("FnApiRunner",)
    flags = beam.options.pipeline_options.PipelineOptions(options)
    with beam.Pipeline(runner, options=flags) as pipeline:
        splits = read_splits(pipeline, job)
        features = {name: getattr(splits, name) for name in SPLITS} | "Transform" >> fit
        for name in SPLITS:
            _ = features[name].rows | f"Write{name}" >> WriteTFRecord(str(job.output / name))
