"""Require and Where: keep the rows that are wanted, count the others as filtered."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.schema import Schema, arrow_schema, column_names
from skewless.transforms.expressions import evaluate_condition, field
from skewless.transforms.rows import Outcome, Rows, each_batch
from skewless.transforms.shuffle import check_columns

__all__ = ["Require", "Where", "field", "keep_complete", "keep_where"]


def keep_complete(batch: pa.RecordBatch, columns: Sequence[str]) -> Outcome:
    """Keep the rows that have a value in every one of `columns`.

    Raises:
        RecipeError: If a column does not exist.
    """
    check_columns(columns, batch.schema.names, _call(columns))
    present = functools.reduce(pc.and_, [batch.column(name).is_valid() for name in columns])
    return _keep(batch, present)


def keep_where(batch: pa.RecordBatch, expression: pc.Expression) -> Outcome:
    """Keep the rows for which `expression` is true; a missing answer is not true.

    Raises:
        RecipeError: If the condition names a column that does not exist, compares what
            cannot be compared, or is not a condition.
    """
    return _keep(batch, evaluate_condition(expression, batch, f"Where({expression})"))


def _keep(batch: pa.RecordBatch, mask: pa.Array) -> Outcome:
    kept = batch.filter(mask)
    return Outcome(kept, [], {"filtered": batch.num_rows - kept.num_rows})


def _call(columns: Sequence[str]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    return f"Require({names})"


@dataclasses.dataclass(eq=False, init=False, repr=False)
class Require(beam.PTransform):  # type: ignore[misc]
    """Keep the rows that have a value in every one of the columns.

    Others are counted as `filtered`: they are not faulty, only of no use here.

    Args:
        *columns: Columns that must have a value.

    Raises:
        RecipeError: If no column is named.

    >>> Require("arr_delay", "dest")
    Require("arr_delay", "dest")
    """

    columns: tuple[str, ...]

    def __init__(self, *columns: str) -> None:
        if not columns or not all(isinstance(name, str) for name in columns):
            raise RecipeError(
                f'Require{columns!r}: expected names of columns, as in Require("arr_delay")'
            )
        self.columns = columns

    def __repr__(self) -> str:
        return _call(self.columns)

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema`, in which the columns must exist."""
        check_columns(self.columns, column_names(schema), repr(self))
        return schema

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Keep the complete rows of every batch."""
        return each_batch(
            batches, functools.partial(keep_complete, columns=self.columns), "Require"
        )


@dataclasses.dataclass(eq=False)
class Where(beam.PTransform):  # type: ignore[misc]
    """Keep the rows for which a condition on columns is true.

    Where the condition has no answer, because a value is missing, the row is not kept.
    Others are counted as `filtered`.

    Args:
        expression: An Arrow expression of columns, joined with `&`, `|` and `~`.

    Raises:
        RecipeError: If `expression` is not an expression.

    >>> Where((field("distance") > 100) & field("dest").is_valid())
    Where(expression=<pyarrow.compute.Expression ((distance > 100) and is_valid(dest))>)
    """

    expression: pc.Expression

    def __post_init__(self) -> None:
        if not isinstance(self.expression, pc.Expression):
            raise RecipeError(
                f"Where({self.expression!r}): expected a condition on columns, "
                'as in Where(field("distance") > 100)'
            )

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema`, on which the condition must have an answer."""
        evaluate_condition(
            self.expression, arrow_schema(schema).empty_table(), f"Where({self.expression})"
        )
        return schema

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Keep the rows of every batch for which the condition is true."""
        return each_batch(
            batches, functools.partial(keep_where, expression=self.expression), "Where"
        )
