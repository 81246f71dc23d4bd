"""A small stream: few keys, tiles of ten seconds, and what batch makes of the same events."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from skewless.pipeline.ledger import Ledger
from skewless.schema import make_feature, make_schema
from skewless.transforms.aggregate import functions
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.late import late_rows
from skewless.transforms.aggregate.tiles import (
    TilePlan,
    entities,
    merge_tiles,
    pack_tiles,
    tile_events,
    times_of,
)
from skewless.transforms.aggregate.together import add_columns
from skewless.transforms.aggregate.windows import windows_at
from skewless.transforms.join import JoinAsOf
from skewless.transforms.live.microbatches import LiveRows, MicroBatches, read_counts
from skewless.transforms.live.released import Released
from skewless.transforms.live.steps import DropRepeated
from skewless.transforms.online import OnlineStore, Transaction
from skewless.transforms.rows import OFFSET, Rejected, with_origin
from skewless.transforms.shuffle import key_values

SECOND = 1_000_000
TILE = 10  # seconds
BEGIN = 1_600_000_000  # in seconds, where a tile begins
UTC = pa.timestamp("us", "UTC")
TYPES = {"k": pa.string(), "t": UTC, "b": UTC, "arrived": UTC, "n": pa.int64()}
SCHEMA = make_schema(
    [make_feature(name, kind, required=name == "n") for name, kind in TYPES.items()]
)
NOTHING = make_schema([])


def step(**given: Any) -> Aggregate:
    """Return an aggregate whose value tells which events it saw."""
    made = {
        "events": functions.count(over=["10s", "30s"]),
        "total": functions.sum("n", over="30s"),
        "average": functions.mean("n", over="20s"),
        "last": functions.last("n", over="30s"),
        "since": functions.time_since_last(over="30s"),
    }
    return Aggregate(**{"by": ["k"], "known_at": "t", "at": "b", "tile": "10s", **given}, **made)


def everybody(**given: Any) -> Aggregate:
    """Return a second one, of all keys together."""
    return Aggregate(
        by=[],
        at="b",
        tile="20s",
        **{"known_at": "t", **given},
        all_events=functions.count(over="40s"),
    )


STEPS = (step(), everybody())


def live(
    steps: Sequence[Aggregate] = STEPS,
    before: Sequence[Any] = (DropRepeated(),),
    after: Sequence[Any] = (),
    **given: Any,
) -> LiveRows:
    """Return how the rows of the small stream are made; durations are in seconds."""
    seconds = {name: value and value * SECOND for name, value in given.items()}
    return LiveRows(
        SCHEMA,
        tuple(before),
        tuple(one.plan for one in steps),
        steps[0].at if steps else None,
        tuple(after),
        NOTHING,
        **{"keep": None, "remember": 10**6 * SECOND, **seconds},
    )


def event(offset: int, at: float | None, k: str | None = "a", **cells: Any) -> dict[str, Any]:
    """Return an event known at so many seconds, which asks as of then too."""
    return {"k": k, "t": at, "b": at, "arrived": at, "n": offset, OFFSET: offset, **cells}


def batch_of(events: Iterable[dict[str, Any]]) -> pa.RecordBatch:
    """Return events as a source gives them; times are seconds after `BEGIN`."""
    rows = list(events)
    columns = []
    for name, kind in TYPES.items():
        values = [row[name] for row in rows]
        if kind == UTC:
            values = [v if v is None else round((BEGIN + v) * SECOND) for v in values]
            columns.append(pa.array(values, pa.int64()).cast(kind))
        else:
            columns.append(pa.array(values, kind))
    batch = pa.RecordBatch.from_arrays(columns, names=list(TYPES))
    return with_origin(batch, "topic", pa.array([row[OFFSET] for row in rows], pa.int64()))


def poison(offset: int) -> Rejected:
    return Rejected("Parse", "topic", offset, "", "", "expected a JSON object", b"?%d" % offset)


# --- What batch makes of it --------------------------------------------------------------


def batch_tiles(batch: pa.RecordBatch, plan: TilePlan) -> dict[tuple[bytes, int], bytes]:
    """Return the bytes of all tiles of distinct events by their place."""
    tiles = merge_tiles([tile_events(batch, plan)], plan)
    places = zip(entities(tiles.keys, len(tiles.starts)), tiles.starts.tolist(), strict=True)
    return dict(zip(places, pack_tiles(tiles), strict=True))


def batch_rows(
    batch: pa.RecordBatch, steps: Sequence[Aggregate] = STEPS
) -> dict[int, dict[str, Any]]:
    """Return the rows with all columns by their offset, from the tiles of all events."""
    columns: list[pa.Array] = []
    for one in steps:
        tiles = merge_tiles([tile_events(batch, one.plan)], one.plan)
        keys = [key_values(batch.column(name)) for name in one.by]
        columns += windows_at(tiles, keys, times_of(one.at, batch, ""), one.plan)
    whole = add_columns(batch, [one.plan for one in steps], columns)
    return by_offset(whole)


def by_offset(batch: pa.RecordBatch) -> dict[int, dict[str, Any]]:
    rows = batch.to_pylist()
    found = {row[OFFSET]: row for row in rows}
    assert len(found) == len(rows)
    return found


def without_late(batch: pa.RecordBatch, steps: Sequence[Aggregate]) -> pa.RecordBatch:
    return late_rows(batch, [one.plan for one in steps])[0]


# --- What the store holds ----------------------------------------------------------------


def stored_tiles(path: Any, group: str) -> dict[tuple[bytes, int], bytes]:
    """Return all tiles of a group in a SQLite store, past its own reader."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT entity, start, value FROM tiles WHERE grp=?", (group,))
        return {(entity, start): value for entity, start, value in rows}


def stored_ids(path: Any) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM seen").fetchone()[0])


def totals(store: OnlineStore) -> dict[str, int]:
    """Return what is in the ledger by kind, after a check that it adds up."""
    counts = read_counts(store)
    ledger = Ledger.of(("small", kind, of, n) for (kind, of), n in counts.items())
    ledger.check()
    return {
        kind: n for kind in ledger.inputs.get("small", {}) if (n := ledger.total("small", kind))
    }


# --- Processes that die ------------------------------------------------------------------


class DiedError(Exception):
    """The process is gone."""


@dataclasses.dataclass
class Dying:
    """A store whose next transaction is not committed, where `dies`."""

    store: OnlineStore
    dies: bool = False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.store.transaction() as change:
            yield change
            if self.dies:
                raise DiedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Written:
    """The files of what was let go: written again, one is what it was."""

    def __init__(self) -> None:
        self.rows: dict[int, list[dict[str, Any]]] = {}
        self.rejected: dict[int, tuple[Rejected, ...]] = {}

    def write(self, released: Released) -> int:
        rows = [] if released.rows is None else released.rows.to_pylist()
        for files, made in ((self.rows, rows), (self.rejected, released.rejected)):
            assert files.setdefault(released.number, made) == made
        return released.number

    def all_rows(self) -> dict[int, dict[str, Any]]:
        """Return all rows by offset; each may have been let go once."""
        rows = [row for found in self.rows.values() for row in found]
        found = {row[OFFSET]: row for row in rows}
        assert len(found) == len(rows), "a row was let go twice"
        return found

    def all_rejected(self) -> list[Rejected]:
        return [row for found in self.rejected.values() for row in found]


def finish(batches: MicroBatches, written: Written, done: Sequence[int] = ()) -> None:
    """Let all go that waits."""
    while (released := batches.commit(None, (), done, all_waiting=True)) is not None:
        done = [written.write(released)]


# --- The right side of a join ------------------------------------------------------------

RIGHT = make_schema(
    [
        make_feature("k", pa.string(), required=True),
        make_feature("since", UTC, required=True),
        make_feature("region", pa.string(), required=False),
    ]
)


@dataclasses.dataclass(eq=False)
class Regions:
    """What `JoinAsOf` has to know of its right side."""

    schema: Any = dataclasses.field(default_factory=lambda: RIGHT)
    event_time: str = "since"
    input_name: str = "regions"


def join() -> JoinAsOf:
    return JoinAsOf(Regions(), by=["k"], on="t", columns=["region"])


def right_file(folder: pathlib.Path) -> str:
    """Write the regions of two keys to a file; the second one moves after 50 s."""
    at = [round((BEGIN + since) * SECOND) for since in (0, 0, 50)]
    batch = pa.record_batch(
        {
            "k": ["a", "b", "b"],
            "since": pa.array(at, pa.int64()).cast(UTC),
            "region": ["north", "north", "south"],
        }
    )
    path = folder / "regions.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return str(path)
