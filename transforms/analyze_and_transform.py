"""Fit a transform graph on the training rows and apply it to all, in one pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.analyze.columns import raw_columns
from skewless.transforms.analyze.exportable import PreprocessingFn
from skewless.transforms.analyze.fit import ENGINES, delete_tree, plan_fit
from skewless.transforms.apply import apply_transform, load_transform
from skewless.transforms.cache import CacheRows, read_cache
from skewless.transforms.rows import ORIGIN, Rows
from skewless.transforms.split import SPLITS

__all__ = ["AnalyzeAndTransform"]


@dataclasses.dataclass(eq=False)
class AnalyzeAndTransform(beam.PTransform):  # type: ignore[misc]
    """Fit `preprocessing_fn` on the training rows and turn the rows of all splits into features.

    Takes a dict of PCollections of batches, `train` and if there are any `eval` and `test`,
    and gives the features of each as `Rows`. The rows are read once: they wait as Arrow IPC
    files in `temp_dir` until the graph is written, and memory does not grow with them.

    Args:
        raw_schema: As for `Analyze`.
        preprocessing_fn: As for `Analyze`.
        output_dir: Where the transform graph goes.
        temp_dir: Where the rows wait; on a file system that all workers see.
        engine: As for `Analyze`.

    Raises:
        RecipeError: As for `Analyze`, and if there is no `train` or another split than these.
    """

    raw_schema: Schema
    preprocessing_fn: PreprocessingFn
    output_dir: str
    temp_dir: str
    engine: str = "auto"

    def __post_init__(self) -> None:
        super().__init__()
        self.fallback = ""
        if self.engine not in ENGINES:
            raise RecipeError(
                f'AnalyzeAndTransform(engine="{self.engine}"): expected one of {", ".join(ENGINES)}'
            )

    def expand(self, splits: Mapping[str, beam.PCollection[pa.RecordBatch]]) -> dict[str, Rows]:
        """Keep all rows on disk, fit on those of `train`, then read them once more."""
        if "train" not in splits or not set(splits) <= set(SPLITS):
            raise RecipeError(
                f"AnalyzeAndTransform: got the splits {', '.join(splits) or 'none'}; expected "
                "train, and if there are any eval and test"
            )
        fit = plan_fit(
            self.raw_schema, self.preprocessing_fn, self.output_dir, self.temp_dir, self.engine
        )
        self.fallback = fit.fallback
        cached = {
            split: rows | split.capitalize() >> _Cache(self.raw_schema, f"{fit.temp_dir}/{split}")
            for split, rows in splits.items()
        }
        graph = cached["train"] | "Fit" >> fit
        outputs = {
            split: paths
            | f"Transform{split.capitalize()}"
            >> beam.ParDo(_TransformFile(), beam.pvalue.AsSingleton(graph)).with_outputs(
                "rejected", "done", main="rows"
            )
            for split, paths in cached.items()
        }
        done = tuple(output.done for output in outputs.values()) | "AllDone" >> beam.Flatten()
        _ = graph | "DeleteTemporary" >> beam.Map(
            delete_tree, fit.temp_dir, beam.pvalue.AsIter(done)
        )
        return {split: Rows(one.rows, (one.rejected,)) for split, one in outputs.items()}


@dataclasses.dataclass(eq=False)
class _Cache(beam.PTransform):  # type: ignore[misc]
    schema: Schema
    directory: str

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        columns = rows | "RawColumns" >> beam.Map(_with_origin, self.schema)
        return columns | "CacheRows" >> CacheRows(self.directory)


def _with_origin(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return the raw columns, and where the rows came from, which a rejected one must say."""
    raw_columns(batch, schema)
    origin = [name for name in ORIGIN if name in batch.schema.names]
    return batch.select([*column_names(schema), *origin])


@beam.typehints.with_input_types(str, str)
@beam.typehints.with_output_types(pa.RecordBatch)
class _TransformFile(beam.DoFn):  # type: ignore[misc]
    def process(self, path: str, transform_graph: str) -> Iterator[Any]:
        apply = load_transform(transform_graph)
        for batch in read_cache(path):
            (_, features), rejected = apply_transform(apply, batch)
            if features.num_rows:
                yield features
            for row in rejected:
                yield beam.pvalue.TaggedOutput("rejected", row)
        yield beam.pvalue.TaggedOutput("done", path)
