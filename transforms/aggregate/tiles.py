"""Tiles: per key and per fixed window of time, one mergeable part of every aggregate.

An aggregate over the last hour is a merge of the tiles of that hour. History, stream and
serving differ only in where they take the tiles from.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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
    "concat_tiles",
    "entities",
    "event_times",
    "merge_tiles",
    "pack_tiles",
    "tile_events",
    "times_of",
    "unpack_tiles",
    "windows_at",
]

Time: TypeAlias = str | pc.Expression


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
    """

    name: str
    by: tuple[str, ...]
    known_at: Time
    arrived_at: Time | None
    lateness: int | None
    tile: int
    columns: tuple[Column, ...]

    @functools.cached_property
    def partials(self) -> tuple[Partial, ...]:
        """The parts of a tile, each once, whichever columns need it."""
        found = {p.key: p for column in self.columns for p in column.windowed.partials}
        return tuple(found.values())

    @property
    def longest(self) -> int:
        """The longest window, in microseconds."""
        return max(column.over for column in self.columns)


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


def _codes(keys: Sequence[pa.Array], rows: int) -> Indices:
    """Number rows by their key, one key column in the order in which its values appear."""
    if not keys:
        return np.zeros(rows, np.int64)
    if len(keys) > 1:
        return key_codes(keys)
    codes = keys[0].dictionary_encode().indices.cast(pa.int64()).fill_null(-1)
    return np.asarray(codes.to_numpy()) + 1


def _grouped(keys: Sequence[pa.Array], starts: Indices, tile: int) -> tuple[Indices, Group]:
    """Return one row of each key and start, in their order, and which of them each row is."""
    return _distinct(_places(_codes(keys, len(starts)), starts // tile))


def _places(codes: Indices, ticks: Indices) -> Indices:
    """Return numbers that sort by code, then by tick."""
    ranks: Indices = ticks - (ticks.min() if len(ticks) else 0)
    width = int(ranks.max(initial=0)) + 1
    if int(codes.max(initial=0)) >= 2**62 // width:
        # Ranks without gaps always fit.
        ranks = _distinct(ranks)[1].of
        width = int(ranks.max(initial=0)) + 1
    places: Indices = codes * width + ranks
    return places


def _distinct(numbers: Indices) -> tuple[Indices, Group]:
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


def windows_at(
    tiles: Tiles, keys: Sequence[pa.Array], times: pa.Array, plan: TilePlan
) -> list[pa.Array]:
    """Return the plan's columns for rows, as of each row's time.

    A window of length `over` at time t holds the tiles that began at or after t - over and
    ended at or before t, t being floored to the tile: nothing of the tile in progress.

    Args:
        tiles: As `merge_tiles` returns them; at least those of the rows' windows.
        keys: The rows' values of the key columns, as `key_values` gives them; [rows] each.
        times: The rows' times, int64 microseconds since 1970; a row without a time or key
            has empty windows. [rows].
        plan: The plan of the tiles.

    Returns:
        An array of [rows] for each column.
    """
    rows = len(times)
    known = functools.reduce(pc.and_, [column.is_valid() for column in [*keys, times]])
    known = known.to_numpy(zero_copy_only=False)
    at = np.asarray(times.fill_null(0).to_numpy(zero_copy_only=False))
    floors = at // plan.tile
    both = [pa.concat_arrays(sides) for sides in zip(tiles.keys, keys, strict=True)]
    codes = _codes(both, len(tiles.starts) + rows)
    ends = tiles.starts // plan.tile
    held = codes[: len(ends)]
    if np.any(held[1:] < held[:-1]):
        # Of several key columns, the rows' values may have changed the order of the tiles.
        order = np.lexsort((ends, held))
        tiles, held, ends = tiles.take(order), held[order], ends[order]
    ticks = np.concatenate([ends, floors[known]])
    first, last = (int(ticks.min()), int(ticks.max())) if len(ticks) else (0, 0)
    low = first - plan.longest // plan.tile
    width = last - low + 2
    # One number for key and tile, so that one sorted array answers for all keys.
    places = held * width + (ends - low)
    # Rows without a time or key ask before all tiles, where nothing is.
    wanted = np.where(known, codes[len(ends) :] * width + (floors - low), 0)
    firsts, group = _distinct(wanted)
    asked = wanted[firsts]
    stops = np.searchsorted(places, asked)
    # A key's numbers begin at code * width: no window reaches into another key's.
    starts = {
        over: np.searchsorted(places, asked - over // plan.tile)
        for over in {column.over for column in plan.columns}
    }
    merged: dict[tuple[str, int], Part] = {}
    return [
        _column(column, plan, tiles, starts[column.over], stops, merged, group.of, at)
        for column in plan.columns
    ]


def _column(
    column: Column,
    plan: TilePlan,
    tiles: Tiles,
    starts: Indices,
    stops: Indices,
    merged: dict[tuple[str, int], Part],
    inverse: Indices,
    at: Indices,
) -> pa.Array:
    """Return one column; parts that another one has merged already are not merged again."""
    places = {partial.key: i for i, partial in enumerate(plan.partials)}
    needed = []
    for partial in column.windowed.partials:
        key = (partial.key, column.over)
        if key not in merged:
            part = tiles.parts[places[partial.key]]
            merged[key] = part.windows(starts, stops, partial.size)
        needed.append(merged[key])
    if any(p.kind is Extremes and p.size == TIMES_ARE_VALUES for p in column.windowed.partials):
        return column.windowed.result([part.take(inverse) for part in needed], at)
    # What does not depend on the rows' own times is finished once for all rows of a tile.
    return column.windowed.result(needed, at[:0]).take(pa.array(inverse))


# --- Tiles in a store -------------------------------------------------------------------


def entities(keys: Sequence[pa.Array], rows: int) -> list[bytes]:
    """Return the key of each row as bytes: a JSON array of its values."""
    if not keys:
        return [b"[]"] * rows
    _, first, of = np.unique(key_codes(keys), return_index=True, return_inverse=True)
    values = zip(*[key.take(pa.array(first)).to_pylist() for key in keys], strict=True)
    distinct = [json.dumps(row, separators=(",", ":")).encode() for row in values]
    return [distinct[i] for i in of.reshape(-1).tolist()]


def pack_tiles(tiles: Tiles) -> list[bytes]:
    """Return the parts of each tile as bytes; equal tiles give equal bytes."""
    cells = [part.to_cells() for part in tiles.parts]
    lengths = struct.Struct(f"<{len(cells)}I")
    return [lengths.pack(*map(len, row)) + b"".join(row) for row in zip(*cells, strict=True)]


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
    head = struct.Struct(f"<{len(plan.partials)}I")
    rows = []
    for one in packed:
        at, row = head.size, []
        for length in head.unpack_from(one):
            row.append(one[at : at + length])
            at += length
        rows.append(row)
    columns: Any = zip(*rows, strict=True) if rows else [[] for _ in plan.partials]
    parts = tuple(p.kind.from_cells(list(c)) for p, c in zip(plan.partials, columns, strict=True))
    keys = {entity: json.loads(entity) for entity in dict.fromkeys(found)}
    values = tuple(
        pa.array([keys[entity][i] for entity in found], types[name])
        for i, name in enumerate(plan.by)
    )
    return Tiles(values, np.array(starts, np.int64), parts)
