"""Fit a transform graph on the training rows, and write it."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.analyze.columns import raw_columns
from skewless.transforms.analyze.exportable import PreprocessingFn
from skewless.transforms.analyze.fit import ENGINES, delete_tree, plan_fit
from skewless.transforms.cache import CacheRows

__all__ = ["Analyze"]


@dataclasses.dataclass(eq=False)
class Analyze(beam.PTransform):  # type: ignore[misc]
    """Fit `preprocessing_fn` on batches of training rows and write the transform graph.

    What it writes is tf.Transform's own layout: `transform_fn/`, `transformed_metadata/`
    and `metadata/` (the raw schema). The result is a PCollection with `output_dir` in it,
    once all is written.

    Args:
        raw_schema: The schema of the raw rows, label included.
        preprocessing_fn: Any function that tf.Transform takes.
        output_dir: Where to write, on any Beam file system.
        temp_dir: Where to leave temporary files: the rows, once, as Arrow IPC. All workers
            must see it; `tft` wants one that TensorFlow knows, too.
        engine: `fused` runs all analyzers of a phase together, on whole batches and
            exactly; `tft` is `tft_beam.AnalyzeDataset`; `auto` is `fused` where it knows
            all of the function's analyzers, and says so in one line where not.

    Attributes:
        fallback: After it was applied, why `auto` became `tft`; empty when it did not.

    Raises:
        RecipeError: When applied, if the function cannot be traced or exported, or not
            by `fused` when that was asked for.
    """

    raw_schema: Schema
    preprocessing_fn: PreprocessingFn
    output_dir: str
    temp_dir: str
    engine: str = "auto"

    def __post_init__(self) -> None:
        super().__init__()
        self.fallback = ""
        if not self.raw_schema.feature:
            raise RecipeError("Analyze(raw_schema): it has no columns")
        if self.engine not in ENGINES:
            raise RecipeError(
                f'Analyze(engine="{self.engine}"): expected one of {", ".join(ENGINES)}'
            )

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Return the PCollection of `output_dir`, written."""
        fit = plan_fit(
            self.raw_schema, self.preprocessing_fn, self.output_dir, self.temp_dir, self.engine
        )
        self.fallback = fit.fallback
        if not fit.columns:
            # Nothing waits for the rows, so nothing must be written for them.
            no_paths = rows.pipeline | "NoRows" >> beam.Create([])
            return no_paths | "Fit" >> fit
        needed = rows | "NeededColumns" >> beam.Map(
            _needed_columns, self.raw_schema, sorted(fit.columns)
        ).with_output_types(pa.RecordBatch)
        paths = needed | "CacheRows" >> CacheRows(f"{fit.temp_dir}/rows")
        written = paths | "Fit" >> fit
        return written | "DeleteTemporary" >> beam.Map(delete_tree, fit.temp_dir)


def _needed_columns(batch: pa.RecordBatch, schema: Schema, columns: list[str]) -> pa.RecordBatch:
    return raw_columns(batch, schema).select(columns)
