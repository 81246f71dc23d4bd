"""Windows: what rows get of the tiles before them, as of each row's time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.transforms.aggregate.functions import Windowed
from skewless.transforms.aggregate.kinds import TIMES_ARE_VALUES
from skewless.transforms.aggregate.partials import Extremes, Indices, Part
from skewless.transforms.aggregate.tiles import TilePlan, Tiles, distinct_numbers, number_keys

__all__ = ["Asked", "merge_windows", "windows_at"]

# The windows of so few rows cost little more than the calls: they are merged row by row, those
# of all lengths at once.
_FEW = 256


class Asked(NamedTuple):
    """Rows that ask.

    Attributes:
        codes: The number of each row's key; [rows].
        times: As of when each is to know, int64 microseconds since 1970; [rows].
        known: Whether it has a key and a time; windows of one that has not are empty; [rows].
    """

    codes: Indices
    times: Indices
    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, codes: Indices, keys: Sequence[pa.Array], times: pa.Array) -> Asked:
        """Return rows by their keys and times, in which some may be missing."""
        columns = [*keys, times]
        if not any(column.null_count for column in columns):
            return cls(codes, times.to_numpy(), np.ones(len(times), np.bool_))
        known = functools.reduce(pc.and_, [column.is_valid() for column in columns])
        at = times.fill_null(0).to_numpy(zero_copy_only=False)
        return cls(codes, np.asarray(at), np.asarray(known.to_numpy(zero_copy_only=False)))


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
    both = [pa.concat_arrays(sides) for sides in zip(tiles.keys, keys, strict=True)]
    codes = number_keys(both, len(tiles.starts) + len(times))
    held = codes[: len(tiles.starts)]
    asked = Asked.of(codes[len(held) :], keys, times)
    if np.any(held[1:] < held[:-1]):
        # Of several key columns, the rows' values may have changed the order of the tiles.
        order = np.lexsort((tiles.starts, held))
        tiles, held = tiles.take(order), held[order]
    return merge_windows(tiles.parts, held, tiles.starts, asked, plan)


def merge_windows(
    parts: Sequence[Part], held: Indices, starts: Indices, asked: Asked, plan: TilePlan
) -> list[pa.Array]:
    """Return the plan's columns for rows whose keys, like those of the tiles, are numbers.

    Args:
        parts: The parts of the tiles.
        held: The number of each tile's key, ascending; [tiles].
        starts: When each begins, ascending for each key; [tiles].
        asked: The rows.
        plan: The plan of the tiles.

    Returns:
        An array of [rows] for each column.
    """
    ends, floors = starts // plan.tile, asked.times // plan.tile
    ticks = np.concatenate([ends, floors[asked.known]])
    first, last = (int(ticks.min()), int(ticks.max())) if len(ticks) else (0, 0)
    low = first - plan.longest // plan.tile
    width = last - low + 2
    # One number for key and tile, so that one sorted array answers for all keys.
    places = held * width + (ends - low)
    # Rows without a time or key ask before all tiles, where nothing is.
    wanted = np.where(asked.known, asked.codes * width + (floors - low), 0)
    few = len(wanted) <= _FEW
    inverse = None
    if not few:
        firsts, group = distinct_numbers(wanted)
        wanted, inverse = wanted[firsts], group.of
    stops = np.searchsorted(places, wanted)
    rows = _Rows(asked.times, inverse, len(wanted))
    columns: list[Any] = [None] * len(plan.columns)
    for step in _steps(plan, together=few):
        # A key's numbers begin at code * width: no window reaches into another key's.
        before = np.concatenate([wanted - over // plan.tile for over in step.overs])
        windows = np.searchsorted(places, before), np.tile(stops, len(step.overs))
        merged = {i: parts[i].windows(*windows, plan.partials[i].size) for i in step.parts}
        for one in step.finished:
            found = _finish(one, [merged[i] for i in one.parts], rows)
            for at, values in zip(one.columns, found, strict=True):
                columns[at] = values
    return columns


class _Finished(NamedTuple):
    """An aggregate: of which parts, and which columns it gives; one for each window."""

    windowed: Windowed
    parts: tuple[int, ...]
    columns: tuple[int, ...]
    of_times: bool


class _Step(NamedTuple):
    """Windows that are merged at once, and what is made of them."""

    overs: tuple[int, ...]
    parts: tuple[int, ...]
    finished: tuple[_Finished, ...]


@functools.lru_cache(maxsize=256)
def _steps(plan: TilePlan, *, together: bool) -> tuple[_Step, ...]:
    """Return how a plan's columns are made: the windows of all lengths together, or of each."""
    found: dict[tuple[int, ...], list[_Finished]] = {}
    for overs, one in _each(plan, together):
        found.setdefault(overs, []).append(one)
    return tuple(
        _Step(overs, tuple(dict.fromkeys(i for one in some for i in one.parts)), tuple(some))
        for overs, some in found.items()
    )


def _each(plan: TilePlan, together: bool) -> Iterator[tuple[tuple[int, ...], _Finished]]:
    place = {partial.key: i for i, partial in enumerate(plan.partials)}
    alike: dict[tuple[int, int], list[int]] = {}
    for at, column in enumerate(plan.columns):
        alike.setdefault((id(column.windowed), 0 if together else column.over), []).append(at)
    for columns in alike.values():
        windowed = plan.columns[columns[0]].windowed
        partials = windowed.partials
        of_times = any(p.kind is Extremes and p.size == TIMES_ARE_VALUES for p in partials)
        parts = tuple(place[partial.key] for partial in partials)
        overs = tuple(plan.columns[at].over for at in columns)
        yield overs, _Finished(windowed, parts, tuple(columns), of_times)


class _Rows(NamedTuple):
    """Rows, and which window of each length they have; None where each has its own."""

    times: Indices
    window: Indices | None
    windows: int


def _finish(one: _Finished, parts: Sequence[Part], rows: _Rows) -> list[pa.Array]:
    """Return an aggregate's columns: of windows of one length after those of the other."""
    window, size = rows.window, rows.windows
    starts = [i * size for i in range(len(one.columns))]
    if not one.of_times:
        # What does not depend on the rows' own times is finished once for all rows of a tile.
        values = one.windowed.result(parts, rows.times[:0])
        if window is not None:
            return [values.take(pa.array(window + start)) for start in starts]
        return [_slice(values, start, size) for start in starts]
    if window is not None:
        at = np.concatenate([window + start for start in starts])
        parts, size = [part.take(at) for part in parts], len(window)
    values = one.windowed.result(parts, np.tile(rows.times, len(one.columns)))
    return [_slice(values, i * size, size) for i in range(len(one.columns))]


def _slice(values: pa.Array, start: int, length: int) -> pa.Array:
    if len(values) == length:
        return values
    if pa.types.is_nested(values.type):
        # Many a reader forgets that the lists of a slice do not begin at 0.
        return values.take(pa.array(np.arange(start, start + length)))
    return values.slice(start, length)
