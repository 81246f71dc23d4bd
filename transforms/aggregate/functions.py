"""Aggregates as a recipe names them: `mean("dep_delay", over="1h")`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.schema import Feature, Schema, arrow_type, column_names, find_feature, is_list
from skewless.schema import make_feature as new_feature
from skewless.transforms.aggregate.kinds import KINDS, Merged, as_float32, floats
from skewless.transforms.aggregate.partials import Indices, Part
from skewless.transforms.durations import Duration, microseconds
from skewless.transforms.expressions import expression_bytes
from skewless.transforms.shuffle import check_columns

__all__ = [
    "Partial",
    "Ratio",
    "Statistic",
    "Windowed",
    "columns_of",
    "count",
    "distinct_count",
    "first",
    "last",
    "last_n",
    "max",
    "mean",
    "min",
    "ratio",
    "sum",
    "time_since_last",
    "top_k",
    "variance",
]

Over = Duration | Sequence[Duration]

EXACT_UP_TO = 1024

# The aggregates that need no column.
_OF_EVENTS = ("count", "time_since_last")


@dataclasses.dataclass(frozen=True, eq=False)
class Partial:
    """One part of a tile.

    Attributes:
        kind: How events are merged.
        column: What is aggregated; None for the events themselves.
        where: Which events count.
        size: How much is kept, where the kind asks.
    """

    kind: type[Any]
    column: str | None
    where: pc.Expression | None
    size: int

    @functools.cached_property
    def key(self) -> str:
        """What tells it from the other parts of a tile."""
        where = b"" if self.where is None else expression_bytes(self.where)
        return f"{self.kind.__name__}({self.column}, {self.size}, {where.hex()})"


@dataclasses.dataclass(frozen=True, eq=False)
class Statistic:
    """An aggregate of the events in one or more windows.

    Made by the functions of this module; `over` has one duration for each window.
    """

    name: str
    column: str | None
    over: tuple[Duration, ...]
    labelled: bool
    where: pc.Expression | None
    size: int = 0

    def __repr__(self) -> str:
        column = "" if self.column is None else f'"{self.column}", '
        over = self.over[0] if len(self.over) == 1 else list(self.over)
        return f"{self.name}({column}over={over!r})"

    @functools.cached_property
    def partials(self) -> tuple[Partial, ...]:
        """The parts of tiles that it is computed from."""
        kinds = KINDS[self.name].parts
        return tuple(
            Partial(kind, self.column, self.where, self.size or size) for kind, size in kinds
        )

    def result(self, parts: Sequence[Part], times: Indices) -> pa.Array:
        """Return the values of windows, given their merged parts and the rows' times."""
        return KINDS[self.name].finish(Merged(parts, times, self.size))

    def result_type(self, events: pa.Schema) -> pa.DataType:
        """Return the type of its column, given the Arrow schema of the events."""
        column = None if self.column is None else events.field(self.column).type
        return KINDS[self.name].type(column)

    def feature(self, name: str, schema: Schema) -> Feature:
        """Return the feature of its column, given the events' schema.

        Raises:
            RecipeError: If the column does not exist, or cannot be aggregated so.
        """
        where = f"Aggregate({name}={self!r})"
        column = None
        if self.column is not None:
            check_columns([self.column], column_names(schema), where)
            column = find_feature(schema, self.column)
        if column is not None and is_list(column):
            raise RecipeError(f'{where}: column "{self.column}" holds lists; name another')
        return KINDS[self.name].feature(name, column, where)


@dataclasses.dataclass(frozen=True, eq=False)
class Ratio:
    """One aggregate divided by another of the same windows; missing where that is 0."""

    numerator: Statistic
    denominator: Statistic

    @property
    def over(self) -> tuple[Duration, ...]:
        """The windows."""
        return self.numerator.over

    @property
    def labelled(self) -> bool:
        """Whether each window has a column of its own."""
        return self.numerator.labelled

    @functools.cached_property
    def partials(self) -> tuple[Partial, ...]:
        """The parts of tiles that it is computed from."""
        return self.numerator.partials + self.denominator.partials

    def result(self, parts: Sequence[Part], times: Indices) -> pa.Array:
        """Return the values of windows, given their merged parts and the rows' times."""
        split = len(self.numerator.partials)
        above = floats(self.numerator.result(parts[:split], times))
        below = floats(self.denominator.result(parts[split:], times))
        known = (below != 0) & ~np.isnan(above) & ~np.isnan(below)
        with np.errstate(divide="ignore", invalid="ignore"):
            return as_float32(above / below, known)

    def result_type(self, events: pa.Schema) -> pa.DataType:
        """Return the type of its column."""
        del events
        return pa.float32()

    def feature(self, name: str, schema: Schema) -> Feature:
        """Return the feature of its column, given the events' schema.

        Raises:
            RecipeError: If one of the two is no number.
        """
        for one in (self.numerator, self.denominator):
            type_ = arrow_type(one.feature(name, schema))
            if type_ not in (pa.int64(), pa.float32()):
                raise RecipeError(f"Aggregate({name}=ratio({one!r}, ...)): not a number; name one")
        return new_feature(name, pa.float32(), required=False)


Windowed = Statistic | Ratio


def count(
    column: str | None = None, *, over: Over, where: pc.Expression | None = None
) -> Statistic:
    """Count the events, or those in which a column has a value."""
    return _statistic("count", column, over, where)


def sum(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Add up the values of a column, exactly; 0 where there is none.

    A sum beyond the range of float32 is missing.
    """
    return _statistic("sum", column, over, where)


def mean(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Take the mean of a column, rounded once; missing where there is no value."""
    return _statistic("mean", column, over, where)


def variance(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Take the variance of a column (that of all values, not of a sample), rounded once."""
    return _statistic("variance", column, over, where)


def min(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Take the least value of a column."""
    return _statistic("min", column, over, where)


def max(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Take the largest value of a column."""
    return _statistic("max", column, over, where)


def first(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Take the earliest value of a column; of those known at the same time the least."""
    return _statistic("first", column, over, where)


def last(column: str, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """Take the latest value of a column; of those known at the same time the largest."""
    return _statistic("last", column, over, where)


def last_n(column: str, n: int, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """List the latest n values of a column, the latest at the end."""
    return _statistic("last_n", column, over, where, _whole("last_n", "n", n))


def distinct_count(
    column: str, *, over: Over, where: pc.Expression | None = None, exact_up_to: int = EXACT_UP_TO
) -> Statistic:
    """Count the distinct values of a column.

    From `exact_up_to` on it is an estimate, with a relative standard error of
    1 / sqrt(exact_up_to - 2): 3.1% for 1,024, which is also how many numbers of 8 bytes a
    tile keeps at most.
    """
    size = _whole("distinct_count", "exact_up_to", exact_up_to, 3)
    return _statistic("distinct_count", column, over, where, size)


def top_k(column: str, k: int, *, over: Over, where: pc.Expression | None = None) -> Statistic:
    """List the k most common values of a column, the most common first.

    Of equally common ones the least comes first. A tile keeps all values that it has seen.
    """
    return _statistic("top_k", column, over, where, _whole("top_k", "k", k))


def time_since_last(
    column: str | None = None, *, over: Over, where: pc.Expression | None = None
) -> Statistic:
    """Take the seconds since the last event, or the last in which a column has a value."""
    return _statistic("time_since_last", column, over, where)


def ratio(numerator: Statistic, denominator: Statistic) -> Ratio:
    """Divide one aggregate by another, over the same windows.

    Raises:
        RecipeError: If they are not two aggregates over the same windows.
    """
    for one in (numerator, denominator):
        if not isinstance(one, Statistic):
            raise RecipeError(f'ratio: got {one!r}; expected an aggregate, as in count(over="1h")')
    if numerator.over != denominator.over:
        raise RecipeError(
            f"ratio({numerator!r}, {denominator!r}): expected the same windows; give both "
            f"over={numerator.over[0]!r}"
        )
    return Ratio(numerator, denominator)


def _statistic(
    name: str, column: str | None, over: Over, where: pc.Expression | None, size: int = 0
) -> Statistic:
    if not isinstance(column, str) and (column is not None or name not in _OF_EVENTS):
        raise RecipeError(f'{name}({column!r}): expected the name of a column, as in "delay"')
    if where is not None and not isinstance(where, pc.Expression):
        raise RecipeError(
            f"{name}(where={where!r}): expected a condition on columns, "
            'as in where=field("distance") > 100'
        )
    labelled = isinstance(over, Sequence) and not isinstance(over, str)
    windows: tuple[Any, ...] = tuple(over) if labelled else (over,)  # type: ignore[arg-type]
    if not windows:
        raise RecipeError(f'{name}(over=[]): expected at least one window, as in over="1h"')
    for window in windows:
        microseconds(window, f"{name}: over")
    return Statistic(name, column, windows, labelled, where, size)


def _whole(function: str, argument: str, value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RecipeError(
            f"{function}({argument}={value!r}): expected a whole number from {least} on"
        )
    return value


def columns_of(name: str, windowed: Windowed) -> Iterator[tuple[str, int]]:
    """Yield the name and the window, in microseconds, of each column of an aggregate.

    One window has the aggregate's own name, a list of them has it and theirs: "delay_1h".
    """
    for over in windowed.over:
        window = microseconds(over, f"Aggregate({name}=...): over")
        seconds, rest = divmod(window, 1_000_000)
        label = f"{window}us" if rest else f"{seconds}s"
        label = "".join(over.split()) if isinstance(over, str) else label
        yield (f"{name}_{label}" if windowed.labelled else name), window
