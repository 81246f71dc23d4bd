"""Fill an online store from history, so that a stream goes on from where that ends."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import apache_beam as beam

from skewless.errors import RecipeError
from skewless.pipeline.artifacts import latest_run
from skewless.pipeline.execution import Execution
from skewless.pipeline.live import event_schema, remembered, split_steps, typed_as_in
from skewless.pipeline.recipe import Recipe, load_recipe
from skewless.storage import AnyPath
from skewless.transforms.aggregate.backfill import WriteTiles
from skewless.transforms.aggregate.late import LateRows
from skewless.transforms.deduplicate import Deduplicate
from skewless.transforms.durations import Duration, microseconds
from skewless.transforms.online.open import open_store
from skewless.transforms.sinks.summary import WriteSummary
from skewless.transforms.validate import Validate

__all__ = ["backfill"]


def backfill(
    recipe: pathlib.Path,
    runs: AnyPath,
    store: str,
    execution: Execution,
    *,
    keep: Duration = "1d",
    remember: Duration | None = None,
) -> int:
    """Write the tiles of a recipe's source, and the ids of its newest events.

    An event that is in the source and comes in the stream too counts once, where the recipe
    has `Deduplicate` and the event is no older than `remember`.

    Args:
        recipe: The recipe's file.
        runs: A run of it, or a folder of runs, for the schemas.
        store: The address of a new online store.
        execution: The runner.
        keep: How much longer than its windows need a tile is kept.
        remember: How long ids are remembered; None for as long as tiles are kept.

    Returns:
        How many tiles were written.

    Raises:
        SkewlessError: If the recipe, the input or the store is wrong.
    """
    open_store(store).close()  # a wrong address is said before anything is read
    run = latest_run(runs)
    typed, _ = typed_as_in(load_recipe(recipe), run)
    before, aggregates, _ = split_steps(typed)
    if not aggregates:
        raise RecipeError(f"{recipe}: the recipe has no Aggregate; there is nothing to backfill")
    event_schema(typed.source.raw_schema(), before, aggregates)
    by = next((tuple(step.by) for step in before if isinstance(step, Deduplicate)), ())
    plans = [step.plan for step in aggregates]
    write = WriteTiles(
        plans,
        store,
        microseconds(keep, "keep"),
        by,
        remembered(plans, keep, remember),
    )
    with execution.scratch(run) as folder:
        told = folder / "tiles.json"
        execution.run(_Backfill(typed, before, write, str(told)))
        return sum(json.loads(told.read_text()))


@dataclasses.dataclass(eq=False)
class _Backfill(beam.PTransform):  # type: ignore[misc]
    recipe: Recipe
    before: list[Any]
    write: WriteTiles
    path: str

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        rows = begin | "Read" >> self.recipe.source
        rows = rows | "Validate" >> Validate(self.recipe.source.schema)
        for number, step in enumerate(self.before):
            rows = rows | f"{type(step).__name__}{number}" >> step
        rows = rows | "LateRows" >> LateRows(self.write.plans)
        return rows.rows | "WriteTiles" >> self.write | WriteSummary(self.path)
