"""Tiles in an online store: events are merged into them, and windows are read from them."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from skewless.errors import RecipeError, RunError
from skewless.schema import Schema, arrow_schema
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.partials import Indices
from skewless.transforms.aggregate.tiles import (
    TilePlan,
    Tiles,
    entities,
    event_times,
    merge_tiles,
    pack_tiles,
    tile_events,
    unpack_parts,
    unpack_tiles,
)
from skewless.transforms.aggregate.together import typed_columns
from skewless.transforms.aggregate.windows import Asked, merge_windows
from skewless.transforms.online.store import OnlineStore, Reader, Tile, Transaction, Wanted
from skewless.transforms.shuffle import check_columns, key_values

__all__ = [
    "FORGOTTEN",
    "PROGRESS",
    "SEQUENCE",
    "OnlineFeatures",
    "OtherTilesError",
    "claim_tiles",
    "differing_tiles",
    "holds_tiles",
    "merge_events",
    "newest_times",
    "oldest_tile",
    "put_tiles",
    "read_columns",
    "read_windows",
]

# What a store notes: how many micro-batches there were, how far each aggregate has come, and
# the time before which its tiles are not there, or not whole.
SEQUENCE = "sequence"
PROGRESS = "progress"
FORGOTTEN = "forgotten"
_PLANS = "plans"

# All of time, in whole tiles of any length that a store can hold.
_FIRST, _LAST = -(2**53), 2**53

Now: TypeAlias = "int | datetime.datetime | Any"


class OtherTilesError(RunError):
    """A store holds tiles of other aggregates than those that are asked for."""


def claim_tiles(store: OnlineStore, plans: Sequence[TilePlan]) -> None:
    """Note in a store that holds no tiles yet of which aggregates they will be.

    Raises:
        RunError: If the store holds tiles of other aggregates.
    """
    if not holds_tiles(store, plans):
        with store.transaction() as change:
            change.set_note(_PLANS, json.dumps(_digests(plans)).encode())


def _digests(plans: Sequence[TilePlan]) -> dict[str, str]:
    return {
        plan.name: hashlib.sha256(
            json.dumps(
                [
                    list(plan.by),
                    [str(plan.known_at), str(plan.arrived_at)],
                    plan.tile,
                    [p.key for p in plan.partials],
                ]
            ).encode()
        ).hexdigest()
        for plan in plans
    }


def holds_tiles(store: Reader, plans: Sequence[TilePlan]) -> bool:
    """Say whether a store holds tiles of the plans, and not none at all.

    Raises:
        OtherTilesError: If it holds those of others.
        RunError: If it does not answer.
    """
    held = store.notes(_PLANS).get(_PLANS)
    if held is None:
        return False
    told, digests = json.loads(held), _digests(plans)
    other = sorted(name for name, digest in digests.items() if told.get(name) != digest)
    if other:
        raise OtherTilesError(
            f'the store holds no tiles of Aggregate "{other[0]}" as the recipe has it; name '
            "another store and backfill it, or bring the old recipe back"
        )
    return True


def newest_times(batch: pa.RecordBatch, plans: Sequence[TilePlan]) -> dict[str, int]:
    """Return when the newest event of each plan was known; a time to come is as now."""
    found, now = {}, round(time.time() * 1e6)
    for plan in plans:
        times, known = event_times(batch, plan)
        if known.any():
            found[plan.name] = min(int(times[known].max()), now)
    return found


def oldest_tile(plan: TilePlan, now: int, keep: int) -> int:
    """Return where the first tile begins that is kept: what the windows need, and `keep`."""
    return (now - plan.longest - keep) // plan.tile * plan.tile


def merge_events(store: Transaction, batch: pa.RecordBatch, plans: Sequence[TilePlan]) -> None:
    """Merge events into their tiles, whole tiles at a time."""
    for plan in plans:
        tiles = tile_events(batch, plan)
        found = entities(tiles.keys, len(tiles.starts))
        starts = tiles.starts.tolist()
        held = store.tiles([(plan.name, *one) for one in zip(found, starts, strict=True)])
        at = [i for i, value in enumerate(held) if value is not None]
        if at:
            before = unpack_tiles(
                [value for value in held if value is not None],
                [found[i] for i in at],
                [starts[i] for i in at],
                plan,
                _key_types(plan, tiles.keys),
            )
            tiles = merge_tiles([tiles, before], plan)
        put_tiles(store, tiles, plan)


def put_tiles(store: Transaction, tiles: Tiles, plan: TilePlan) -> None:
    """Write tiles, over those that are there."""
    found = entities(tiles.keys, len(tiles.starts))
    rows = zip(found, tiles.starts.tolist(), pack_tiles(tiles), strict=True)
    store.put(Tile(plan.name, *row) for row in rows)


def _key_types(plan: TilePlan, keys: Sequence[pa.Array]) -> dict[str, pa.DataType]:
    return {name: key.type for name, key in zip(plan.by, keys, strict=True)}


def read_windows(
    store: Reader, batch: pa.RecordBatch, times: pa.Array, plans: Sequence[TilePlan]
) -> list[pa.Array]:
    """Return the plans' columns for rows, from the tiles in a store, in one round trip.

    Args:
        store: The store.
        batch: Rows with the key columns.
        times: As of when each row is to know, int64 microseconds since 1970; [rows].
        plans: The plans; their columns come one after the other.
    """
    given = times.fill_null(0) if times.null_count else times
    moments = given.to_numpy(zero_copy_only=False)
    wanted: list[Wanted] = []
    asking = []
    for plan in plans:
        keys = [key_values(batch.column(name)) for name in plan.by]
        found = entities(keys, batch.num_rows)
        ranges, codes = _ranges(found, moments // plan.tile * plan.tile, plan)
        asking.append((plan, len(ranges), Asked.of(codes, keys, times)))
        wanted += ranges
    read = iter(store.read(wanted))
    return [
        column
        for plan, count, asked in asking
        for column in _merged(list(itertools.islice(read, count)), asked, plan)
    ]


def _merged(
    found: Sequence[Sequence[tuple[int, bytes]]], asked: Asked, plan: TilePlan
) -> list[pa.Array]:
    """Return a plan's columns, of the tiles of each key by its number."""
    tiles = [tile for some in found for tile in some]
    starts = np.array([start for start, _ in tiles], np.int64)
    lengths = np.array([len(some) for some in found], np.int64)
    held = np.repeat(np.arange(len(found)), lengths)
    parts = unpack_parts([value for _, value in tiles], plan)
    return merge_windows(parts, held, starts, asked, plan)


def _ranges(found: Sequence[bytes], floors: Any, plan: TilePlan) -> tuple[list[Wanted], Indices]:
    """Return for each entity the tiles of all its rows' windows, and which entity rows are."""
    number: dict[bytes, int] = {}
    codes = [number.setdefault(entity, len(number)) for entity in found]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for code, floor in zip(codes, floors.tolist(), strict=True):
        first[code] = min(first.get(code, floor), floor)
        last[code] = max(last.get(code, floor), floor)
    ranges = [
        Wanted(plan.name, entity, first[code] - plan.longest, last[code])
        for entity, code in number.items()
    ]
    return ranges, np.array(codes, np.int64)


class OnlineFeatures:
    """The aggregates of a recipe as of now, read from an online store.

    Windows are read by the clock of who asks: those of a key that has gone quiet run empty
    without any new event.

    Args:
        store: What a stream or a backfill writes to.
        steps: The recipe's `Aggregate`s, or their plans.
        schema: The schema of the events, which says of which types keys and values are.

    Raises:
        RunError: If the store holds tiles of other aggregates.
    """

    def __init__(
        self, store: OnlineStore, steps: Sequence[Aggregate | TilePlan], schema: Schema
    ) -> None:
        self._store = store
        self._plans = [step if isinstance(step, TilePlan) else step.plan for step in steps]
        self._types = arrow_schema(schema)
        if not self._plans:
            raise RecipeError("OnlineFeatures: there is no Aggregate; give the recipe one")
        holds_tiles(store, self._plans)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns of all aggregates."""
        return tuple(dict.fromkeys(name for plan in self._plans for name in plan.by))

    def features_at(self, keys: pa.RecordBatch | Mapping[str, Any], now: Now) -> pa.RecordBatch:
        """Return the aggregates of keys as of a moment, in one round trip.

        Args:
            keys: The key columns, of n rows; others are ignored. Where no aggregate has a key
                column and nothing else says how many rows there are, there is one.
            now: When: microseconds since 1970, a datetime with a zone, or n of the first.

        Returns:
            The columns that the recipe's `Aggregate`s add, of n rows.

        Raises:
            RecipeError: If a key column is missing.
            RunError: If the store does not answer.
        """
        names = keys.schema.names if isinstance(keys, pa.RecordBatch) else list(keys)
        check_columns(self.keys, names, "features_at(keys=...)")
        arrays = [_typed(keys[name], self._types.field(name).type) for name in self.keys]
        batch = pa.RecordBatch.from_arrays(arrays, names=list(self.keys))
        if not arrays:
            rows = keys.num_rows if isinstance(keys, pa.RecordBatch) else 1
            rows = len(now) if isinstance(now, pa.Array) else rows
            batch = pa.record_batch({"": pa.nulls(rows)}).select([])
        times = now if isinstance(now, pa.Array) else pa.array(np.full(len(batch), _micros(now)))
        return read_columns(self._store, batch, times, self._plans, self._types)


def read_columns(
    store: Reader,
    batch: pa.RecordBatch,
    times: pa.Array,
    plans: Sequence[TilePlan],
    events: pa.Schema,
) -> pa.RecordBatch:
    """Return what `read_windows` does, as columns with their names and types.

    Args:
        store: As there.
        batch: As there.
        times: As there.
        plans: As there.
        events: The Arrow schema of the events.
    """
    added = typed_columns(plans, read_windows(store, batch, times, plans), events)
    return pa.RecordBatch.from_arrays(list(added.values()), names=list(added))


def _typed(values: Any, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values if values.type == type_ else values.cast(type_)
    return pa.array(values, type_)


def _micros(now: int | datetime.datetime) -> int:
    if isinstance(now, int):
        return now
    if now.tzinfo is None:
        raise RecipeError(f"features_at(now={now!r}): expected a datetime with a zone")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (now - epoch) // datetime.timedelta(microseconds=1)


def differing_tiles(store: Reader, made: Tiles, plan: TilePlan) -> tuple[int, int]:
    """Return how many tiles differ in any byte, or are on one side only; and how many are.

    Args:
        store: The tiles of one side; of the entities that the other has.
        made: The other side: all tiles of the plan, as batch makes them.
        plan: Their plan.
    """
    found = entities(made.keys, len(made.starts))
    packed = pack_tiles(made)
    expected = {
        (entity, start): value
        for entity, start, value in zip(found, made.starts.tolist(), packed, strict=True)
    }
    distinct = list(dict.fromkeys(found))
    held = store.read([Wanted(plan.name, entity, _FIRST, _LAST) for entity in distinct])
    stored = {
        (entity, start): value
        for entity, tiles in zip(distinct, held, strict=True)
        for start, value in tiles
    }
    both = expected.keys() | stored.keys()
    return sum(expected.get(key) != stored.get(key) for key in both), len(both)
