"""The pipelines that skewless submits, as protos: built by its own stages, and never run."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import types
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.portability.api import beam_runner_api_pb2

import skewless as sk
from skewless.pipeline import batch, training
from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.execution import IN_PROCESS, Execution
from skewless.pipeline.live import NewestRun, graph_of, live_rows
from skewless.pipeline.recipe import Recipe, load_recipe
from skewless.pipeline.streaming import StreamRows
from skewless.schema import (
    Schema,
    arrow_schema,
    column_names,
    format_schema,
    make_feature,
    make_schema,
)
from skewless.transforms.infer import infer_schema
from skewless.transforms.live.process import Outputs
from tests.benchmarks.graphs import FUNCTIONS
from tests.benchmarks.measure import ROOT
from tests.benchmarks.work import WIDE

__all__ = ["Proto", "flights_pipelines", "flights_recipe", "wide_pipelines", "wide_recipe"]

Proto = beam_runner_api_pb2.Pipeline
_EXAMPLE = ROOT / "examples" / "flights"


class _RecordedError(Exception):
    """The pipeline that was to be run."""

    def __init__(self, proto: Proto) -> None:
        super().__init__()
        self.proto = proto


@dataclasses.dataclass(frozen=True)
class _Recorder(Execution):
    """Builds pipelines as the in-process runner would get them, and goes no further."""

    def run(self, build: beam.PTransform, within: float | None = None) -> None:
        pipeline = beam.Pipeline(IN_PROCESS)
        pipeline | build
        raise _RecordedError(pipeline.to_runner_api())


def _proto_of(stage: Callable[[Execution], Any]) -> Proto:
    try:
        stage(_Recorder())
    except _RecordedError as found:
        return found.proto
    raise ValueError("the stage ran no pipeline")


def flights_recipe(folder: pathlib.Path, csv: pathlib.Path) -> Recipe:
    """Return the recipe of the example for other flights than those of the whole year."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("recipe.py", "data.py"):
        shutil.copy(_EXAMPLE / file, folder / file)
    text = (folder / "recipe.py").read_text().replace("data.flights_csv()", repr(str(csv)))
    (folder / "recipe.py").write_text(text)
    return load_recipe(folder / "recipe.py")


def wide_recipe(csv: pathlib.Path) -> Recipe:
    """Return a recipe of the z-scores of 2,000 columns of numbers."""
    names = WIDE.needed[1:]
    features = [make_feature(name, pa.float32(), required=True) for name in names]
    schema = make_schema([make_feature("key", pa.int64(), required=True), *features])
    return sk.Recipe(
        name="wide",
        source=sk.ReadCsv(csv, schema=schema),
        preprocessing_fn=FUNCTIONS["wide"],
        label=names[0],
        split=sk.SplitByHash(by=["key"], train=0.8, eval=0.1),
        model=sk.Linear(),
    )


def flights_pipelines(folder: pathlib.Path, csv: pathlib.Path) -> dict[str, Proto]:
    """Return the pipelines of the flights by name; only the schemas are inferred.

    Args:
        folder: An empty one.
        csv: The flights; a few will do.
    """
    recipe = flights_recipe(folder / "recipe", csv)
    schemas = {name: infer_schema(source) for name, source in recipe.sources().items()}
    found = {"schema": _proto_of(lambda run: batch._infer(RunPaths(folder / "a"), recipe, run))}
    found |= _batch_pipelines(folder, recipe, schemas)
    found["stream"] = _stream(folder, recipe)
    return found


def wide_pipelines(folder: pathlib.Path, csv: pathlib.Path) -> dict[str, Proto]:
    """Return the pipelines of the wide table by name.

    Args:
        folder: An empty one.
        csv: The table; its header will do.
    """
    recipe = wide_recipe(csv)
    return _batch_pipelines(folder, recipe, {recipe.source.input_name: recipe.source.schema})


def _batch_pipelines(
    folder: pathlib.Path, recipe: Recipe, schemas: Mapping[str, Schema]
) -> dict[str, Proto]:
    run, work = RunPaths(folder / "run"), RunPaths(folder / "work")
    run.input_schemas.mkdir(parents=True)
    for name, schema in schemas.items():
        (run.input_schemas / f"{name}.pbtxt").write_text(format_schema(schema))
    typed, schema = batch.typed_recipe(recipe, run)
    _write_nothing(run, schema)
    stand_in: Any = types.SimpleNamespace(
        paths=run,
        manifest={"stages": {"train": {"result": {"task": "binary", "classes": 2}}}},
    )
    return {
        "rows": _proto_of(lambda runner: batch._write_rows(work, typed, schema, runner, ())),
        "analyze": _proto_of(lambda runner: batch._analyze(work, run, recipe, schema, runner)),
        "examples": _proto_of(lambda runner: batch._write_examples(work, stand_in, recipe, runner)),
        "evaluate": _proto_of(
            lambda runner: training._evaluate(work, stand_in, recipe, runner, None)
        ),
    }


def _write_nothing(run: RunPaths, schema: Schema) -> None:
    """Write what the stages look at before they build: parts without rows, a schema, a model."""
    empty = pa.Table.from_pylist([], schema=arrow_schema(schema))
    for split in SPLITS:
        (run.rows / split).mkdir(parents=True)
        pq.write_table(empty, str(run.rows / split / "part-00000.parquet"))
    run.schema.write_text(format_schema(schema))
    (run.model / "1").mkdir(parents=True)
    run.manifest.write_text(json.dumps({}))


def _stream(folder: pathlib.Path, recipe: Recipe) -> Proto:
    run = folder / "run"
    live = live_rows(recipe, run, folder, Execution())
    source = dataclasses.replace(recipe.source, schema=live.schema, watch_seconds=10.0)
    columns = tuple(column_names(live.schema))
    outputs = Outputs(graph_of(NewestRun(str(run), columns)), str(folder / "out"), live.at, 0)
    whole = StreamRows(source, live, str(folder / "online.db"), outputs)
    return _proto_of(lambda runner: runner.run(whole))
