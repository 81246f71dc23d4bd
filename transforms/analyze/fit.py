"""From files of cached rows to a written transform graph, by one of two engines."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow_transform.beam as tft_beam

from skewless.errors import RecipeError
from skewless.schema import Schema, column_names, format_schema
from skewless.storage import path_of, remove_tree
from skewless.transforms.analyze.columns import adapter_config, as_tensor_columns
from skewless.transforms.analyze.exportable import PreprocessingFn, trace
from skewless.transforms.analyze.internals.graph_writer import GraphWriter
from skewless.transforms.analyze.internals.phases import phases
from skewless.transforms.analyze.internals.traced import Traced, Unsupported, check_version
from skewless.transforms.analyze.passes import RunPhases
from skewless.transforms.analyze.plan import Known, Phase
from skewless.transforms.cache import read_cache

__all__ = ["ENGINES", "Fit", "delete_tree", "plan_fit"]

ENGINES = ("auto", "fused", "tft")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Fit(beam.PTransform):  # type: ignore[misc]
    """Fit a traced function on cached rows and write its graph; see `Analyze`.

    Args:
        raw_schema: The schema of the raw rows.
        traced: The function.
        output_dir: Where to write.
        phases: What the fused engine has to do; None for `tft_beam.AnalyzeDataset`.
        fallback: Why it is not the fused engine, where it was to be.
    """

    raw_schema: Schema
    traced: Traced
    output_dir: str
    phases: tuple[Phase, ...] | None
    fallback: str = ""

    @property
    def temp_dir(self) -> str:
        """Where it leaves temporary files."""
        return self.traced.temp_dir

    @property
    def columns(self) -> frozenset[str]:
        """The raw columns that it needs."""
        if self.phases is None:
            return frozenset(column_names(self.raw_schema))
        return frozenset[str]().union(*(phase.columns for phase in self.phases))

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[str]:
        """Return the PCollection of `output_dir`, written."""
        if self.phases is None:
            rows = paths | "ReadCache" >> beam.ParDo(_ReadTensorColumns(self.raw_schema))
            written = rows | "AnalyzeDataset" >> _AnalyzeDataset(self)
        else:
            known = paths | "RunPhases" >> RunPhases(self.phases, f"{self.temp_dir}/phases")
            written = known | "WriteGraph" >> beam.Map(
                _write_graph, GraphWriter.of(self.traced), self.output_dir
            )
        return written | "WriteRawSchema" >> beam.Map(
            _write_raw_schema, format_schema(self.raw_schema), self.output_dir
        )


def plan_fit(
    raw_schema: Schema,
    preprocessing_fn: PreprocessingFn,
    output_dir: str,
    temp_dir: str,
    engine: str,
) -> Fit:
    """Trace a function and choose the engine; the arguments are those of `Analyze`.

    Raises:
        RecipeError: If the function cannot be traced or exported, or not by `fused` when
            that was asked for.
    """
    traced = trace(preprocessing_fn, raw_schema, f"{temp_dir}/analyze-{uuid.uuid4().hex}")
    if engine == "tft" and traced.has_analyzers:
        return Fit(raw_schema, traced, output_dir, None)
    try:
        check_version()
        found = phases(traced, raw_schema.SerializeToString())
    except Unsupported as why:
        if engine == "fused":
            raise RecipeError(f'Analyze(engine="fused"): not for this function: {why}') from why
        fallback = f"analysis by tft_beam.AnalyzeDataset: {why}"
        _log.warning(fallback)
        return Fit(raw_schema, traced, output_dir, None, fallback)
    return Fit(raw_schema, traced, output_dir, found)


def delete_tree(output_dir: str, path: str, _: Any = None) -> str:
    """Delete a directory that is no longer needed, and return `output_dir`.

    What else is given, a side input, is only waited for.
    """
    remove_tree(path_of(path))
    return output_dir


def _write_graph(known: Mapping[str, Known], writer: GraphWriter, output_dir: str) -> str:
    writer.write(known, output_dir)
    return output_dir


def _write_raw_schema(_: Any, text: str, output_dir: str) -> str:
    folder = path_of(output_dir) / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.pbtxt").write_text(text)
    return output_dir


@dataclasses.dataclass(eq=False)
class _AnalyzeDataset(beam.PTransform):  # type: ignore[misc]
    fit: Fit

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        typed = rows, adapter_config(self.fit.raw_schema)
        with tft_beam.Context(temp_dir=self.fit.temp_dir):
            function = self.fit.traced.preprocessing_fn
            graph = typed | "FitGraph" >> tft_beam.AnalyzeDataset(function)
            return graph | "WriteGraph" >> tft_beam.WriteTransformFn(self.fit.output_dir)


@beam.typehints.with_input_types(str)
@beam.typehints.with_output_types(pa.RecordBatch)
class _ReadTensorColumns(beam.DoFn):  # type: ignore[misc]
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def process(self, path: str) -> Iterator[pa.RecordBatch]:
        for batch in read_cache(path):
            yield as_tensor_columns(batch, self._schema)
