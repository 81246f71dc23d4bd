"""Predictions for many rows at once: of files or a table, to files or a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.errors import RecipeError, RunError
from skewless.pipeline.artifacts import write_json
from skewless.pipeline.batch import check_rejected
from skewless.pipeline.counting import read_counts, write_counts
from skewless.pipeline.execution import Execution
from skewless.pipeline.ledger import Ledger
from skewless.pipeline.predicting import (
    load_predictor,
    model_directory,
    needed_columns,
    read_model_schema,
)
from skewless.pipeline.prediction_rows import PredictionRows, prediction_rows
from skewless.pipeline.stages import locked
from skewless.schema import Schema
from skewless.storage import AnyPath, move, move_files, path_of, paths_in, remove_tree
from skewless.transforms.predict import Predict
from skewless.transforms.rows import CARRIED, FILE, OFFSET, Rows
from skewless.transforms.sinks.bigquery import WriteBigQuery, Written
from skewless.transforms.sinks.files import write_error
from skewless.transforms.sinks.json_lines import WriteJsonLines
from skewless.transforms.sinks.parquet import WriteParquet
from skewless.transforms.sinks.parts import Part
from skewless.transforms.sinks.summary import WriteSummary
from skewless.transforms.sources.source import BatchSource
from skewless.transforms.validate import Validate

__all__ = ["OUTPUT_FORMATS", "BulkPrediction", "keep_columns", "predict_in_bulk"]

OUTPUT_FORMATS = ("parquet", "jsonl")

_LEDGER, _PREDICTIONS, _REJECTED = "ledger.json", "predictions", "rejected"
_WORK = ".work"
_SUMMARY = "written.json"


@dataclasses.dataclass(frozen=True, eq=False)
class BulkPrediction:
    """What is predicted, and where it goes.

    Args:
        model: A SavedModel, a folder of versions, or a run.
        rows: Where the rows are; a schema is not needed.
        output: The folder where `predictions/part-*`, `rejected/` and `ledger.json` go.
        table: The table that the predictions are appended to, instead of `predictions/`.
        output_format: `parquet` or `jsonl`, of `predictions/`.
        columns: The columns that go with the predictions, see `prediction_rows`.
        prefix: Put before the names of the model's outputs.
        max_rejected: The part of the rows that may be rejected; if it is more, nothing is
            published.
        execution: Where to run.

    Raises:
        RecipeError: If an argument is wrong.
    """

    model: AnyPath
    rows: BatchSource
    output: AnyPath
    _: dataclasses.KW_ONLY
    table: WriteBigQuery | None = None
    output_format: str = "parquet"
    columns: Sequence[str] | None = None
    prefix: str = ""
    max_rejected: float = 0.01
    execution: Execution = dataclasses.field(default_factory=Execution)

    def __post_init__(self) -> None:
        if self.output_format not in OUTPUT_FORMATS:
            raise RecipeError(
                f'output_format="{self.output_format}": expected {" or ".join(OUTPUT_FORMATS)}'
            )
        if not 0 <= self.max_rejected <= 1:
            raise RecipeError(
                f"max_rejected={self.max_rejected}: expected a part of the rows, from 0 to 1"
            )


def predict_in_bulk(wanted: BulkPrediction) -> Ledger:
    """Predict rows, each of which is predicted or rejected, and publish all at once.

    Returns:
        The ledger, checked; `ledger.json` holds it too.

    Raises:
        RecipeError: If an argument is wrong, or the rows lack a column of the model.
        DataError: If the rows cannot be used, or too many were rejected.
        RunError: If the output cannot be written, or holds something already.
    """
    model = model_directory(wanted.model)
    schema = read_model_schema(model)
    rows = prediction_rows(wanted.rows, wanted.model, schema, wanted.columns)
    _check_free(wanted.output)
    work = wanted.output / _WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(wanted.output, error) from error
    with locked(work / "lock", wanted.output):
        for stale in (_PREDICTIONS, _REJECTED):
            remove_tree(work / stale)
            (work / stale).mkdir()
        wanted.execution.run(_PredictRows(rows, schema, str(model), str(work), wanted))
        written = json.loads((work / _SUMMARY).read_text())
        entries = read_counts(work, rows.name)
        predicted = sum(n for _, n, *_ in written)
        ledger = Ledger.of([*entries, (rows.name, "predicted", _PREDICTIONS, predicted)])
        ledger.check()
        check_rejected(ledger, rows.name, wanted.max_rejected, work / _REJECTED)
        _publish(work, written, wanted)
        about = {"model": str(model), "input": rows.name, "ledger": ledger.to_json()}
        write_json(wanted.output / _LEDGER, about)
        remove_tree(work)
    return ledger


def _check_free(folder: AnyPath) -> None:
    """See that nothing is overwritten but what a run left that did not come to its end."""
    if not folder.exists():
        return
    found = {path.name for path in folder.glob("*")}
    if _LEDGER in found or found - {_WORK, _PREDICTIONS, _REJECTED}:
        raise RunError(
            f"--output {folder}: there is something already; choose another folder, or empty it"
        )


def _publish(work: AnyPath, written: list[Any], wanted: BulkPrediction) -> None:
    """Put what was made where it belongs; the ledger, which comes last, says that it is whole."""
    output = wanted.output
    remove_tree(output / _REJECTED)
    if paths_in(work / _REJECTED, "*"):
        move(work / _REJECTED, output / _REJECTED)
    if wanted.table is not None:
        wanted.table.commit([Written(stream, rows) for stream, rows in written])
        return
    # Named by where their first row came from, so that a second run names them alike.
    moves = [
        (path_of(path), work / _PREDICTIONS / f"part-{number:05d}.{wanted.output_format}")
        for number, (_, _, path) in enumerate(sorted(written))
    ]
    move_files(moves)
    remove_tree(output / _PREDICTIONS)
    if written:
        move(work / _PREDICTIONS, output / _PREDICTIONS)


@dataclasses.dataclass(eq=False)
class _PredictRows(beam.PTransform):  # type: ignore[misc]
    """Read, check, predict and write rows, nothing of which is published."""

    rows: PredictionRows
    schema: Schema
    model: str
    work: str
    wanted: BulkPrediction

    def expand(self, begin: beam.pvalue.PBegin) -> None:
        work = path_of(self.work)
        rows: Rows = begin | "Read" >> self.rows.read
        rows = rows | Validate(needed_columns(self.schema))
        predict = Predict(load_predictor, (self.model,), self.wanted.prefix, reject_all=False)
        rows = rows | predict
        batches = rows.rows | "KeepColumns" >> beam.Map(
            keep_columns, self.rows.kept
        ).with_output_types(pa.RecordBatch)
        written = batches | "Write" >> self._sink(str(work / _PREDICTIONS))
        _ = (
            written
            | "WrittenEntry" >> beam.Map(_written_entry)
            | "Written" >> WriteSummary(str(work / _SUMMARY))
        )
        write_counts(rows.rejected, rows.counts, work / _REJECTED, work)

    def _sink(self, directory: str) -> beam.PTransform:
        if self.wanted.table is not None:
            return self.wanted.table.appending()
        parquet = self.wanted.output_format == "parquet"
        return WriteParquet(directory) if parquet else WriteJsonLines(directory)


def _written_entry(written: Part | Written) -> list[Any]:
    if isinstance(written, Written):
        return [written.stream, written.rows]
    return [list(written.first), written.rows, written.path]


def keep_columns(batch: pa.RecordBatch, kept: Sequence[str]) -> pa.RecordBatch:
    """Return columns of predicted rows as they were read, the outputs, and the origin.

    Args:
        batch: What `Predict` made: the model's columns, the origin, what is carried as it was
            read if anything is, and the outputs.
        kept: The columns that go with the outputs.

    Raises:
        RecipeError: If an output has the name of a column that is kept.
    """
    names = batch.schema.names
    carried: dict[str, pa.Array] = {}
    if CARRIED in names:
        struct = batch.column(CARRIED)
        carried = dict(zip([f.name for f in struct.type], struct.flatten(), strict=True))
    outputs = names[names.index(CARRIED if CARRIED in names else OFFSET) + 1 :]
    columns = {name: carried[name] if name in carried else batch.column(name) for name in kept}
    for name in outputs:
        if name in columns:
            raise RecipeError(
                f'the rows have a column "{name}", as the model calls an output; give another '
                "name to the outputs by --prefix, or leave the column out by --columns"
            )
        columns[name] = batch.column(name)
    columns |= {name: batch.column(name) for name in (FILE, OFFSET)}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
