"""Wire a recipe's sources and row steps into one Beam road, from records to splits."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from skewless.errors import RecipeError, no_such_column
from skewless.pipeline.recipe import Recipe
from skewless.schema import Schema, arrow_type, column_names, find_feature, make_schema
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.together import PARTITIONS, AggregateTogether
from skewless.transforms.deduplicate import Deduplicate
from skewless.transforms.features.columns import Label
from skewless.transforms.join import JoinAsOf
from skewless.transforms.replace import ReplaceRows
from skewless.transforms.rows import Rejected
from skewless.transforms.shuffle import partitions_for
from skewless.transforms.split import SplitByTime, Splits
from skewless.transforms.validate import Validate

__all__ = ["ReadRows", "joined_columns", "last_checks", "rows_schema", "with_schemas"]


def with_schemas(recipe: Recipe, schemas: Mapping[str, Schema], frozen: Schema | None) -> Recipe:
    """Return the recipe with every source typed and every default event time filled in.

    Args:
        recipe: As the user wrote it.
        schemas: The schema of each input by name.
        frozen: The recipe's own schema of the final rows, where it has one; what it says
            of a joined column holds for the column's source too.
    """
    time = recipe.source.event_time
    steps = []
    for step in recipe.rows:
        if isinstance(step, JoinAsOf):
            right = schemas[step.right.input_name]
            if frozen is not None:
                right = _refrozen(right, frozen, step)
            step = dataclasses.replace(
                step,
                right=dataclasses.replace(step.right, schema=right),
                on=step.on or time,
            )
        elif isinstance(step, Aggregate) and step.at is None:
            step = step.as_of(time)
        steps.append(step)
    source = dataclasses.replace(recipe.source, schema=schemas[recipe.source.input_name])
    split = recipe.split
    if isinstance(split, SplitByTime) and split.on is None:
        if time is None:
            raise RecipeError(
                f"{type(split).__name__}: the source has no event time; give it event_time=, "
                "or the split on="
            )
        split = dataclasses.replace(split, on=time)
    return dataclasses.replace(recipe, source=source, rows=tuple(steps), split=split)


def _refrozen(right: Schema, frozen: Schema, step: JoinAsOf) -> Schema:
    """Return the right side's schema with what `frozen` says of its joined columns."""
    features = []
    for feature in right.feature:
        joined = feature.name in (step.columns or column_names(right))
        held = find_feature(frozen, step.prefix + feature.name) if joined else None
        kept = type(feature)()
        kept.CopyFrom(held if held is not None else feature)
        kept.name = feature.name
        features.append(kept)
    return make_schema(features, domains=frozen)


def joined_columns(recipe: Recipe, schemas: Mapping[str, Schema]) -> set[str]:
    """Return the columns of the final rows that steps add, given the schemas of joins' right."""
    joined = set()
    for step in recipe.rows:
        if isinstance(step, JoinAsOf):
            keys = {*step.by, step.right_on or step.right.event_time}
            names = step.columns or set(column_names(schemas[step.right.input_name])) - keys
            joined |= {step.prefix + name for name in names}
        elif isinstance(step, Aggregate):
            joined |= set(step.column_names)
    return joined


def rows_schema(recipe: Recipe) -> Schema:
    """Return the schema of the rows that leave a recipe's steps, checking every column name.

    Raises:
        RecipeError: If a step, split, feature, label or slice names a column that does not
            exist; suggests the nearest name.
    """
    schema: Schema = recipe.source.schema
    for step in recipe.rows:
        schema = step.output_schema(schema)
    recipe.split.output_schema(schema)
    known = column_names(schema)
    named: dict[str, Sequence[str]] = {
        f'features["{key}"]': column.inputs for key, column in (recipe.features or {}).items()
    }
    if isinstance(recipe.label, Label):
        named["label"] = recipe.label.inputs
    named["Evaluation(slices=...)"] = [c for by in recipe.evaluation.slices for c in by]
    for where, columns in named.items():
        for column in columns:
            if column not in known:
                raise no_such_column(column, known, where)
    for feature in schema.feature:
        arrow_type(feature)
    return schema


@dataclasses.dataclass(eq=False)
class ReadRows(beam.PTransform):  # type: ignore[misc]
    """Read, validate, step by step change, and split the rows of a recipe.

    Args:
        recipe: With the schemas filled in, see `with_schemas`.
        schema: What `rows_schema` returned.
        repaired: Rejected rows of an earlier run that a person has repaired: each replaces
            the row of the same file and offset.
        temporary: Where rows may wait for others; see `AggregateTogether`.
    """

    recipe: Recipe
    schema: Schema
    repaired: tuple[Rejected, ...] = ()
    temporary: str | None = None

    def expand(self, begin: beam.pvalue.PBegin) -> Splits:
        """Chain the steps."""
        source = self.recipe.source
        if self.repaired:
            source = ReplaceRows(source, self.repaired)
        rows = begin | "Read" >> source
        rows = rows | "Validate" >> Validate(self.recipe.source.schema)
        used = Counter(["Validate"])
        meets = any(hasattr(step, "partitions") for step in self.recipe.rows)
        size = self.recipe.source.estimate_size() if meets else None
        steps = [_sized(step, size) for step in self.recipe.rows]
        parts = partitions_for(size, PARTITIONS)
        for step in _together(steps, self.recipe.source.schema, parts, self.temporary):
            name = type(step).__name__
            used[name] += 1
            # Beam wants labels to differ; only a second step of a kind carries a number.
            rows = rows | (name if used[name] == 1 else f"{name}{used[name]}") >> step
        rows = rows | "ValidateGraphInput" >> Validate(last_checks(self.recipe, self.schema))
        split = rows.rows | "Split" >> self.recipe.split
        return Splits(
            split.train,
            split.eval,
            split.test,
            rows.rejected + split.rejected,
            rows.counts + split.counts,
        )


def last_checks(recipe: Recipe, schema: Schema) -> Schema:
    """Return what joined columns and the label must hold before the graph sees them.

    Args:
        recipe: With the schemas filled in.
        schema: What `rows_schema` returned.
    """
    own = set(column_names(recipe.source.schema))
    checked: list[Any] = [f for f in schema.feature if f.name not in own]
    if isinstance(recipe.label, Label):
        for name in recipe.label.inputs:
            feature = type(schema.feature[0])()
            feature.CopyFrom(find_feature(schema, name))
            feature.presence.min_fraction = 1.0
            checked.append(feature)
    return make_schema(checked, domains=schema)


def _sized(step: Any, size: int | None) -> Any:
    """Return a step with as many partitions as the sizes of its inputs ask for."""
    if isinstance(step, JoinAsOf):
        return step.sized(size)
    if isinstance(step, Deduplicate) and step.partitions is None:
        return dataclasses.replace(step, partitions=partitions_for(size))
    return step


def _together(
    steps: Sequence[Any], schema: Schema, partitions: int, directory: str | None
) -> list[Any]:
    """Return the steps, `Aggregate`s that follow each other and have the same `at` as one.

    One that takes a column of another comes after it.
    """
    found: list[Any] = []
    # The schemas of the rows that enter the last of the found ones, and this step.
    entering = schema
    for step in steps:
        before: Any = found[-1] if found else None
        after = step.output_schema(schema)
        if isinstance(step, Aggregate):
            known = isinstance(before, AggregateTogether) and _works_on(step, entering)
            if known and before.takes(step):
                step = AggregateTogether((*before.steps, step), before.partitions, directory)
                schema = entering
                found.pop()
            else:
                step = AggregateTogether((step,), step.partitions or partitions, directory)
        found.append(step)
        entering, schema = schema, after
    return found


def _works_on(step: Aggregate, schema: Schema) -> bool:
    try:
        step.output_schema(schema)
    except RecipeError:
        return False
    return True
