"""A recipe as a stream: its steps over micro-batches, with the graph of the newest run."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy.typing as npt
import pyarrow as pa

from skewless import progress
from skewless.errors import RecipeError, RunError
from skewless.pipeline.artifacts import RunPaths, latest_run, read_manifest
from skewless.pipeline.batch import typed_recipe
from skewless.pipeline.execution import Execution
from skewless.pipeline.predicting import load_predictor
from skewless.pipeline.recipe import Recipe, load_recipe
from skewless.pipeline.rows import last_checks
from skewless.schema import Schema
from skewless.storage import AnyPath, RemotePath, local_output, path_of
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.online import OnlineFeatures
from skewless.transforms.aggregate.tiles import TilePlan
from skewless.transforms.durations import Duration, microseconds
from skewless.transforms.join import JoinAsOf
from skewless.transforms.live.microbatches import LiveRows
from skewless.transforms.live.outputs import Graph
from skewless.transforms.live.steps import DropRepeated, LiveStep, live_step
from skewless.transforms.online.open import open_store
from skewless.transforms.predict import shared_model
from skewless.transforms.rows import each_batch

__all__ = [
    "NewestRun",
    "event_schema",
    "graph_of",
    "live_rows",
    "online_features",
    "predict_rows",
    "remembered",
    "split_steps",
    "typed_as_in",
]

_LOOK_SECONDS = 5.0
# A store keeps times as floats, exact up to 285 years.
_FOR_EVER = "36500d"


def split_steps(recipe: Recipe) -> tuple[list[Any], list[Aggregate], list[Any]]:
    """Return a recipe's steps before its aggregates, these, and those after them.

    Raises:
        RecipeError: If a stream cannot do them: aggregates that do not follow each other,
            or as of different times.
    """
    steps = list(recipe.rows)
    at = [i for i, step in enumerate(steps) if isinstance(step, Aggregate)]
    if not at:
        return steps, [], []
    aggregates = [step for step in steps[at[0] : at[-1] + 1] if isinstance(step, Aggregate)]
    if len(aggregates) != at[-1] - at[0] + 1:
        raise RecipeError(
            "Recipe(rows=...): in a stream all Aggregates follow each other; move the steps "
            "between them before or after"
        )
    if len({str(step.at) for step in aggregates}) > 1:
        raise RecipeError("Recipe(rows=...): in a stream all Aggregates have the same at=")
    named = Counter(step.name for step in aggregates)
    for name, n in named.items():
        if n > 1:
            raise RecipeError(
                f'Recipe(rows=...): {n} Aggregates are called "{name}", and a store could not '
                "tell their tiles apart; give each another name="
            )
    return steps[: at[0]], aggregates, steps[at[-1] + 1 :]


def typed_as_in(recipe: Recipe, run: AnyPath) -> tuple[Recipe, Schema]:
    """Return what `typed_recipe` does.

    Raises:
        RunError: If the run is one of another recipe, with other inputs.
    """
    paths = RunPaths(run)
    for name in recipe.sources():
        if not (paths.input_schemas / f"{name}.pbtxt").exists():
            raise RunError(
                f'{run}: the run has no schema of the input "{name}"; give a run of this recipe'
            )
    return typed_recipe(recipe, paths)


def event_schema(schema: Schema, before: Sequence[Any], aggregates: Sequence[Any]) -> Schema:
    """Return the schema of the events that all aggregates are made of.

    Args:
        schema: The raw columns.
        before: The steps before the aggregates.
        aggregates: These, each of which must find its columns there.

    Raises:
        RecipeError: If one takes a column of another.
    """
    for step in before:
        schema = step.output_schema(schema)
    for step in aggregates:
        try:
            step.output_schema(schema)
        except RecipeError as error:
            raise RecipeError(
                f"{error}; in a stream no Aggregate takes a column of another one"
            ) from None
    return schema


def live_rows(
    recipe: Recipe,
    run: AnyPath,
    state: AnyPath,
    execution: Execution,
    *,
    hold: Duration = "0s",
    window: Duration = "0s",
    keep: Duration | None = "1d",
    remember: Duration | None = None,
) -> LiveRows:
    """Return how micro-batches become rows of a recipe, as in one of its runs.

    Args:
        recipe: The recipe.
        run: A run of it, whose schemas hold.
        state: A folder, which workers can read, for the right sides of joins.
        execution: How files are reached; the right sides are read in this process.
        hold: As in `LiveRows`.
        window: As in `LiveRows`.
        keep: As in `LiveRows`.
        remember: As in `LiveRows`; None for as long as tiles are kept.
    """
    typed, schema = typed_as_in(recipe, run)
    before, aggregates, after = split_steps(typed)
    event_schema(typed.source.raw_schema(), before, aggregates)
    steps = [_live(step, state, execution) for step in before]
    if not any(isinstance(step, DropRepeated) for step in steps):
        # Without key columns a message that comes again is known by where it came from.
        steps.insert(0, DropRepeated())
    plans = tuple(step.plan for step in aggregates)
    waits = microseconds(hold, "hold") + microseconds(window, "window")
    return LiveRows(
        typed.source.raw_schema(),
        tuple(steps),
        plans,
        aggregates[0].at if aggregates else None,
        tuple(_live(step, state, execution) for step in after),
        last_checks(typed, schema),
        microseconds(hold, "hold"),
        microseconds(window, "window"),
        None if keep is None else microseconds(keep, "keep"),
        remembered(plans, keep, remember) + waits,
    )


def remembered(plans: Sequence[TilePlan], keep: Duration | None, remember: Duration | None) -> int:
    """Return how long ids are remembered, in microseconds of event time.

    Args:
        plans: The aggregates.
        keep: How much longer than its windows need a tile is kept; None for ever.
        remember: How long; None for as long as an event could be merged into a tile.
    """
    if remember is not None:
        return microseconds(remember, "remember")
    if keep is None:
        return microseconds(_FOR_EVER, "remember")
    longest = max((plan.longest for plan in plans), default=microseconds("1d", "remember"))
    return longest + microseconds(keep, "keep")


def _live(step: Any, state: AnyPath, execution: Execution) -> LiveStep:
    if not isinstance(step, JoinAsOf):
        return live_step(step)
    path = state / f"{step.right.input_name}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each worker holds it whole, so one can write it.
    execution.here().run(_WriteRight(step, str(path)))
    return live_step(step, str(path))


@dataclasses.dataclass(eq=False)
class _WriteRight(beam.PTransform):  # type: ignore[misc]
    """Write the right rows that can be joined to one file."""

    step: JoinAsOf
    path: str

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[None]:
        rows = begin | "Right" >> self.step.right
        usable = each_batch(rows.rows, self.step.usable_right, "UsableRight")
        listed = usable.rows | "ToList" >> beam.combiners.ToList()
        return listed | "Write" >> beam.Map(_write_ipc, self.path)


def _write_ipc(batches: Sequence[pa.RecordBatch], path: str) -> None:
    if not batches:
        raise RunError(f"{path}: the right side of a join has no rows; check its source")
    schema = batches[0].schema
    with local_output(path_of(path)) as file:
        partial = file.with_suffix(".partial")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(pa.Table.from_batches(batches).combine_chunks())
        partial.replace(file)


def online_features(run: str | os.PathLike[str], store: str) -> OnlineFeatures:
    """Return the windowed features of a run's recipe, as an online store holds them.

    Args:
        run: A run, or the folder of a recipe's runs: the newest.
        store: The address of the store that a stream or a backfill of the recipe writes to:
            the path of a SQLite file, or `redis://HOST:PORT/DB`.

    Raises:
        RecipeError: If the recipe has no `Aggregate`.
        RunError: If there is no run, or the store holds tiles of other aggregates.
    """
    root = latest_run(path_of(run))
    recipe = load_recipe(read_manifest(root)["recipe"]["file"])
    typed, _ = typed_recipe(recipe, RunPaths(root))
    before, aggregates, _ = split_steps(typed)
    schema = event_schema(typed.source.raw_schema(), before, aggregates)
    return OnlineFeatures(open_store(store), aggregates, schema)


# --- Versions ---------------------------------------------------------------------------


@dataclasses.dataclass
class NewestRun:
    """The newest finished run below a folder; looked for again every few seconds.

    Args:
        folder: A run, or a folder of runs.
        columns: The columns that rows will have; a run that needs others is left aside.
        with_model: Whether it must have a model that was blessed.
    """

    folder: str
    columns: tuple[str, ...]
    with_model: bool = False
    _found: str = ""
    _aside: set[str] = dataclasses.field(default_factory=set)
    _looked: float = -_LOOK_SECONDS

    def __call__(self) -> str:
        """Return the run's path.

        Raises:
            RunError: If there is none yet.
        """
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._found = self._look()
        return self._found

    def _look(self) -> str:
        root, found = path_of(self.folder), []
        for path in [root / "manifest.json", *root.glob("*/manifest.json")]:
            if not path.exists():
                continue
            stages = read_manifest(path.parent).get("stages", {})
            if self._is_ready(stages) and self._fits(path.parent, stages):
                when = path.modified() if isinstance(path, RemotePath) else path.stat().st_mtime
                found.append((when, str(path.parent)))
        if not found and not self._found:
            raise RunError(
                f"{self.folder}: there is no finished run whose columns are those of the stream; "
                "run the recipe first"
            )
        return max(found)[1] if found else self._found

    def _is_ready(self, stages: Mapping[str, Any]) -> bool:
        """Say whether a run has what is needed; a model that was not blessed is no model."""
        if not self.with_model:
            return "examples" in stages
        evaluated = stages.get("evaluate", {}).get("result", {})
        return bool(evaluated.get("blessing", {}).get("blessed"))

    def _fits(self, run: AnyPath, stages: Mapping[str, Any]) -> bool:
        inputs = stages.get("analyze", {}).get("result", {}).get("inputs", [])
        if set(inputs) <= set(self.columns):
            return True
        if str(run) not in self._aside:
            self._aside.add(str(run))
            progress.note(f"{run} needs columns that the stream has not; it is left aside")
        return False


def _graph_path(run: str) -> str:
    return str(RunPaths(path_of(run)).transform_graph)


def graph_of(newest: NewestRun) -> Graph:
    """Return the transform graph of the newest run, as rows are let go."""
    return Graph(newest, _graph_path)


def predict_rows(run: str, rows: pa.RecordBatch) -> Mapping[str, npt.NDArray[Any]]:
    """Return the predictions of a run's newest model, loaded once a process."""
    return shared_model(load_predictor, (run,))(rows)
