"""What a recipe says about its features: immutable builders, free of TensorFlow and Beam.

Each builder method returns a new object, and a wrong argument is a `RecipeError` at once.
A missing value (null, NaN, infinity, the empty string) never takes part in a statistic. In
number outputs it becomes the imputed value, or else 0; in id outputs it is the last id; in
one-hot and multi-hot outputs it is all zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from skewless.transforms.features.column import (
    NAMES,
    NUMBERS,
    Column,
    SingleColumn,
    check,
    is_number,
)
from skewless.transforms.features.name_columns import (
    Categories,
    Category,
    Cross,
    Hashed,
    Text,
    Vocabulary,
)
from skewless.transforms.features.number_columns import (
    Buckets,
    Cyclic,
    DateParts,
    Numeric,
    Step,
)

__all__ = [
    "LABEL",
    "Buckets",
    "Categories",
    "Category",
    "Column",
    "Cross",
    "Cyclic",
    "DateParts",
    "Hashed",
    "Label",
    "Numeric",
    "Passthrough",
    "Step",
    "Text",
    "Vocabulary",
    "categories",
    "category",
    "cross",
    "cyclic",
    "date_parts",
    "label",
    "numeric",
    "passthrough",
    "text",
]

# The name of the label among the outputs of the transform graph.
LABEL = "label"


@dataclasses.dataclass(frozen=True)
class Passthrough(SingleColumn):
    """A raw column as it is; a missing number is 0, a missing string the empty one."""

    kinds: ClassVar[frozenset[str]] = NUMBERS | NAMES
    takes_lists: ClassVar[bool | None] = None


@dataclasses.dataclass(frozen=True)
class Label(SingleColumn):
    """What is to be predicted. Made by `label`.

    As it is, a float is for regression, an integer stays what it is, and a string becomes
    the id of its class by frequency; one more class stands for those not seen in training.
    """

    kinds: ClassVar[frozenset[str]] = NUMBERS | NAMES

    comparison: str = ""
    value: float | str = 0

    def greater_than(self, value: float) -> Label:
        """Give 1 where the column is greater than `value`, else 0."""
        return self._compared("greater_than", value)

    def less_than(self, value: float) -> Label:
        """Give 1 where the column is less than `value`, else 0."""
        return self._compared("less_than", value)

    def equals(self, value: float | str) -> Label:
        """Give 1 where the column equals `value`, else 0."""
        return self._compared("equals", value)

    def _compared(self, comparison: str, value: float | str) -> Label:
        right = is_number(value) or (comparison == "equals" and isinstance(value, str))
        check(right, f"label.{comparison}", value, "a finite number")
        return dataclasses.replace(self, comparison=comparison, value=value)


def numeric(column: str) -> Numeric:
    """Return the builder of a number from an integer or float column."""
    return Numeric(column)


def category(column: str) -> Category:
    """Return the builder of a category from a string or integer column."""
    return Category(column)


def categories(column: str) -> Categories:
    """Return the builder of a list of categories from a column of lists."""
    return Categories(column)


def text(column: str) -> Text:
    """Return the builder of a bag or list of words from a string column."""
    return Text(column)


def cross(*columns: str) -> Cross:
    """Return the builder of the combination of several string or integer columns."""
    return Cross(columns)


def cyclic(column: str, period: float) -> Cyclic:
    """Return sine and cosine of a number that starts again after `period`.

    >>> cyclic("hour", period=24).output_names("hour")
    ('hour_sin', 'hour_cos')
    """
    return Cyclic(column, period)


def date_parts(
    column: str, parts: Sequence[str] = ("month", "day", "weekday", "hour")
) -> DateParts:
    """Return parts of a timestamp (UTC).

    Args:
        column: A timestamp column.
        parts: Of `year` (float32, years since 2000) and the ids, int64, `quarter`, `month`,
            `day` and `day_of_year` (from 1), `weekday` (Monday is 0), `hour`, `minute` and
            `second`. A missing timestamp is one more than the largest id.
    """
    return DateParts(column, (parts,) if isinstance(parts, str) else tuple(parts))


def passthrough(column: str) -> Passthrough:
    """Return a raw column as a feature, as it is."""
    return Passthrough(column)


def label(column: str) -> Label:
    """Return the builder of the label."""
    return Label(column)
