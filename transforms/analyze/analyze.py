"""Fit a transform graph on the training rows, and write it."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform.beam as tft_beam

from skewless.errors import RecipeError
from skewless.schema import Schema, format_schema
from skewless.transforms.analyze.columns import adapter_config, as_tensor_columns
from skewless.transforms.analyze.exportable import PreprocessingFn, trace
from skewless.transforms.analyze.internals import (
    GraphWriter,
    Traced,
    Unsupported,
    check_version,
    phases,
)
from skewless.transforms.analyze.passes import CacheRows, RunPhases
from skewless.transforms.analyze.plan import Known, Phase

__all__ = ["ENGINES", "Analyze"]

ENGINES = ("auto", "fused", "tft")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Analyze(beam.PTransform):  # type: ignore[misc]
    """Fit `preprocessing_fn` on batches of training rows and write the transform graph.

    What it writes is tf.Transform's own layout: `transform_fn/`, `transformed_metadata/`
    and `metadata/` (the raw schema). The result is a PCollection with `output_dir` in it,
    once all is written.

    Args:
        raw_schema: The schema of the raw rows, label included.
        preprocessing_fn: Any function that tf.Transform takes.
        output_dir: Where to write; on any file system TensorFlow knows.
        temp_dir: Where to leave temporary files: the rows, once, as Arrow IPC.
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
        scratch = f"{self.temp_dir}/analyze-{uuid.uuid4().hex}"
        traced = trace(self.preprocessing_fn, self.raw_schema, scratch)
        found = () if self.engine == "tft" else self._phases(traced)
        if self.engine == "tft" or self.fallback:
            written = rows | "AnalyzeDataset" >> _AnalyzeDataset(self)
        else:
            written = rows | "AnalyzeFused" >> _AnalyzeFused(self, traced, found)
        return written | "WriteRawSchema" >> beam.ParDo(
            _WriteRawSchema(self.raw_schema, self.output_dir, scratch)
        )

    def _phases(self, traced: Traced) -> tuple[Phase, ...]:
        try:
            check_version()
            return phases(traced, self.raw_schema.SerializeToString())
        except Unsupported as why:
            if self.engine == "fused":
                raise RecipeError(f'Analyze(engine="fused"): not for this function: {why}') from why
            self.fallback = f"analysis by tft_beam.AnalyzeDataset: {why}"
            _log.warning(self.fallback)
            return ()


@dataclasses.dataclass(eq=False)
class _AnalyzeFused(beam.PTransform):  # type: ignore[misc]
    analyze: Analyze
    traced: Traced
    phases: tuple[Phase, ...]

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        writer, schema = GraphWriter.of(self.traced), self.analyze.raw_schema
        columns = frozenset[str]().union(*(phase.columns for phase in self.phases))
        cache = CacheRows(schema, columns, f"{self.traced.temp_dir}/rows")
        known = rows | "CacheRows" >> cache | "RunPhases" >> RunPhases(self.phases)
        return known | "WriteGraph" >> beam.Map(_write_graph, writer, self.analyze.output_dir)


def _write_graph(known: Mapping[str, Known], writer: GraphWriter, output_dir: str) -> str:
    writer.write(known, output_dir)
    return output_dir


@dataclasses.dataclass(eq=False)
class _AnalyzeDataset(beam.PTransform):  # type: ignore[misc]
    analyze: Analyze

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        schema = self.analyze.raw_schema
        columns = rows | "ToTensorColumns" >> beam.ParDo(_ToTensorColumns(schema))
        with tft_beam.Context(temp_dir=self.analyze.temp_dir):
            graph = (columns, adapter_config(schema)) | "FitGraph" >> tft_beam.AnalyzeDataset(
                self.analyze.preprocessing_fn
            )
            return graph | "WriteGraph" >> tft_beam.WriteTransformFn(self.analyze.output_dir)


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class _ToTensorColumns(beam.DoFn):  # type: ignore[misc]
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield as_tensor_columns(batch, self._schema)


@beam.typehints.with_output_types(str)
class _WriteRawSchema(beam.DoFn):  # type: ignore[misc]
    def __init__(self, schema: Schema, output_dir: str, scratch: str) -> None:
        self._text = format_schema(schema)
        self._output_dir = output_dir
        self._scratch = scratch

    def process(self, _: Any) -> Iterator[str]:
        folder = f"{self._output_dir}/metadata"
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(f"{folder}/schema.pbtxt", "w") as file:
            file.write(self._text)
        if tf.io.gfile.exists(self._scratch):
            tf.io.gfile.rmtree(self._scratch)
        yield self._output_dir
