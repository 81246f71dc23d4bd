"""What a model has to carry so that its aggregates can be read at serving."""

from __future__ import annotations

from skewless import progress
from skewless.errors import RecipeError
from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.batch import typed_recipe
from skewless.pipeline.live import event_schema, split_steps
from skewless.pipeline.recipe import Recipe
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.plans_json import plans_to_json, read_schema

__all__ = ["aggregates_text"]


def aggregates_text(recipe: Recipe, paths: RunPaths) -> str | None:
    """Return the definition of a recipe's aggregates, as `plans_to_json` writes it.

    Args:
        recipe: The recipe.
        paths: A run of it, whose schemas hold.

    Returns:
        The text; None where there are no aggregates, or no stream could keep them.
    """
    if not any(isinstance(step, Aggregate) for step in recipe.rows):
        return None
    typed, _ = typed_recipe(recipe, paths)
    try:
        before, aggregates, _ = split_steps(typed)
        schema = event_schema(typed.source.raw_schema(), before, aggregates)
    except RecipeError as error:
        progress.note(f"a server will not read these aggregates from a store: {error}")
        return None
    plans = [step.plan for step in aggregates]
    return plans_to_json(plans, read_schema(plans, schema))
