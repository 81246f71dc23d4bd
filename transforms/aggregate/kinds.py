"""Each kind of aggregate: the parts it is merged of, the last step, and the type it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import Feature, arrow_type, make_feature
from skewless.transforms.aggregate.limbs import variance
from skewless.transforms.aggregate.lists import Distinct, Frequencies, Latest, estimate_distinct
from skewless.transforms.aggregate.partials import Counts, Extremes, Indices, Squares, Sums

__all__ = ["KINDS", "TIMES_ARE_VALUES", "Kind", "Merged", "as_float32", "as_type", "floats"]

# The size of a part of the latest time: the values that count are the events' times.
TIMES_ARE_VALUES = 2


class Merged(NamedTuple):
    """The merged parts of windows, the times of the rows that ask, the aggregate's size."""

    parts: Sequence[Any]
    times: Indices
    size: int


# What comes out: a whole number or a sum, which are always there; a float; a number, a value
# or a list of values of the column's type.
Output = Literal["whole", "total", "float", "number", "value", "list"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a kind of aggregate is.

    Attributes:
        parts: The kinds of parts and their sizes; where that is 0, it is the aggregate's.
        finish: The last step, from merged parts to values.
        output: What comes out.
        of_numbers: Whether the column must hold numbers.
    """

    parts: tuple[tuple[type[Any], int], ...]
    finish: Callable[[Merged], pa.Array]
    output: Output
    of_numbers: bool = False

    def type(self, column: pa.DataType | None) -> pa.DataType:
        """Return the type of what comes out, given the column's."""
        if self.output in ("whole", "total", "float") or column is None:
            return pa.int64() if self.output == "whole" else pa.float32()
        if pa.types.is_dictionary(column):
            column = column.value_type
        if self.output == "number":
            return pa.float32() if pa.types.is_floating(column) else pa.int64()
        return pa.list_(column) if self.output == "list" else column

    def feature(self, name: str, column: Feature | None, where: str) -> Feature:
        """Return the feature of what comes out, given the column's.

        Raises:
            RecipeError: If the column cannot be aggregated so.
        """
        type_ = None if column is None else arrow_type(column)
        if self.of_numbers and type_ not in (pa.int64(), pa.float32()):
            raise RecipeError(f"{where}: the column holds {type_}; expected numbers")
        if self.output == "list" and type_ is not None and pa.types.is_timestamp(type_):
            raise RecipeError(f"{where}: a list of times is no feature; name another column")
        required = self.output in ("whole", "total")
        return make_feature(name, self.type(type_), required=required)


def floats(values: pa.Array) -> Any:
    """Return numbers as float64, NaN where one is missing."""
    # Not safe: beyond 2**53 whole numbers are rounded.
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def as_float32(values: Any, known: Any) -> pa.Array:
    """Return numbers as raw columns have them: rounded to float64 once, then to float32."""
    with np.errstate(over="ignore"):
        # Adding 0 makes 0.0 of the -0.0 that a tiny negative number is rounded to.
        rounded = values.astype(np.float32) + np.float32(0)
    return pa.array(rounded, mask=~(known & np.isfinite(rounded)))


def as_type(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """Return values as a column has them: times are microseconds, floats are wider before."""
    if values.type == type_:
        return values
    if pa.types.is_timestamp(type_):
        return values.cast(pa.timestamp("us", type_.tz)).cast(type_, safe=False)
    return values.cast(type_)


def _count(merged: Merged) -> pa.Array:
    return pa.array(merged.parts[0].counts)


def _sum(merged: Merged) -> pa.Array:
    sums = merged.parts[0].sums.to_float64()
    return as_float32(sums, np.ones(len(sums), np.bool_))


def _mean(merged: Merged) -> pa.Array:
    sums, counts = merged.parts[0].sums, merged.parts[1].counts
    return as_float32(sums.divided_by(counts), counts > 0)


def _variance(merged: Merged) -> pa.Array:
    sums, squares, counts = merged.parts
    return as_float32(variance(sums.sums, squares.sums, counts.counts), counts.counts > 0)


def _max(merged: Merged) -> pa.Array:
    return _extreme(merged.parts[0])


def _min(merged: Merged) -> pa.Array:
    return _extreme(merged.parts[0].negated())


def _extreme(found: Extremes) -> pa.Array:
    if found.values.dtype == np.int64:
        return pa.array(found.values, mask=~found.known)
    return as_float32(found.values, found.known)


def _only(merged: Merged) -> pa.Array:
    found: Latest = merged.parts[0]
    known = np.diff(found.offsets) > 0
    return found.values.take(pa.array(found.offsets[:-1], mask=~known))


def _listed(merged: Merged) -> pa.Array:
    found: Latest = merged.parts[0]
    return pa.ListArray.from_arrays(pa.array(found.offsets, pa.int32()), found.values)


def _distinct(merged: Merged) -> pa.Array:
    return pa.array(estimate_distinct(merged.parts[0], merged.size))


def _most_common(merged: Merged) -> pa.Array:
    found: Frequencies = merged.parts[0]
    return found.most_common(merged.size)


def _seconds_since(merged: Merged) -> pa.Array:
    found: Extremes = merged.parts[0]
    return as_float32((merged.times - found.values) / 1e6, found.known)


KINDS = {
    "count": Kind(((Counts, 0),), _count, "whole"),
    "sum": Kind(((Sums, 0),), _sum, "total", True),
    "mean": Kind(((Sums, 0), (Counts, 0)), _mean, "float", True),
    "variance": Kind(((Sums, 0), (Squares, 0), (Counts, 0)), _variance, "float", True),
    "min": Kind(((Extremes, -1),), _min, "number", True),
    "max": Kind(((Extremes, 1),), _max, "number", True),
    "first": Kind(((Latest, -1),), _only, "value"),
    "last": Kind(((Latest, 1),), _only, "value"),
    "last_n": Kind(((Latest, 0),), _listed, "list"),
    "distinct_count": Kind(((Distinct, 0),), _distinct, "whole"),
    "top_k": Kind(((Frequencies, 0),), _most_common, "list"),
    "time_since_last": Kind(((Extremes, TIMES_ARE_VALUES),), _seconds_since, "float"),
}
