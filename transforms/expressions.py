"""Arrow expressions of columns, such as `field("distance") > 100`, for each row of a table."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
from pyarrow.compute import field

from skewless.errors import RecipeError, no_such_column

__all__ = ["WrittenExpression", "evaluate", "evaluate_condition", "expression_bytes", "field"]

_NO_MATCH = re.compile(r"No match for FieldRef\.Name\((.*?)\) in ")


@dataclasses.dataclass(frozen=True)
class WrittenExpression:
    """An expression as it was written down, to be told from others but not to be evaluated.

    Attributes:
        text: What Arrow shows of it.
        content: All of it, as `expression_bytes` gives it.
    """

    text: str
    content: bytes

    def __str__(self) -> str:
        return self.text


def expression_bytes(expression: pc.Expression | WrittenExpression) -> bytes:
    """Return what tells an expression from others: its text leaves out the middle of a list."""
    if isinstance(expression, WrittenExpression):
        return expression.content
    return pickle.dumps(expression)


def evaluate(expression: pc.Expression, rows: pa.Table | pa.RecordBatch, where: str) -> pa.Array:
    """Return what an expression gives for each row.

    Args:
        expression: Of columns.
        rows: The rows.
        where: Who asks, for the error: `Where(...)`.

    Raises:
        RecipeError: If it names a column that does not exist, or computes with what it
            cannot compute with.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
    plan = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
        acero.Declaration("project", acero.ProjectNodeOptions([expression], ["answer"])),
    ]
    try:
        # One thread: more than one may give the answers in another order.
        answers = acero.Declaration.from_sequence(plan).to_table(use_threads=False).column(0)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        where = _one_line(where)
        reason = str(error).splitlines()[0]
        unknown = _NO_MATCH.search(reason)
        if unknown:
            raise no_such_column(unknown[1], table.column_names, where) from None
        raise RecipeError(f"{where}: {reason}") from None
    return answers.combine_chunks()


def evaluate_condition(
    expression: pc.Expression, rows: pa.Table | pa.RecordBatch, where: str
) -> pa.Array:
    """Return a condition for each row, as booleans and nulls.

    Raises:
        RecipeError: As for `evaluate`, or if it is not a condition.
    """
    answers = evaluate(expression, rows, where)
    if not pa.types.is_boolean(answers.type):
        raise RecipeError(
            f"{_one_line(where)}: gives {answers.type}; expected a condition, "
            'as in field("distance") > 100'
        )
    return answers


def _one_line(where: str) -> str:
    """Return who asks on one line: Arrow spells a list with a line for each value."""
    return " ".join(where.split())
