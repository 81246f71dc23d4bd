"""From raw records to features on disk: schemas, rows, transform graph, examples."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq

from skewless import progress
from skewless.errors import DataError
from skewless.parity import TransformGraph
from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.counting import read_counts, write_counts
from skewless.pipeline.execution import Execution
from skewless.pipeline.ledger import Ledger
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.rows import ReadRows, joined_columns, rows_schema, with_schemas
from skewless.pipeline.stages import Run
from skewless.schema import (
    Schema,
    absent_at_serving,
    column_names,
    drop_columns,
    format_schema,
    parse_schema,
)
from skewless.storage import (
    AnyPath,
    RemotePath,
    files_below,
    local_copy,
    move_files,
    path_of,
    remove_tree,
)
from skewless.transforms.analyze import Analyze
from skewless.transforms.features.columns import Label
from skewless.transforms.features.graph import build_preprocessing_fn
from skewless.transforms.infer import InferSchema
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.examples import WriteExamples
from skewless.transforms.sinks.parquet import Part, WriteParquet
from skewless.transforms.sinks.rejected import read_rejected_file
from skewless.transforms.sinks.summary import WriteSummary
from skewless.transforms.sources.parquet import ReadParquet

__all__ = ["WriteRows", "check_rejected", "read_rejected", "transform", "typed_recipe"]

_WORDS_SHOWN = 3
# Of a remote part the length alone is read, which is waiting for the most part.
_READ_AT_ONCE = 16


def transform(
    run: Run, recipe: Recipe, execution: Execution, repaired: tuple[Rejected, ...] = ()
) -> Ledger:
    """Do the stages `schema`, `rows`, `analyze` and `examples` of a run.

    Returns:
        The ledger, checked; it is in the manifest too.

    Raises:
        SkewlessError: If the input, the recipe or the features are wrong.
    """
    paths, inputs = run.paths, run.manifest["inputs"]
    described = recipe.describe("source", "rows", "schema")
    run.perform(
        "schema",
        [described, inputs],
        [paths.input_schemas],
        lambda work: _infer(RunPaths(work), recipe, execution),
    )
    typed, schema = typed_recipe(recipe, paths)
    split_on = recipe.describe("split", "max_rejected", "label", "evaluation")
    repairs = [list(map(str, row)) for row in repaired]
    run.perform(
        "rows",
        [run.key_of("schema"), split_on, repairs],
        [paths.rows, paths.rejected],
        lambda work: _write_rows(RunPaths(work), typed, schema, execution, repaired),
    )
    run.perform(
        "analyze",
        [
            run.key_of("rows"),
            recipe.describe("features", "preprocessing_fn", "label"),
            execution.analysis,
        ],
        [paths.transform_graph, paths.schema],
        lambda work: _analyze(RunPaths(work), paths, recipe, schema, execution),
    )
    result = run.perform(
        "examples",
        [run.key_of("analyze")],
        [paths.examples],
        lambda work: _write_examples(RunPaths(work), run, recipe, execution),
    )
    ledger = Ledger.from_json(result["ledger"])
    run.record("ledger", result["ledger"])
    return ledger


def typed_recipe(recipe: Recipe, paths: RunPaths) -> tuple[Recipe, Schema]:
    """Return the recipe with the schemas of a run filled in, and the schema of its rows."""
    typed = with_schemas(recipe, _input_schemas(paths), _frozen(recipe))
    return typed, rows_schema(typed)


def _frozen(recipe: Recipe) -> Schema | None:
    """Return the recipe's own schema, read from its file where it is one."""
    if not isinstance(recipe.schema, str | os.PathLike | RemotePath):
        return recipe.schema
    path = path_of(recipe.schema)
    if not path.is_file():
        raise DataError(f"{path}: there is no such schema; copy a run's schema.pbtxt there")
    return parse_schema(path.read_text(encoding="utf-8"), str(path))


def _infer(made: RunPaths, recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Write the schema of every input: its own, the recipe's frozen one, or inferred."""
    frozen = _frozen(recipe)
    made.input_schemas.mkdir(parents=True, exist_ok=True)
    main = recipe.source.input_name
    for name, source in recipe.sources().items():
        if source.schema is not None:
            schema = source.raw_schema()
        elif frozen is not None and name == main:
            continue
        else:
            file = made.root / f"{name}.json"
            execution.run(_Infer(source, str(file)))
            schema = parse_schema(json.loads(file.read_text())[0])
        (made.input_schemas / f"{name}.pbtxt").write_text(format_schema(schema))
    if frozen is not None and recipe.source.schema is None:
        own = drop_columns(frozen, joined_columns(recipe, _input_schemas(made)))
        (made.input_schemas / f"{main}.pbtxt").write_text(format_schema(own))
    typed_recipe(recipe, made)
    return {}


def _input_schemas(paths: RunPaths) -> dict[str, Schema]:
    return {
        file.stem: parse_schema(file.read_text(), str(file))
        for file in paths.input_schemas.glob("*.pbtxt")
    }


@dataclasses.dataclass(eq=False)
class _Infer(beam.PTransform):  # type: ignore[misc]
    source: Any
    path: str

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[None]:
        schema = begin | InferSchema(self.source)
        return schema | "Format" >> beam.Map(format_schema) | WriteSummary(self.path)


@dataclasses.dataclass(eq=False)
class WriteRows(beam.PTransform):  # type: ignore[misc]
    """Read a recipe's rows and write them by split, with the rejected and the counts.

    Args:
        read: The road from the sources to the splits.
        directory: Where `rows/`, `rejected/` and the summaries go.
    """

    read: ReadRows
    directory: str

    def expand(self, begin: beam.pvalue.PBegin) -> None:
        """Write each of the three splits, then what was counted."""
        made = RunPaths(path_of(self.directory))
        splits = begin | "ReadRows" >> self.read
        for split, label in zip(SPLITS, ("WriteTrain", "WriteEval", "WriteTest"), strict=True):
            parts = getattr(splits, split) | label >> WriteParquet(str(made.rows / split))
            _ = (
                parts
                | f"{label}Parts" >> beam.Map(_part_entry, split=split)
                | f"{label}Summary" >> WriteSummary(str(made.root / f"{split}.json"))
            )
        write_counts(splits.rejected, splits.counts, made.rejected / "rows", made.root)


def _part_entry(part: Part, split: str) -> tuple[str, list[Any], str, int]:
    return split, list(part.first), part.path, part.rows


def _write_rows(
    made: RunPaths,
    recipe: Recipe,
    schema: Schema,
    execution: Execution,
    repaired: tuple[Rejected, ...],
) -> dict[str, Any]:
    """Do the stage `rows`; return the ledger's entries."""
    for stale in (made.rows, made.rejected):
        remove_tree(stale)
    (made.rejected / "rows").mkdir(parents=True)
    temporary = made.root / "tmp"
    try:
        read = ReadRows(recipe, schema, repaired, str(temporary))
        execution.run(WriteRows(read, str(made.root)))
    finally:
        remove_tree(temporary)
    main = recipe.source.input_name
    entries = read_counts(made.root, main)
    for split in SPLITS:
        (made.rows / split).mkdir(parents=True, exist_ok=True)
        parts = json.loads((made.root / f"{split}.json").read_text())
        # Named by where their first row came from, so that a second run names them alike.
        moves = [
            (path_of(path), made.rows / split / f"part-{number:05d}.parquet")
            for number, (_, _, path, _) in enumerate(sorted(parts))
        ]
        move_files(moves)
        entries.append((main, "written", split, sum(part[3] for part in parts)))
    ledger = Ledger.of(entries)
    ledger.check()
    _check_rows(ledger, main, recipe.max_rejected, made)
    return {"ledger": ledger.to_json()}


def _check_rows(ledger: Ledger, main: str, max_rejected: float, made: RunPaths) -> None:
    """Refuse to publish rows of which too many were rejected, or none is left to train on."""
    for name in ledger.inputs:
        check_rejected(ledger, name, max_rejected, made.rejected)
    if not ledger.inputs[main]["written"]["train"]:
        dropped = ", ".join(
            f"{rows:,} {kind} at {step}"
            for name, kind, step, rows in ledger.entries()
            if name == main and rows and kind != "read"
        )
        raise DataError(
            f'input "{main}": no row is left to train on; of {ledger.total(main, "read"):,} rows '
            f"{dropped or 'none was read: is the file empty but for its header?'}"
        )


def check_rejected(ledger: Ledger, name: str, max_rejected: float, folder: AnyPath) -> None:
    """Refuse to publish what came of an input of which too many rows were rejected.

    Raises:
        DataError: If more than that part of them were; says why most of them.
    """
    read, rejected = ledger.total(name, "read"), ledger.total(name, "rejected")
    if rejected > max_rejected * read:
        reasons = Counter(
            f'column "{row.column}": {row.reason}' if row.column else row.reason
            for row in read_rejected(folder)
        )
        common = "; ".join(f"{n:,} x {why}" for why, n in reasons.most_common(_WORDS_SHOWN))
        raise DataError(
            f'input "{name}": {rejected:,} of {read:,} rows were rejected, more than '
            f"max_rejected={max_rejected:.2%}; {common}; all of them are in {folder}; nothing was "
            "published"
        )


def _row_count(part: AnyPath) -> int:
    with part.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)


def read_rejected(folder: AnyPath) -> Iterator[Rejected]:
    """Yield every rejected row in a folder and those below it, holding those of one file."""
    for file in files_below(folder, "*.jsonl"):
        yield from read_rejected_file(file)


def _analyze(
    made: RunPaths, paths: RunPaths, recipe: Recipe, schema: Schema, execution: Execution
) -> dict[str, Any]:
    """Do the stage `analyze`: only training rows are read here."""
    remove_tree(made.transform_graph)
    graph_schema = schema
    preprocessing_fn = recipe.preprocessing_fn
    if recipe.features is not None and isinstance(recipe.label, Label):
        columns = [c for column in recipe.features.values() for c in column.inputs]
        used = {*columns, *recipe.label.inputs}
        graph_schema = drop_columns(schema, set(column_names(schema)) - used)
        preprocessing_fn = build_preprocessing_fn(recipe.features, recipe.label, graph_schema)
    analyze = Analyze(
        graph_schema,
        preprocessing_fn,
        str(made.transform_graph),
        str(made.root / "tmp"),
        engine=execution.analysis,
    )
    execution.run(_AnalyzeRows(ReadParquet(paths.rows_of("train"), schema=graph_schema), analyze))
    if analyze.fallback:
        progress.note(analyze.fallback)
    with local_copy(made.transform_graph) as graph:
        needed = column_names(TransformGraph(str(graph)).raw_schema)
        served = TransformGraph(str(graph), without=(recipe.label_key,)).raw_schema
    label_only = set(needed) - set(column_names(served))
    made.schema.write_text(format_schema(absent_at_serving(schema, label_only)))
    return {
        "label_only": sorted(label_only),
        "inputs": column_names(served),
        "fallback": analyze.fallback,
    }


@dataclasses.dataclass(eq=False)
class _AnalyzeRows(beam.PTransform):  # type: ignore[misc]
    read: ReadParquet
    analyze: Analyze

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        return (begin | "ReadTrain" >> self.read).rows | "Analyze" >> self.analyze


def _write_examples(
    made: RunPaths, run: Run, recipe: Recipe, execution: Execution
) -> dict[str, Any]:
    """Do the stage `examples`; return the ledger with what the graph itself rejected."""
    paths = run.paths
    # Beside the rows, not in this stage's folder: a part is cut when its rows are written
    # down there, and from then on that is the only place that knows them.
    rejected = paths.rejected / "transform"
    rejected.mkdir(parents=True, exist_ok=True)
    for unfinished in [*paths.rows.rglob(".*"), *made.examples.rglob(".*")]:
        unfinished.unlink()
    for split in SPLITS:
        (made.examples / split).mkdir(parents=True, exist_ok=True)
    execution.run(
        _TransformParts(
            str(paths.root),
            WriteExamples(str(paths.transform_graph), str(made.examples), str(rejected)),
        )
    )
    main = recipe.source.input_name
    before = Ledger.from_json(run.manifest["stages"]["rows"]["result"]["ledger"])
    lost = Counter(row.step for row in read_rejected(rejected))
    entries = [entry for entry in before.entries() if entry[1] != "written"]
    entries += [entry for entry in before.entries() if entry[0] != main and entry[1] == "written"]
    entries += [(main, "rejected", step, n) for step, n in lost.items()]
    with concurrent.futures.ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        for split in SPLITS:
            rows = sum(pool.map(_row_count, paths.row_parts(split)))
            entries.append((main, "written", split, rows))
    ledger = Ledger.of(entries)
    ledger.check()
    _check_rows(ledger, main, recipe.max_rejected, paths)
    return {"ledger": ledger.to_json()}


@dataclasses.dataclass(eq=False)
class _TransformParts(beam.PTransform):  # type: ignore[misc]
    run: str
    write: WriteExamples

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[str]:
        # Listed by a worker: the names of all parts would make the pipeline as long as the data.
        splits = begin | "Splits" >> beam.Create(SPLITS)
        parts = splits | "ListParts" >> beam.FlatMap(_list_parts, self.run)
        return parts | "Spread" >> beam.Reshuffle() | "WriteExamples" >> self.write


def _list_parts(split: str, run: str) -> list[str]:
    return [str(part) for part in RunPaths(path_of(run)).row_parts(split)]
