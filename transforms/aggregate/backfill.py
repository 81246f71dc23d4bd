"""WriteTiles: fill an online store with the tiles of history, for a stream to go on from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from skewless.errors import RunError
from skewless.transforms.aggregate.online import (
    FORGOTTEN,
    PROGRESS,
    SEQUENCE,
    claim_tiles,
    newest_times,
    oldest_tile,
    put_tiles,
)
from skewless.transforms.aggregate.tiles import (
    TilePlan,
    Tiles,
    entities,
    event_times,
    merge_tiles,
    tile_events,
)
from skewless.transforms.online.open import open_store
from skewless.transforms.online.store import Transaction
from skewless.transforms.shuffle import PARTITIONS, key_values, partition_batch

__all__ = ["WriteTiles"]


@dataclasses.dataclass(eq=False)
class WriteTiles(beam.PTransform):  # type: ignore[misc]
    """Write the tiles that windows from the newest event on may need, and the newest ids.

    Tiles are written whole, so that a backfill that was killed is simply done again.

    Args:
        plans: The aggregates.
        store: The address of an online store that no stream has written to.
        keep: How much longer than its windows need a tile is kept, in microseconds.
        by: The columns that make an event's id, as in `Deduplicate`; none for no ids.
        remember: How long ids are remembered, in microseconds of event time.

    Returns:
        A PCollection of how many tiles were written, part by part.

    Raises:
        RunError: If a stream has written to the store, or it holds other aggregates.
    """

    plans: Sequence[TilePlan]
    store: str
    keep: int
    by: tuple[str, ...]
    remember: int

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[int]:
        """Find the newest times, then write tiles and ids, then how far it has come."""
        plans = tuple(self.plans)
        newest = beam.pvalue.AsSingleton(
            batches
            | "NewestOfBatch" >> beam.Map(newest_times, plans)
            | "Newest" >> beam.CombineGlobally(_newest)
        )
        checked = beam.pvalue.AsSingleton(
            batches.pipeline
            | "Store" >> beam.Create([self.store])
            | "CheckStore" >> beam.Map(_check_store, plans)
        )
        tiles = (
            batches
            | "TileEvents" >> beam.FlatMap(_tile, plans)
            | "GroupTiles" >> beam.GroupByKey()
            | "PutTiles" >> beam.Map(_put, plans, self.store, self.keep, newest, checked)
        )
        done = [tiles]
        if self.by:
            ids = batches | "ListIds" >> beam.FlatMap(_ids, plans, self.by)
            grouped = ids | "GroupIds" >> beam.GroupByKey()
            put = beam.Map(_remember, self.store, self.remember, newest, checked)
            done.append(grouped | "PutIds" >> put)
        written = done | "All" >> beam.Flatten() | "Written" >> beam.CombineGlobally(sum)
        return written | "SetProgress" >> beam.Map(
            _set_progress, plans, self.store, self.keep, newest
        )


def _newest(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in several:
        for name, newest in one.items():
            found[name] = max(found.get(name, newest), newest)
    return found


def _check_store(address: str, plans: Sequence[TilePlan]) -> str:
    with contextlib.closing(open_store(address)) as store:
        if store.notes(SEQUENCE):
            raise RunError(
                f"{address}: a stream has written to this store; backfill one that is new"
            )
        claim_tiles(store, plans)
    return address


@contextlib.contextmanager
def _change(address: str) -> Iterator[Transaction]:
    """Give a transaction of a store that is opened for it."""
    with contextlib.closing(open_store(address)) as store, store.transaction() as change:
        yield change


def _tile(
    batch: pa.RecordBatch, plans: Sequence[TilePlan]
) -> Iterator[tuple[tuple[int, int], pa.RecordBatch]]:
    """Yield the tiles of a batch by plan and part; equal keys are in one part."""
    for number, plan in enumerate(plans):
        tiles = tile_events(batch, plan).to_arrow()
        keys = [f"k{i}" for i in range(len(plan.by))]
        parts = partition_batch(tiles, keys, PARTITIONS) if keys else iter([(0, tiles)])
        for part, rows in parts:
            yield (number, part), rows


def _put(
    part: tuple[tuple[int, int], Iterable[pa.RecordBatch]],
    plans: Sequence[TilePlan],
    address: str,
    keep: int,
    newest: Mapping[str, int],
    _: str,
) -> int:
    plan = plans[part[0][0]]
    tiles = merge_tiles([Tiles.from_arrow(table, plan) for table in part[1]], plan)
    if len(tiles.starts):
        oldest = oldest_tile(plan, min(newest.values()), keep)
        tiles = tiles.take(np.flatnonzero(tiles.starts >= oldest))
    with _change(address) as change:
        put_tiles(change, tiles, plan)
    return len(tiles.starts)


def _ids(
    batch: pa.RecordBatch, plans: Sequence[TilePlan], by: Sequence[str]
) -> Iterator[tuple[int, list[tuple[bytes, int | None]]]]:
    """Yield the ids of a batch's events and when each was known, in one of a few parts."""
    # Whichever keys an event has, some aggregate may count it.
    times, known = event_times(batch, dataclasses.replace(plans[0], by=()))
    found = entities([key_values(batch.column(name)) for name in by], batch.num_rows)
    rows = zip(found, times.tolist(), known.tolist(), strict=True)
    ids = [(one, at if is_known else None) for one, at, is_known in rows]
    for part in range(PARTITIONS):
        yield part, ids[part::PARTITIONS]


def _remember(
    part: tuple[int, Iterable[list[tuple[bytes, int | None]]]],
    address: str,
    remember: int,
    newest: Mapping[str, int],
    _: str,
) -> int:
    oldest = min(newest.values(), default=0)
    # One without a time is as of the newest.
    found = [(one, oldest if at is None else at) for ids in part[1] for one, at in ids]
    kept = [(one, at) for one, at in found if at + remember >= oldest]
    with _change(address) as change:
        change.unseen([one for one, _ in kept], [at + remember for _, at in kept])
    return 0


def _set_progress(
    tiles: int, plans: Sequence[TilePlan], address: str, keep: int, newest: Mapping[str, int]
) -> int:
    forgotten = {
        plan.name: oldest_tile(plan, min(newest.values()), keep) for plan in plans if newest
    }
    with _change(address) as change:
        change.set_note(PROGRESS, json.dumps(dict(newest)).encode())
        # A stream whose rows wait, say, must not ask for tiles that are not written.
        change.set_note(FORGOTTEN, json.dumps(forgotten).encode())
    return tiles
