"""Tiles: per key and per fixed window of time, one mergeable part of every aggregate.

An aggregate over the last hour is a merge of the tiles of that hour. History, stream and
serving differ only in where they take the tiles from.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.transforms.aggregate.functions import Partial, Windowed
from skewless.transforms.aggregate.kinds import TIMES_ARE_VALUES
from skewless.transforms.aggregate.partials import Extremes, Group, Indices, Part, Values
from skewless.transforms.expressions import evaluate, evaluate_condition
from skewless.transforms.shuffle import key_codes, key_values, time_values

__all__ = [
    "Column",
    "TilePlan",
    "Tiles",
    "WithoutStore",
    "concat_tiles",
    "distinct_numbers",
    "entities",
    "event_times",
    "merge_tiles",
    "number_keys",
    "pack_tiles",
    "tile_events",
    "times_of",
    "unpack_parts",
    "unpack_tiles",
]

Time: TypeAlias = str | pc.Expression

# So few rows are turned into Python's values sooner than their distinct ones are found.
_FEW = 64


# What rows get at serving where the store does not answer: none, or empty aggregates.
WithoutStore: TypeAlias = Literal["error", "empty"]


class Column(NamedTuple):
    """A column that rows get: its name, its window in microseconds, its aggregate."""

    name: str
    over: int
    windowed: Windowed


@dataclasses.dataclass(frozen=True, eq=False)
class TilePlan:
    """What an `Aggregate` keeps in tiles.

    Attributes:
        name: What the tiles are called in a store.
        by: The key columns; none for one key of all events.
        known_at: When an event is known: a column, or an expression of columns.
        arrived_at: When it arrived, likewise; None where nobody says.
        lateness: How long after the end of its tile an event may arrive, in microseconds.
        tile: The length of a tile, in microseconds.
        columns: What rows get.
        without_store: What they get at serving where the store does not answer.
    """

    name: str
    by: tuple[str, ...]
    known_at: Time
    arrived_at: Time | None
    lateness: int | None
    tile: int
    columns: tuple[Column, ...]
    without_store: WithoutStore = "error"

    @functools.cached_property
    def partials(self) -> tuple[Partial, ...]:
        """The parts of a tile, each once, whichever columns need it."""
        found = {p.key: p for column in self.columns for p in column.windowed.partials}
        return tuple(found.values())

    @property
    def longest(self) -> int:
        """The longest window, in microseconds."""
        return max(column.over for column in self.columns)

    def select(self, names: Collection[str]) -> TilePlan:
        """Return the plan of the same tiles that gives rows just the columns `names`."""
        fewer = dataclasses.replace(
            self, columns=tuple(column for column in self.columns if column.name in names)
        )
        # A tile keeps the parts of the others, too.
        vars(fewer)["partials"] = self.partials
        return fewer


class Tiles(NamedTuple):
    """Tiles as columns.

    Attributes:
        keys: The values of the key columns, as `key_values` gives them; [n] each.
        starts: When each tile begins, microseconds since 1970; [n].
        parts: For each of the plan's partials a column of [n] entries.
    """

    keys: tuple[pa.Array, ...]
    starts: Indices
    parts: tuple[Part, ...]

    def take(self, indices: Indices) -> Tiles:
        """Return some tiles."""
        at = pa.array(indices)
        keys = tuple(key.take(at) for key in self.keys)
        return Tiles(keys, self.starts[indices], tuple(part.take(indices) for part in self.parts))

    def to_arrow(self) -> pa.RecordBatch:
        """Return the tiles as a batch."""
        columns = {f"k{i}": key for i, key in enumerate(self.keys)}
        columns["start"] = pa.array(self.starts)
        for i, part in enumerate(self.parts):
            columns |= part.to_arrow(f"p{i}")
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch, plan: TilePlan) -> Tiles:
        """Return what `to_arrow` was called on."""
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        parts = [p.kind.from_arrow(f"p{i}", columns) for i, p in enumerate(plan.partials)]
        keys = tuple(columns[f"k{i}"] for i in range(len(plan.by)))
        return cls(keys, columns["start"].to_numpy(), tuple(parts))


def times_of(time: Time, batch: pa.RecordBatch, where: str) -> pa.Array:
    """Return a column or expression of times as int64 microseconds since 1970, nulls kept.

    Raises:
        RecipeError: If there is no such column, or it holds no times.
    """
    if isinstance(time, pc.Expression):
        values = evaluate(time, batch, where)
        batch, time = pa.record_batch({str(time): values}), str(time)
    return time_values(batch, time, where)


def event_times(batch: pa.RecordBatch, plan: TilePlan) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Return when each event counts from, and which ones count.

    An event counts from when it was known, or, where its arrival is recorded, had arrived
    too. It does not count where that or a key is missing.

    Returns:
        Times in microseconds since 1970, [rows], and whether each counts.
    """
    where = f'Aggregate "{plan.name}"'
    times = times_of(plan.known_at, batch, f"{where} known_at=")
    if plan.arrived_at is not None:
        arrived = times_of(plan.arrived_at, batch, f"{where} arrived_at=")
        times = pc.max_element_wise(times, arrived, skip_nulls=False)
    columns = [times, *[key_values(batch.column(name)) for name in plan.by]]
    known = functools.reduce(pc.and_, [column.is_valid() for column in columns])
    return (
        np.asarray(times.fill_null(0).to_numpy(zero_copy_only=False)),
        np.asarray(known.to_numpy(zero_copy_only=False)),
    )


def tile_events(batch: pa.RecordBatch, plan: TilePlan) -> Tiles:
    """Return the tiles of events, each key and start once."""
    times, counts = event_times(batch, plan)
    if not counts.all():
        batch, times = batch.filter(pa.array(counts)), times[counts]
    starts = times // plan.tile * plan.tile
    keys = tuple(key_values(batch.column(name)) for name in plan.by)
    first, group = _grouped(keys, starts, plan.tile)
    parts = tuple(_part(p, batch, times, group, plan) for p in plan.partials)
    at = pa.array(first)
    return Tiles(tuple(key.take(at) for key in keys), starts[first], parts)


def _part(
    partial: Partial, batch: pa.RecordBatch, times: Indices, group: Group, plan: TilePlan
) -> Part:
    """Return one part of every group of events."""
    chosen = np.ones(batch.num_rows, np.bool_)
    if partial.where is not None:
        where = f'Aggregate "{plan.name}" where={partial.where}'
        answers = evaluate_condition(partial.where, batch, where).fill_null(False)
        chosen &= answers.to_numpy(zero_copy_only=False)
    values: pa.Array = pa.array(times)
    if partial.column is not None:
        column = batch.column(partial.column)
        valid = column.is_valid()
        if pa.types.is_floating(column.type):
            valid = pc.and_(valid, pc.is_finite(column).fill_null(False))
        chosen &= valid.to_numpy(zero_copy_only=False)
        if not (partial.kind is Extremes and partial.size == TIMES_ARE_VALUES):
            values = column
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    of = group.of
    if not chosen.all():
        values, times, of = values.filter(pa.array(chosen)), times[chosen], of[chosen]
    made: Part = partial.kind.of_events(Values(values, times), Group(of, group.count), partial.size)
    return made


def concat_tiles(tables: Sequence[Tiles]) -> Tiles:
    """Return tiles one below the other; there must be at least one table."""
    keys = [pa.concat_arrays(columns) for columns in zip(*[t.keys for t in tables], strict=True)]
    parts = [
        type(columns[0]).concat(columns) for columns in zip(*[t.parts for t in tables], strict=True)
    ]
    starts = np.concatenate([table.starts for table in tables])
    return Tiles(tuple(keys), starts, tuple(parts))


def merge_tiles(tables: Sequence[Tiles], plan: TilePlan) -> Tiles:
    """Return the merge of all tiles, each key and start once, ordered by key and start."""
    whole = concat_tiles(tables)
    first, group = _grouped(whole.keys, whole.starts, plan.tile)
    if group.count == len(whole.starts):
        return whole.take(first)
    parts = tuple(
        part.regroup(group, partial.size)
        for part, partial in zip(whole.parts, plan.partials, strict=True)
    )
    at = pa.array(first)
    return Tiles(tuple(key.take(at) for key in whole.keys), whole.starts[first], parts)


def number_keys(keys: Sequence[pa.Array], rows: int) -> Indices:
    """Number rows by their key, one key column in the order in which its values appear."""
    if not keys:
        return np.zeros(rows, np.int64)
    if len(keys) > 1:
        return key_codes(keys)
    codes = keys[0].dictionary_encode().indices.cast(pa.int64()).fill_null(-1)
    return np.asarray(codes.to_numpy()) + 1


def _grouped(keys: Sequence[pa.Array], starts: Indices, tile: int) -> tuple[Indices, Group]:
    """Return one row of each key and start, in their order, and which of them each row is."""
    return distinct_numbers(_places(number_keys(keys, len(starts)), starts // tile))


def _places(codes: Indices, ticks: Indices) -> Indices:
    """Return numbers that sort by code, then by tick."""
    ranks: Indices = ticks - (ticks.min() if len(ticks) else 0)
    width = int(ranks.max(initial=0)) + 1
    if int(codes.max(initial=0)) >= 2**62 // width:
        # Ranks without gaps always fit.
        ranks = distinct_numbers(ranks)[1].of
        width = int(ranks.max(initial=0)) + 1
    places: Indices = codes * width + ranks
    return places


def distinct_numbers(numbers: Indices) -> tuple[Indices, Group]:
    """Return the first place of each number of at least 0, in their order, and who is which."""
    order = _order(numbers)
    found = numbers[order]
    is_new = np.ones(len(found), np.bool_)
    is_new[1:] = found[1:] != found[:-1]
    of = np.empty(len(found), np.int64)
    of[order] = np.cumsum(is_new) - 1
    first = order[is_new]
    return first, Group(of, len(first))


def _order(numbers: Indices) -> Indices:
    """Return what sorts numbers of at least 0: NumPy sorts 16 bits at a time by their digits."""
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    for shift in range(16, int(numbers.max(initial=0)).bit_length(), 16):
        digits = (numbers >> shift).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


# --- Tiles in a store -------------------------------------------------------------------


def entities(keys: Sequence[pa.Array], rows: int) -> list[bytes]:
    """Return the key of each row as bytes: a JSON array of its values."""
    if not keys:
        return [b"[]"] * rows
    if rows <= _FEW:
        return [_encode(row).encode() for row in zip(*_pylists(keys), strict=True)]
    _, first, of = np.unique(key_codes(keys), return_index=True, return_inverse=True)
    values = zip(*_pylists(key.take(pa.array(first)) for key in keys), strict=True)
    distinct = [_encode(row).encode() for row in values]
    return [distinct[i] for i in of.reshape(-1).tolist()]


def _pylists(keys: Iterable[pa.Array]) -> list[list[Any]]:
    return [key.to_pylist() for key in keys]


def pack_tiles(tiles: Tiles) -> list[bytes]:
    """Return the parts of each tile as bytes; equal tiles give equal bytes."""
    cells = [part.to_cells() for part in tiles.parts]
    lengths = struct.Struct(f"<{len(cells)}I")
    return [lengths.pack(*map(len, row)) + b"".join(row) for row in zip(*cells, strict=True)]


def unpack_parts(packed: Sequence[bytes], plan: TilePlan) -> tuple[Part, ...]:
    """Return the parts of tiles that `pack_tiles` has packed."""
    count, size = len(plan.partials), 4 * len(plan.partials)
    heads = b"".join([one[:size] for one in packed])
    lengths = np.frombuffer(heads, "<u4").reshape(len(packed), count)
    ends = (np.cumsum(lengths, axis=1, dtype=np.int64) + size).T.tolist()
    starts = [[size] * len(packed), *ends]
    parts = []
    for partial, first, last in zip(plan.partials, starts, ends, strict=False):
        cells = [one[a:b] for one, a, b in zip(packed, first, last, strict=True)]
        parts.append(partial.kind.from_cells(cells))
    return tuple(parts)


def unpack_tiles(
    packed: Sequence[bytes],
    found: Sequence[bytes],
    starts: Sequence[int],
    plan: TilePlan,
    types: Mapping[str, pa.DataType],
) -> Tiles:
    """Return what `pack_tiles` was called on.

    Args:
        packed: The tiles.
        found: The entity of each, as `entities` gives it.
        starts: When each begins.
        plan: Their plan.
        types: The types of the key columns, as `key_values` gives them.
    """
    keys = {entity: json.loads(entity) for entity in dict.fromkeys(found)}
    values = tuple(
        pa.array([keys[entity][i] for entity in found], types[name])
        for i, name in enumerate(plan.by)
    )
    return Tiles(values, np.array(starts, np.int64), unpack_parts(packed, plan))


_encode = json.JSONEncoder(separators=(",", ":")).encode
