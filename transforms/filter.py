"""Require and Where: keep the rows that are wanted, count the others as filtered."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
from pyarrow.compute import field

from skewless.errors import RecipeError, no_such_column
from skewless.schema import Schema, arrow_schema, column_names
from skewless.transforms.rows import Outcome, Rows, each_batch
from skewless.transforms.shuffle import check_columns

__all__ = ["Require", "Where", "field", "keep_complete", "keep_where"]

_NO_MATCH = re.compile(r"No match for FieldRef\.Name\((.*?)\) in ")


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
    return _keep(batch, _evaluate(expression, pa.Table.from_batches([batch])))


def _keep(batch: pa.RecordBatch, mask: pa.Array) -> Outcome:
    kept = batch.filter(mask)
    return Outcome(kept, [], {"filtered": batch.num_rows - kept.num_rows})


def _evaluate(expression: pc.Expression, rows: pa.Table) -> pa.Array:
    """Return `expression` for each row, as booleans and nulls."""
    plan = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(rows)),
        acero.Declaration("project", acero.ProjectNodeOptions([expression], ["answer"])),
    ]
    try:
        # One thread: more than one may give the answers in another order.
        answers = acero.Declaration.from_sequence(plan).to_table(use_threads=False).column(0)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        unknown = _NO_MATCH.search(reason)
        if unknown:
            raise no_such_column(unknown[1], rows.column_names, f"Where({expression})") from None
        raise RecipeError(f"Where({expression}): {reason}") from None
    if not pa.types.is_boolean(answers.type):
        raise RecipeError(
            f"Where({expression}): gives {answers.type}; expected a condition, "
            'as in field("distance") > 100'
        )
    return answers.combine_chunks()


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
        _evaluate(self.expression, arrow_schema(schema).empty_table())
        return schema

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Keep the rows of every batch for which the condition is true."""
        return each_batch(
            batches, functools.partial(keep_where, expression=self.expression), "Where"
        )
