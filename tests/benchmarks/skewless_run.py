"""The whole of a recipe's `transform`: what the steps do, and the safety of a run.

Rows are validated, counted, kept as Parquet with the place they came from, and each stage is
published whole, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

from skewless import Linear, Recipe
from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.batch import transform
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import fingerprint
from skewless.pipeline.stages import Quiet, Run
from tests.benchmarks.graphs import FUNCTIONS
from tests.benchmarks.reading import source, split
from tests.benchmarks.work import Job

LABELS = {"flights": "late", "wide": "x0000"}


def run(job: Job) -> None:
    recipe = Recipe(
        name=job.work,
        source=source(job),
        preprocessing_fn=FUNCTIONS[job.work],
        label=LABELS[job.work],
        split=split(job),
        model=Linear(),
    )
    paths = RunPaths(job.output / "run")
    with Run.open(paths.root, Quiet(), {"recipe": job.work}, {}) as opened:
        opened.manifest.update(inputs=fingerprint(recipe))
        transform(opened, recipe, Execution())
