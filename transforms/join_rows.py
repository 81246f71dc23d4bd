"""Rows joined with what was known of their keys at their times: the pure functions of JoinAsOf."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.transforms.rows import ORIGIN, Outcome, reject_rows
from skewless.transforms.shuffle import (
    check_columns,
    concat,
    key_codes,
    key_values,
    row_order,
    time_values,
)

__all__ = [
    "JoinPlan",
    "check_names",
    "check_same_type",
    "in_order",
    "join_rows",
    "latest_at",
    "usable_rows",
]

_STEP = "JoinAsOf"


def latest_at(
    left_keys: Sequence[pa.Array],
    left_times: pa.Array,
    right_keys: Sequence[pa.Array],
    right_times: pa.Array,
    tolerance: int | None = None,
) -> npt.NDArray[np.int64]:
    """Find for each left row the right row of its key that is the latest at its time.

    Args:
        left_keys: Key columns, as `key_values` gives them.
        left_times: Times, int64; a missing key or time matches nothing.
        right_keys: The same key columns of the right rows, nothing missing.
        right_times: Times, int64; of equal times, the last row counts.
        tolerance: A right row older than this, in the unit of the times, is no match.

    Returns:
        An array of shape [left rows], int64: the index of the right row, -1 for none.

    >>> latest_at([pa.array(["a"] * 3)], pa.array([1, 5, 9]),
    ...           [pa.array(["a", "a"])], pa.array([5, 8])).tolist()
    [-1, 0, 1]
    """
    split = len(right_times)
    both = zip(right_keys, left_keys, strict=True)
    codes = key_codes([pa.concat_arrays(sides) for sides in both])
    known = functools.reduce(pc.and_, [column.is_valid() for column in [*left_keys, left_times]])
    times = np.concatenate([_integers(right_times), _integers(left_times)])
    # Right rows stand before left ones and the sort is stable, so that at the same time a
    # left row comes after all right rows, and these stay in their order.
    order = np.lexsort((times, codes))
    latest = np.maximum.accumulate(np.where(order < split, np.arange(len(order)), -1))
    found = np.where(latest >= 0, order[latest], -1)
    is_match = (found >= 0) & (codes[found] == codes[order])
    if tolerance is not None:
        is_match &= times[order] - times[found] <= tolerance
    matches = np.empty(len(order), dtype=np.int64)
    matches[order] = np.where(is_match, found, -1)
    return np.where(known.to_numpy(zero_copy_only=False), matches[split:], -1)


def _integers(times: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(times, 0).to_numpy(zero_copy_only=False), dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class JoinPlan:
    """What is joined: the columns of both sides, all named.

    `added` holds, for each column of the right side that is joined, its name there, its
    name in the result and its type.
    """

    by: tuple[str, ...]
    on: str
    right_on: str
    added: tuple[tuple[str, str, pa.DataType], ...]
    tolerance: int | None


def join_rows(left: pa.RecordBatch, right: pa.RecordBatch | None, plan: JoinPlan) -> pa.RecordBatch:
    """Join rows with all right rows that may match.

    Args:
        left: Rows.
        right: Rows that `usable_rows` kept, as `in_order` gives them; None for none.
        plan: What is joined.

    Returns:
        The left rows in their order of origin, with the columns added.

    Raises:
        RecipeError: If a column is missing or there twice, or a key has another type on the
            two sides.
    """
    check_columns([plan.on], left.schema.names, f"{_STEP}(on=...)")
    check_names(plan, left.schema.names)
    left = left.take(pa.array(row_order(left)))
    columns = [pa.nulls(left.num_rows, type_) for _, _, type_ in plan.added]
    if right is not None:
        for name in plan.by:
            check_same_type(name, left.column(name).type, right.column(name).type)
        found = latest_at(
            [key_values(left.column(name)) for name in plan.by],
            time_values(left, plan.on, _STEP),
            [key_values(right.column(name)) for name in plan.by],
            time_values(right, plan.right_on, _STEP),
            plan.tolerance,
        )
        rows = pa.array(found, mask=found < 0)
        columns = [right.column(name).take(rows).cast(type_) for name, _, type_ in plan.added]
    data = [name for name in left.schema.names if name not in ORIGIN]
    origin = [name for name in left.schema.names if name in ORIGIN]
    return pa.RecordBatch.from_arrays(
        [
            *[left.column(name) for name in data],
            *columns,
            *[left.column(name) for name in origin],
        ],
        names=[*data, *[name for _, name, _ in plan.added], *origin],
    )


def in_order(right: Sequence[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return all right rows in their order of origin; None for none."""
    if not right:
        return None
    rows = concat(right)
    return rows.take(pa.array(row_order(rows)))


def usable_rows(right: pa.RecordBatch, plan: JoinPlan) -> Outcome:
    """Keep the columns wanted of the right rows that have a key and a time."""
    named = [*plan.by, plan.right_on]
    wanted = dict.fromkeys([*named, *[name for name, _, _ in plan.added]])
    check_columns(wanted, right.schema.names, f"{_STEP}, right side")
    rejected = []
    complete = np.ones(right.num_rows, dtype=bool)
    for name in named:
        missing = right.column(name).is_null().to_numpy(zero_copy_only=False) & complete
        complete &= ~missing
        expected = "expected a time" if name == plan.right_on else "expected a key"
        rejected += reject_rows(right.filter(pa.array(missing)), _STEP, name, expected)
    origin = [name for name in ORIGIN if name in right.schema.names]
    kept = right.select([*wanted, *origin]).filter(pa.array(complete))
    return Outcome(kept, rejected, {"joined": kept.num_rows})


def check_names(plan: JoinPlan, known: Iterable[str]) -> None:
    """Check that no column is added that there is already.

    Raises:
        RecipeError: If one is.
    """
    taken = set(known)
    for _, name, _ in plan.added:
        if name in taken:
            raise RecipeError(
                f'JoinAsOf: there are two columns "{name}"; give prefix= for the joined ones, or '
                "columns= with those you need"
            )
        taken.add(name)


def check_same_type(name: str, left: pa.DataType, right: pa.DataType) -> None:
    """Check that the key column `name` can be compared between the two sides.

    Raises:
        RecipeError: If it cannot.
    """
    if key_values(pa.nulls(0, left)).type != key_values(pa.nulls(0, right)).type:
        raise RecipeError(
            f'JoinAsOf: by column "{name}" is {left} on the left and {right} on the right; '
            "give it one type in both schemas"
        )
