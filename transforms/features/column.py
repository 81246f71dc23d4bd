"""What every column of a recipe is, and how its arguments are checked."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

from skewless.errors import RecipeError

__all__ = ["NAMES", "NUMBERS", "Column", "SingleColumn", "check", "is_count", "is_number"]

NUMBERS = frozenset({"integer", "float", "timestamp"})
NAMES = frozenset({"integer", "string"})


def check(right: bool, what: str, value: object, expected: str) -> None:
    """Raise a `RecipeError` that names the argument `what` unless `right`."""
    if not right:
        raise RecipeError(f"{what}: got {value!r}; expected {expected}")


def is_number(value: object) -> bool:
    """Say whether `value` is a finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def is_count(value: object) -> bool:
    """Say whether `value` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class Column(abc.ABC):
    """One entry of a recipe's `features`: raw columns in, one or more features out.

    Attributes:
        kinds: The kinds of raw column it takes.
        takes_lists: Whether a row of its raw column is a list.
    """

    kinds: ClassVar[frozenset[str]] = frozenset()
    takes_lists: ClassVar[bool | None] = False

    @property
    @abc.abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The raw columns it reads."""

    def output_names(self, key: str) -> tuple[str, ...]:
        """Return the names of the features made when the recipe calls it `key`."""
        return (key,)


@dataclasses.dataclass(frozen=True)
class SingleColumn(Column):
    """A column made of one raw column."""

    column: str

    def __post_init__(self) -> None:
        what = type(self).__name__.lower()
        check(isinstance(self.column, str) and self.column != "", what, self.column, "a column")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The raw columns it reads."""
        return (self.column,)
