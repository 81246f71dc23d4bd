"""Where rows to predict come from: as a person names them, and what of them is kept."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.errors import RecipeError, no_such_column
from skewless.pipeline.artifacts import RunPaths, read_manifest
from skewless.schema import (
    Schema,
    column_names,
    find_feature,
    is_required,
    make_feature,
    make_schema,
    parse_schema,
)
from skewless.storage import AnyPath
from skewless.transforms.rows import CARRIED, ORIGIN
from skewless.transforms.sources.bigquery import ReadBigQuery
from skewless.transforms.sources.carry import Carry, can_carry
from skewless.transforms.sources.csv import ReadCsv
from skewless.transforms.sources.files import FileSource, first_file
from skewless.transforms.sources.json_lines import ReadJsonLines
from skewless.transforms.sources.parquet import ReadParquet
from skewless.transforms.sources.patterns import find_files
from skewless.transforms.sources.source import BatchSource
from skewless.transforms.sources.tfrecord import ReadTFRecord

__all__ = ["BIGQUERY", "FORMATS", "PredictionRows", "format_of", "prediction_rows", "source_of"]

BIGQUERY = "bigquery:"
FORMATS: dict[str, type[FileSource]] = {
    "csv": ReadCsv,
    "jsonl": ReadJsonLines,
    "parquet": ReadParquet,
    "tfrecord": ReadTFRecord,
}
_ENDINGS = {
    "csv": "csv",
    "json": "jsonl",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
}
_STREAMS = ("kafka:", "pubsub:")
# How a recipe's CSV files are written; the rows to predict are taken to be written alike.
_DIALECT = ("delimiter", "quote_char", "null_values", "strings_can_be_null", "newlines_in_values")
_NAMES_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class PredictionRows:
    """Rows to predict.

    Attributes:
        read: Gives `Rows`, with what is kept of them besides in `_carried`.
        name: The input's name in the ledger.
        kept: The columns that go with the predictions, in order.
    """

    read: beam.PTransform
    name: str
    kept: tuple[str, ...]


def format_of(texts: Sequence[str]) -> str | None:
    """Return the format that the names of files end in; None where they end in none.

    Raises:
        RecipeError: If they end in different ones.

    >>> format_of(["rows/part-*.parquet"]), format_of(["rows.csv.gz"]), format_of(["rows"])
    ('parquet', 'csv', None)
    """
    found = {_ending(text) for text in texts}
    if len(found) > 1:
        raise RecipeError(
            f"rows {' '.join(texts)}: these are of several formats; give files of one"
        )
    return next(iter(found), None)


def _ending(text: str) -> str | None:
    # A number of a part may follow (rows.tfrecord-00000-of-00010), or how it is compressed.
    for ending in reversed(pathlib.PurePosixPath(text).name.split(".")[1:]):
        found = _ENDINGS.get(ending.partition("-")[0])
        if found is not None:
            return found
    return None


def source_of(
    texts: Sequence[str],
    model: AnyPath,
    *,
    input_format: str | None = None,
    project: str | None = None,
) -> BatchSource:
    """Return the source of the rows that a person named.

    Args:
        texts: Paths or globs on any Beam file system, all of one format; or one
            `bigquery:project.dataset.table` or `bigquery:SELECT ...`.
        model: What predicts. Where it is of a run, CSV files are read as the recipe's are.
        input_format: The format of files whose names do not say it.
        project: The project that pays for a query of BigQuery.

    Raises:
        RecipeError: If they name nothing that can be read in bulk.
    """
    first = texts[0]
    if first.startswith(_STREAMS):
        raise RecipeError(
            f"rows {first}: this is a stream; its rows are predicted as they come by `skewless "
            f"stream RECIPE --source {first} --run RUN --store STORE --output DIR --predict --to "
            "kafka:HOST:PORT/TOPIC` (or pubsub:TOPIC)"
        )
    if first.startswith(BIGQUERY):
        if len(texts) > 1:
            raise RecipeError(f"rows {' '.join(texts)}: expected one table or query alone")
        named = first.removeprefix(BIGQUERY).strip()
        if len(named.split()) > 1:
            return ReadBigQuery(query=named, project=project)
        return ReadBigQuery(named, project=project)
    form = input_format or format_of(texts)
    if form is None:
        raise RecipeError(
            f"rows {first}: the name does not say the format; give --input-format "
            f"{{{','.join(FORMATS)}}}"
        )
    dialect = _dialect(model) if form == "csv" else {}
    source = FORMATS[form](list(texts), **dialect)
    if not any(c.isalnum() for c in source.input_name):
        # A glob says what files are called, and nothing else.
        source.name = "rows"
    return source


def _dialect(model: AnyPath) -> dict[str, Any]:
    """Return how the CSV files of a model's recipe are written, if they are CSV files."""
    run = run_of(model)
    recipe = read_manifest(run.root).get("recipe", {}) if run else {}
    kind, arguments = recipe.get("definition", {}).get("source", ("", {}))
    if kind != "ReadCsv":
        return {}
    return {name: arguments[name] for name in _DIALECT if name in arguments}


def run_of(model: AnyPath) -> RunPaths | None:
    """Return the run that a model is, or lies in; None for one that lies elsewhere."""
    for root in (model, model.parent, model.parent.parent):
        if (root / "manifest.json").exists():
            return RunPaths(root)
    return None


def prediction_rows(
    source: BatchSource, model: AnyPath, schema: Schema, columns: Sequence[str] | None = None
) -> PredictionRows:
    """Return how rows are read for a model, and which of their columns are kept.

    Args:
        source: Where they are; its schema is set here.
        model: What predicts.
        schema: The columns that the model takes.
        columns: What is kept besides the predictions. By default all that the rows have: of
            CSV (others than the model's as text), Parquet and BigQuery (as they are); of other
            sources, whose rows have no header, the model's columns.

    Raises:
        RecipeError: If a column is not there.
        DataError: If the source cannot be used.
    """
    there = source.available_columns()
    _check_made(there or _seen(source, schema), model, schema, source)
    taken = column_names(schema)
    if there:
        lacking = [name for name in taken if name not in there]
        if lacking:
            error = no_such_column(lacking[0], there, source.where)
            raise RecipeError(
                f"{error}; if a step of the recipe makes it (a join, an aggregate), give rows that "
                "have gone through the recipe, such as a run's rows/test/*.parquet"
            )
    kept = _kept(source, there, taken, columns)
    others = tuple(name for name in kept if name not in taken)
    if isinstance(source, ReadCsv):
        texts = [make_feature(name, pa.string(), required=False) for name in others]
        schema = make_schema([*schema.feature, *texts], domains=schema)
        return PredictionRows(_with_schema(source, schema), source.input_name, kept)
    source = _with_schema(source, schema)
    carried = others if isinstance(source, ReadJsonLines) else kept if there else ()
    if carried and can_carry(source):
        return PredictionRows(Carry(source, carried), source.input_name, kept)
    return PredictionRows(source, source.input_name, kept)


def _with_schema(source: BatchSource, schema: Schema) -> BatchSource:
    return dataclasses.replace(source, schema=schema, columns=None, event_time=None)


def _kept(
    source: BatchSource,
    there: Sequence[str],
    taken: Sequence[str],
    columns: Sequence[str] | None,
) -> tuple[str, ...]:
    """Return the columns to keep, all of which can be."""
    any_column = isinstance(source, ReadCsv) or can_carry(source)
    if columns is None:
        known = there if there and any_column else taken
        return tuple(name for name in known if name not in (*ORIGIN, CARRIED))
    for name in columns:
        if name in (*ORIGIN, CARRIED):
            raise RecipeError(f'--columns: "{name}" is what skewless calls a column of its own')
        if there and name not in there:
            raise no_such_column(name, there, "--columns")
        if not any_column and name not in taken:
            raise RecipeError(
                f'--columns: "{name}" is no column of the model, and of {source.where} no other '
                "can be kept; leave it out"
            )
    return tuple(dict.fromkeys(columns))


def _seen(source: BatchSource, schema: Schema) -> tuple[str, ...]:
    """Return the fields of the first rows, where each row has its own; none if unknown."""
    if not isinstance(source, FileSource):
        return ()
    path = first_file(source.patterns, source.spans)
    size = next(file.size for file in find_files(path))
    reader = source.file_format()
    for piece in reader.pieces(path, size):
        for batch in reader.untyped(piece):
            return tuple(batch.schema.names)
    return tuple(column_names(schema))


def _check_made(there: Sequence[str], model: AnyPath, schema: Schema, source: BatchSource) -> None:
    """See that rows have the columns that the steps of a recipe make: joins and aggregates.

    A row may lack one of them, but rows that have none have not gone through the recipe.

    Raises:
        RecipeError: If the rows have none of them, or lack one that must be there.
    """
    if not there:
        return
    made = _made(model, schema)
    lacking = [name for name in made if name not in there]
    needed = [name for name in lacking if is_required(find_feature(schema, name))]
    if lacking and (needed or len(lacking) == len(made)):
        shown = ", ".join(f'"{name}"' for name in lacking[:_NAMES_SHOWN])
        more = f" and {len(lacking) - _NAMES_SHOWN} more" if len(lacking) > _NAMES_SHOWN else ""
        raise RecipeError(
            f"{source.where}: the rows lack {shown}{more}, which the recipe's steps make (joins, "
            "aggregates); give rows that have gone through the recipe, such as a run's "
            "rows/test/*.parquet, or ask `skewless serve --store` or `skewless stream --predict`, "
            "which take aggregates from the online store"
        )


def _made(model: AnyPath, schema: Schema) -> list[str]:
    """Return the columns that a recipe's steps make; none for a model away from its run."""
    run = run_of(model)
    ledger = read_manifest(run.root).get("ledger", {}) if run else {}
    # Only rows of the main input are written.
    main = next((name for name, kinds in ledger.items() if "written" in kinds), None)
    path = None if run is None or main is None else run.input_schemas / f"{main}.pbtxt"
    if path is None or not path.exists():
        return []
    given = set(column_names(parse_schema(path.read_text(), str(path))))
    return [name for name in column_names(schema) if name not in given]
