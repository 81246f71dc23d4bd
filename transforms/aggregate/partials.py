"""What a tile holds of each aggregate: parts that are merged in any order to the same bits.

A part is a column: one entry for each tile, or for each window that was merged of tiles. All
kinds of parts have the same few operations, so that a tile, a merge of tiles and a window
are made by the same code, whatever is aggregated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless.transforms.aggregate.limbs import ExactSums

__all__ = ["Counts", "Extremes", "Group", "Indices", "Part", "Squares", "Sums", "Values"]

Indices = npt.NDArray[np.int64]


class Values(NamedTuple):
    """The values of events that count.

    Attributes:
        values: No nulls, and no NaN or infinity; [events].
        times: When each became known, microseconds since 1970; [events].
    """

    values: pa.Array
    times: Indices


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Which entry of a new column each value or old entry goes to: `of` [n] in 0..`count`-1."""

    of: Indices
    count: int


class Part(Protocol):
    """A column of mergeable parts."""

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Part:
        """Return the parts of groups of events; `size` is the aggregate's, e.g. n of last_n."""

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Part:
        """Return columns one below the other."""

    def take(self, indices: Indices) -> Part:
        """Return some entries."""

    def regroup(self, group: Group, size: int) -> Part:
        """Return the merge of the entries of each group; every group has an entry."""

    def windows(self, starts: Indices, stops: Indices, size: int) -> Part:
        """Return the merge of the entries [start, stop) of each window; may be empty."""

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return Arrow columns, whose names begin with `name`."""

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Part:
        """Return what `to_arrow` was called on."""

    def to_cells(self) -> list[bytes]:
        """Return each entry as bytes; equal parts give equal bytes."""

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Part:
        """Return what `to_cells` was called on."""


class Counts(NamedTuple):
    """How many events there are: int64, [n]."""

    counts: Indices

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Counts:
        """Count the events of each group."""
        del events, size
        return cls(np.bincount(group.of, minlength=group.count).astype(np.int64))

    @classmethod
    def concat(cls, parts: Sequence[Counts]) -> Counts:
        """Return columns one below the other."""
        return cls(np.concatenate([part.counts for part in parts]))

    def take(self, indices: Indices) -> Counts:
        """Return some entries."""
        return Counts(self.counts[indices])

    def regroup(self, group: Group, size: int) -> Counts:
        """Return the total of each group."""
        del size
        totals = np.zeros(group.count, np.int64)
        np.add.at(totals, group.of, self.counts)
        return Counts(totals)

    def windows(self, starts: Indices, stops: Indices, size: int) -> Counts:
        """Return the total of each window."""
        del size
        running = np.concatenate([[0], np.cumsum(self.counts)])
        return Counts(running[stops] - running[starts])

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return one column of int64."""
        return {name: pa.array(self.counts)}

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Counts:
        """Return what `to_arrow` was called on."""
        return cls(columns[name].to_numpy())

    def to_cells(self) -> list[bytes]:
        """Return 8 bytes each."""
        whole = self.counts.astype("<i8").tobytes()
        return [whole[at : at + 8] for at in range(0, len(whole), 8)]

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Counts:
        """Return what `to_cells` was called on."""
        return cls(np.frombuffer(b"".join(cells), "<i8").astype(np.int64))


class Sums(NamedTuple):
    """The exact sums of values."""

    sums: ExactSums

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Sums:
        """Sum the values of each group."""
        del size
        return cls(ExactSums.of_groups(_numbers(events.values), group.of, group.count))

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Any:
        """Return columns one below the other."""
        return cls(ExactSums.concat([part.sums for part in parts]))

    def take(self, indices: Indices) -> Any:
        """Return some entries."""
        return type(self)(self.sums.take(indices))

    def regroup(self, group: Group, size: int) -> Any:
        """Return the sum of each group."""
        del size
        return type(self)(self.sums.regroup(group.of, group.count))

    def windows(self, starts: Indices, stops: Indices, size: int) -> Any:
        """Return the sum of each window."""
        del size
        return type(self)(self.sums.windows(starts, stops))

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return a column of int64 for each limb, named by its place."""
        limbs, base = self.sums
        places = range(limbs.shape[1])
        return {f"{name}@{base + j}": pa.array(np.ascontiguousarray(limbs[:, j])) for j in places}

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Any:
        """Return what `to_arrow` was called on."""
        found = {
            int(column.rpartition("@")[2]): values
            for column, values in columns.items()
            if column.startswith(f"{name}@")
        }
        base = min(found)
        limbs = [found[base + j].to_numpy() for j in range(len(found))]
        return cls(ExactSums(np.stack(limbs, axis=1), base))

    def to_cells(self) -> list[bytes]:
        """Return the bytes of the exact numbers."""
        return self.sums.to_bytes()

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Any:
        """Return what `to_cells` was called on."""
        return cls(ExactSums.from_bytes(cells))


class Squares(Sums):
    """The exact sums of the squares of values."""

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Squares:
        """Sum the squares of the values of each group."""
        del size
        return cls(ExactSums.squares_of_groups(_numbers(events.values), group.of, group.count))


class Extremes(NamedTuple):
    """The largest value of each entry, and whether there is any; [n] both.

    The least values are the largest of the negated ones: see `negated`.
    """

    values: npt.NDArray[Any]
    known: npt.NDArray[np.bool_]

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Extremes:
        """Take the largest value of each group, or with `size` -1 the least."""
        numbers = _numbers(events.values)
        # ~n is the order of integers reversed: -n does not exist for the least of them.
        values = numbers if size > 0 else (~numbers if numbers.dtype == np.int64 else -numbers)
        return cls(values + values.dtype.type(0), np.ones(len(values), np.bool_)).regroup(group, 1)

    @classmethod
    def concat(cls, parts: Sequence[Extremes]) -> Extremes:
        """Return columns one below the other."""
        # Cells of no value at all do not say of what type it is.
        kinds = {part.values.dtype for part in parts if part.known.any()}
        dtype = kinds.pop() if kinds else parts[0].values.dtype
        values = np.concatenate([part.values.astype(dtype) for part in parts])
        return cls(values, np.concatenate([part.known for part in parts]))

    def take(self, indices: Indices) -> Extremes:
        """Return some entries."""
        return Extremes(self.values[indices], self.known[indices])

    def regroup(self, group: Group, size: int) -> Extremes:
        """Return the largest of each group."""
        del size
        found = np.full(group.count, _least(self.values.dtype))
        np.maximum.at(found, group.of[self.known], self.values[self.known])
        known = np.bincount(group.of, self.known, group.count) > 0
        return Extremes(np.where(known, found, found.dtype.type(0)), known)

    def windows(self, starts: Indices, stops: Indices, size: int) -> Extremes:
        """Return the largest of each window, from tables of the largest of 2**k entries.

        Bender and Farach-Colton, "The LCA problem revisited" (LATIN 2000), section 3.
        """
        del size
        lengths = stops - starts
        running = np.concatenate([[0], np.cumsum(self.known)])
        known = running[stops] > running[starts]
        table = np.where(self.known, self.values, _least(self.values.dtype))
        found = np.zeros(len(starts), self.values.dtype)
        powers = np.frexp(np.maximum(lengths, 1))[1] - 1
        for power in range(int(powers[known].max(initial=-1)) + 1):
            if power:
                half = 2 ** (power - 1)
                table = np.maximum(table[: len(table) - half], table[half:])
            at = np.flatnonzero(known & (powers == power))
            last = stops[at] - 2**power
            found[at] = np.maximum(table[starts[at]], table[last])
        return Extremes(found, known)

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return one column, null where there is no value."""
        return {name: pa.array(self.values, mask=~self.known)}

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Extremes:
        """Return what `to_arrow` was called on."""
        column = columns[name]
        known = column.is_valid().to_numpy(zero_copy_only=False)
        return cls(column.fill_null(0).to_numpy(zero_copy_only=False), known)

    def to_cells(self) -> list[bytes]:
        """Return the letter of the type and 8 bytes each, nothing where there is no value."""
        letter = self.values.dtype.kind.encode()
        whole, known = self.values.tobytes(), self.known.tolist()
        return [letter + whole[8 * i : 8 * i + 8] if one else b"" for i, one in enumerate(known)]

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Extremes:
        """Return what `to_cells` was called on."""
        some = next((cell for cell in cells if cell), b"f")
        dtype = np.dtype(np.int64) if some[:1] == b"i" else np.dtype(np.float64)
        known = np.array([bool(cell) for cell in cells], np.bool_)
        values = np.frombuffer(b"".join(cell[1:] or bytes(8) for cell in cells), dtype)
        return cls(values, known)

    def negated(self) -> Extremes:
        """Return the least values, of parts that were made with `size` -1."""
        # Adding 0 makes 0.0 of -0.0.
        values = ~self.values if self.values.dtype == np.int64 else 0.0 - self.values
        return Extremes(values, self.known)


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    """Return numbers as int64 or float64."""
    kind = pa.float64() if pa.types.is_floating(values.type) else pa.int64()
    return np.asarray(values.cast(kind).to_numpy(zero_copy_only=False))


def _least(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).min if dtype.kind == "i" else dtype.type(-np.inf)
