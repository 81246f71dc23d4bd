"""Parts that are lists of values: the latest ones, distinct ones, how often each one came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.transforms.aggregate.partials import Group, Indices, Values
from skewless.transforms.shuffle import hash_rows, key_values

__all__ = ["Distinct", "Frequencies", "Latest", "estimate_distinct"]


class Latest(NamedTuple):
    """The last values of each entry by time, or the first ones; equal times go by value.

    Attributes:
        offsets: Where each entry begins, and the end of the last; [n + 1].
        times: When each value was known; ascending in an entry.
        values: The values.
    """

    offsets: Indices
    times: Indices
    values: pa.Array

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Latest:
        """Keep the last `size` values of each group, or with -1 the first."""
        values = _storable(events.values)
        return _latest(group.of, events.times, values, group.count, size)

    @classmethod
    def concat(cls, parts: Sequence[Latest]) -> Latest:
        """Return columns one below the other."""
        values = _joined_values([part.values for part in parts])
        times = np.concatenate([part.times for part in parts])
        return cls(_joined_offsets([part.offsets for part in parts]), times, values)

    def take(self, indices: Indices) -> Latest:
        """Return some entries."""
        offsets, at = _ranges(self.offsets[indices], self.offsets[indices + 1])
        return Latest(offsets, self.times[at], self.values.take(pa.array(at)))

    def regroup(self, group: Group, size: int) -> Latest:
        """Keep the last (first) of each group."""
        of = np.repeat(group.of, np.diff(self.offsets))
        return _latest(of, self.times, self.values, group.count, size)

    def windows(self, starts: Indices, stops: Indices, size: int) -> Latest:
        """Keep the last (first) of each window; entries must be in the order of time."""
        first, last = self.offsets[starts], self.offsets[stops]
        if size > 0:
            first = np.maximum(first, last - size)
        else:
            last = np.minimum(last, first - size)
        offsets, at = _ranges(first, last)
        return Latest(offsets, self.times[at], self.values.take(pa.array(at)))

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return two columns of lists."""
        offsets = pa.array(self.offsets, pa.int64())
        times = pa.LargeListArray.from_arrays(offsets, pa.array(self.times))
        return {f"{name}.t": times, name: pa.LargeListArray.from_arrays(offsets, self.values)}

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Latest:
        """Return what `to_arrow` was called on."""
        offsets, values = _unlisted(columns[name])
        return cls(offsets, _unlisted(columns[f"{name}.t"])[1].to_numpy(), values)

    def to_cells(self) -> list[bytes]:
        """Return each entry as JSON."""
        values = self.values.to_pylist()
        pairs = list(zip(self.times.tolist(), values, strict=True))
        return [_json([*pairs[a:b]]) for a, b in _bounds(self.offsets)]

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Latest:
        """Return what `to_cells` was called on; all values but text are numbers there."""
        entries = [json.loads(cell) for cell in cells]
        flat = [pair for entry in entries for pair in entry]
        times = np.array([time for time, _ in flat], np.int64)
        return cls(_lengths_to_offsets(entries), times, _values(value for _, value in flat))


def _latest(of: Indices, times: Indices, values: pa.Array, count: int, size: int) -> Latest:
    order = np.lexsort((_ranks(values), times, of))
    ends = np.searchsorted(of[order], np.arange(count + 1))
    if size > 0:
        first, last = np.maximum(ends[:-1], ends[1:] - size), ends[1:]
    else:
        first, last = ends[:-1], np.minimum(ends[1:], ends[:-1] - size)
    offsets, at = _ranges(first, last)
    kept = order[at]
    return Latest(offsets, times[kept], values.take(pa.array(kept)))


class Distinct(NamedTuple):
    """The least hashes of each entry's distinct values: all of them, up to a bound.

    Bar-Yossef, Jayram, Kumar, Sivakumar and Trevisan, "Counting distinct elements in a data
    stream" (RANDOM 2002), the second algorithm; of equal values the hashes are equal, so that
    merging does not count one twice, in whatever order.
    """

    offsets: Indices
    hashes: npt.NDArray[np.uint64]

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Distinct:
        """Keep the least `size` hashes of each group."""
        batch = pa.record_batch({"value": events.values})
        return _distinct(group.of, hash_rows(batch, ["value"]), group.count, size)

    @classmethod
    def concat(cls, parts: Sequence[Distinct]) -> Distinct:
        """Return columns one below the other."""
        hashes = np.concatenate([part.hashes for part in parts])
        return cls(_joined_offsets([part.offsets for part in parts]), hashes)

    def take(self, indices: Indices) -> Distinct:
        """Return some entries."""
        offsets, at = _ranges(self.offsets[indices], self.offsets[indices + 1])
        return Distinct(offsets, self.hashes[at])

    def regroup(self, group: Group, size: int) -> Distinct:
        """Keep the least hashes of each group."""
        of = np.repeat(group.of, np.diff(self.offsets))
        return _distinct(of, self.hashes, group.count, size)

    def windows(self, starts: Indices, stops: Indices, size: int) -> Distinct:
        """Keep the least hashes of each window."""
        distinct, inverse = _distinct_windows(self.offsets[starts], self.offsets[stops])
        found = [np.unique(self.hashes[a:b])[:size] for a, b in distinct]
        whole = Distinct(_lengths_to_offsets(found), np.concatenate([self.hashes[:0], *found]))
        return whole.take(inverse)

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return a column of lists."""
        offsets = pa.array(self.offsets, pa.int64())
        return {name: pa.LargeListArray.from_arrays(offsets, pa.array(self.hashes))}

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Distinct:
        """Return what `to_arrow` was called on."""
        offsets, hashes = _unlisted(columns[name])
        return cls(offsets, hashes.to_numpy())

    def to_cells(self) -> list[bytes]:
        """Return each entry's hashes, 8 bytes each."""
        return [self.hashes[a:b].astype("<u8").tobytes() for a, b in _bounds(self.offsets)]

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Distinct:
        """Return what `to_cells` was called on."""
        lengths = np.array([len(cell) // 8 for cell in cells], np.int64)
        hashes = np.frombuffer(b"".join(cells), "<u8").astype(np.uint64)
        return cls(np.concatenate([[0], np.cumsum(lengths)]), hashes)


def _distinct(of: Indices, hashes: npt.NDArray[np.uint64], count: int, size: int) -> Distinct:
    order = np.lexsort((hashes, of))
    of, hashes = of[order], hashes[order]
    new = np.ones(len(of), np.bool_)
    new[1:] = (of[1:] != of[:-1]) | (hashes[1:] != hashes[:-1])
    of, hashes = of[new], hashes[new]
    ends = np.searchsorted(of, np.arange(count + 1))
    offsets, at = _ranges(ends[:-1], np.minimum(ends[1:], ends[:-1] + size))
    return Distinct(offsets, hashes[at])


def estimate_distinct(part: Distinct, size: int) -> Indices:
    """Return how many distinct values each entry has seen: exact below `size`.

    From there on it is (size - 1) / the largest kept hash as a share of all, whose relative
    standard error is 1 / sqrt(size - 2): Giroire, "Order statistics and estimating
    cardinalities of massive data sets" (Discrete Applied Mathematics 157, 2009).

    Returns:
        Whole numbers, int64, [n].
    """
    lengths = np.diff(part.offsets)
    full = np.flatnonzero(lengths >= size)
    found: Indices = lengths.astype(np.int64)
    largest = part.hashes[part.offsets[full + 1] - 1].tolist()
    found[full] = [max(size, ((size - 1) << 64) // (value + 1)) for value in largest]
    return found


class Frequencies(NamedTuple):
    """How often each value came: values ascending in an entry.

    Attributes:
        offsets: Where each entry begins, and the end of the last; [n + 1].
        values: The distinct values of each entry.
        counts: How often each came.
    """

    offsets: Indices
    values: pa.Array
    counts: Indices

    @classmethod
    def of_events(cls, events: Values, group: Group, size: int) -> Frequencies:
        """Count the values of each group."""
        del size
        ones = np.ones(len(group.of), np.int64)
        return _frequencies(group.of, _storable(events.values), ones, group.count)

    @classmethod
    def concat(cls, parts: Sequence[Frequencies]) -> Frequencies:
        """Return columns one below the other."""
        values = _joined_values([part.values for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        return cls(_joined_offsets([part.offsets for part in parts]), values, counts)

    def take(self, indices: Indices) -> Frequencies:
        """Return some entries."""
        offsets, at = _ranges(self.offsets[indices], self.offsets[indices + 1])
        return Frequencies(offsets, self.values.take(pa.array(at)), self.counts[at])

    def regroup(self, group: Group, size: int) -> Frequencies:
        """Add up the counts of each group."""
        del size
        of = np.repeat(group.of, np.diff(self.offsets))
        return _frequencies(of, self.values, self.counts, group.count)

    def windows(self, starts: Indices, stops: Indices, size: int) -> Frequencies:
        """Add up the counts of each window; `most_common` takes them."""
        del size
        distinct, inverse = _distinct_windows(self.offsets[starts], self.offsets[stops])
        ranks, values = _ranked(self.values)
        codes, counts = [ranks[:0]], [self.counts[:0]]
        for start, stop in distinct:
            found, at = np.unique(ranks[start:stop], return_inverse=True)
            codes.append(found)
            counts.append(np.bincount(at, self.counts[start:stop], len(found)).astype(np.int64))
        offsets = _lengths_to_offsets(codes[1:])
        chosen = values.take(pa.array(np.concatenate(codes)))
        return Frequencies(offsets, chosen, np.concatenate(counts)).take(inverse)

    def most_common(self, size: int) -> pa.Array:
        """Return the `size` most common values of each entry, of equal counts the least."""
        count = len(self.offsets) - 1
        of = np.repeat(np.arange(count), np.diff(self.offsets))
        order = np.lexsort((_ranks(self.values), -self.counts, of))
        first = self.offsets[:-1]
        offsets, at = _ranges(first, np.minimum(self.offsets[1:], first + size))
        chosen = self.values.take(pa.array(order[at]))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), chosen)

    def to_arrow(self, name: str) -> dict[str, pa.Array]:
        """Return two columns of lists."""
        offsets = pa.array(self.offsets, pa.int64())
        counts = pa.LargeListArray.from_arrays(offsets, pa.array(self.counts))
        return {name: pa.LargeListArray.from_arrays(offsets, self.values), f"{name}.n": counts}

    @classmethod
    def from_arrow(cls, name: str, columns: Mapping[str, pa.Array]) -> Frequencies:
        """Return what `to_arrow` was called on."""
        offsets, values = _unlisted(columns[name])
        return cls(offsets, values, _unlisted(columns[f"{name}.n"])[1].to_numpy())

    def to_cells(self) -> list[bytes]:
        """Return each entry as JSON."""
        values = self.values.to_pylist()
        pairs = list(zip(values, self.counts.tolist(), strict=True))
        return [_json(pairs[a:b]) for a, b in _bounds(self.offsets)]

    @classmethod
    def from_cells(cls, cells: Sequence[bytes]) -> Frequencies:
        """Return what `to_cells` was called on; all values but text are numbers there."""
        entries = [json.loads(cell) for cell in cells]
        flat = [pair for entry in entries for pair in entry]
        counts = np.array([count for _, count in flat], np.int64)
        return cls(_lengths_to_offsets(entries), _values(value for value, _ in flat), counts)


def _frequencies(of: Indices, values: pa.Array, counts: Indices, count: int) -> Frequencies:
    ranks, distinct = _ranked(values)
    width = len(distinct) + 1
    pairs, at = np.unique(of * width + ranks, return_inverse=True)
    totals = np.zeros(len(pairs), np.int64)
    np.add.at(totals, at, counts)
    offsets = np.searchsorted(pairs // width, np.arange(count + 1))
    return Frequencies(offsets, distinct.take(pa.array(pairs % width)), totals)


# --- Lists as offsets and values --------------------------------------------------------


def _ranges(starts: Indices, stops: Indices) -> tuple[Indices, Indices]:
    """Return the offsets of lists that are the ranges, and all their indices."""
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    return offsets.astype(np.int64), at.astype(np.int64)


def _joined_offsets(parts: Sequence[Indices]) -> Indices:
    lengths = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _lengths_to_offsets(entries: Sequence[Any]) -> Indices:
    lengths = np.array([len(entry) for entry in entries], np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _joined_values(parts: Sequence[pa.Array]) -> pa.Array:
    """Return values one after the other; those of no type are none."""
    type_ = next((part.type for part in parts if not pa.types.is_null(part.type)), pa.null())
    return pa.concat_arrays([part.cast(type_) for part in parts])


def _bounds(offsets: Indices) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def _distinct_windows(starts: Indices, stops: Indices) -> tuple[Any, Indices]:
    """Return the distinct ranges, and which of them each window is: most share theirs."""
    pairs, inverse = np.unique(np.stack([starts, stops], axis=1), axis=0, return_inverse=True)
    return pairs, inverse.reshape(-1)


def _unlisted(column: pa.Array) -> tuple[Indices, pa.Array]:
    """Return the offsets, from 0, and the values of a column of lists."""
    offsets = column.offsets.to_numpy()
    values = column.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return offsets - offsets[0], values


def _ranked(values: pa.Array) -> tuple[Indices, pa.Array]:
    """Return the rank of each value, from 0, and the distinct values in their order."""
    encoded = values.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    codes = encoded.indices.to_numpy()
    return ranks[codes], encoded.dictionary.take(pa.array(order))


def _ranks(values: pa.Array) -> Indices:
    return _ranked(values)[0]


def _storable(values: pa.Array) -> pa.Array:
    """Return text as it is, times and numbers as numbers that JSON keeps to the last bit."""
    return values if pa.types.is_string(values.type) else key_values(values)


def _values(values: Any) -> pa.Array:
    """Return values of JSON; none at all are of no type, which every type takes in."""
    return pa.array(list(values))


def _json(pairs: Sequence[Any]) -> bytes:
    return _encode(pairs).encode()


_encode = json.JSONEncoder(separators=(",", ":")).encode
