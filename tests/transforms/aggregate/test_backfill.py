"""History first and the stream after it: the tiles are those of all events."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from skewless.errors import RunError
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.backfill import WriteTiles
from skewless.transforms.live.microbatches import MicroBatches
from skewless.transforms.live.steps import DropRepeated
from skewless.transforms.online import OnlineStore
from tests.transforms.live.small import (
    BEGIN,
    SECOND,
    STEPS,
    Written,
    batch_of,
    batch_rows,
    batch_tiles,
    event,
    everybody,
    finish,
    live,
    step,
    stored_ids,
    stored_tiles,
    totals,
)

FOREVER = 10**6
BY = ("k", "n")
# Some have no key, and some no time.
EVENTS = [event(n, n * 3, ["a", "b", "", None][n % 4]) for n in range(60)]
EVENTS[30] |= {"t": None}


def backfill(
    path: pathlib.Path,
    events: Sequence[dict[str, Any]],
    steps: Sequence[Aggregate] = STEPS,
    keep: int = FOREVER,
    remember: int = FOREVER,
    by: tuple[str, ...] = BY,
) -> None:
    batches = [batch_of(events[at : at + 11]) for at in range(0, max(len(events), 1), 11)]
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | beam.Create(batches).with_output_types(pa.RecordBatch)
        plans = [one.plan for one in steps]
        _ = rows | WriteTiles(plans, str(path), keep * SECOND, by, remember * SECOND)


def whole(path: pathlib.Path) -> dict[str, list[Any]]:
    """Return all that a store holds."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}"))
            for table in ("tiles", "seen", "notes")
        }


def stream(
    store: OnlineStore, events: Sequence[dict[str, Any]], steps: Sequence[Aggregate] = STEPS
) -> Written:
    """Stream events after history, some at a time, and let all go."""
    rows = live(steps, before=[DropRepeated(BY)], hold=5, keep=FOREVER)
    batches, written, done = MicroBatches(rows, store), Written(), []
    for at in range(0, len(events), 4):
        released = batches.commit(batch_of(events[at : at + 4]), (), done)
        done = [] if released is None else [written.write(released)]
    finish(batches, written, done)
    return written


@pytest.mark.parametrize("overlap", [0, 9])
def test_history_and_then_the_stream(store: OnlineStore, path: pathlib.Path, overlap: int) -> None:
    backfill(path, EVENTS[:33])
    written = stream(store, EVENTS[33 - overlap :])
    for one in STEPS:
        assert stored_tiles(path, one.name) == batch_tiles(batch_of(EVENTS), one.plan)
    expected = {n: row for n, row in batch_rows(batch_of(EVENTS)).items() if n >= 33}
    assert written.all_rows() == expected
    counted = totals(store)
    assert counted["read"] == len(EVENTS) - 33 + overlap
    assert counted.get("duplicate", 0) == overlap


def test_a_backfill_that_is_done_again_changes_nothing(path: pathlib.Path) -> None:
    backfill(path, EVENTS)
    first = whole(path)
    assert len(first["tiles"]) > 20
    assert len(first["seen"]) == len(EVENTS)
    backfill(path, EVENTS)
    assert whole(path) == first
    backfill(path, list(reversed(EVENTS)))
    assert whole(path) == first


def test_a_store_with_a_stream_in_it_is_refused(store: OnlineStore, path: pathlib.Path) -> None:
    MicroBatches(live(), store).commit(batch_of(EVENTS[:2]))
    before = whole(path)
    with pytest.raises(RunError, match=r"a stream has written to this store; backfill one that"):
        backfill(path, EVENTS)
    assert whole(path) == before


def test_a_store_of_other_aggregates_is_refused(path: pathlib.Path) -> None:
    backfill(path, EVENTS)
    with pytest.raises(RunError, match='no tiles of Aggregate "k@10s" as the recipe has it'):
        backfill(path, EVENTS, [step(known_at="arrived")])


def test_only_what_windows_may_need_is_written_and_the_stream_knows(
    store: OnlineStore, path: pathlib.Path
) -> None:
    one = step()
    backfill(path, EVENTS, [one], keep=20, remember=30)  # the newest with a key is of 174 s
    starts = {start // SECOND - BEGIN for _, start in stored_tiles(path, one.name)}
    assert min(starts) == 120  # 174 - 30 - 20, and the whole tile of that
    assert stored_ids(path) == 13  # those since 144 s, and the one without a time
    # However long the stream itself would keep tiles and let rows wait.
    rows = live([one], before=[DropRepeated(BY)], hold=100, keep=FOREVER)
    batches, written = MicroBatches(rows, store), Written()
    coming = [
        event(100, 119, b=200),
        event(101, 120, b=200),
        event(102, 200, b=149),
        event(103, 200, b=150),
    ]
    released = batches.commit(batch_of(coming))
    assert released is not None
    assert [row.offset for row in released.rejected] == [100, 102]
    finish(batches, written, [written.write(released)])
    expected = batch_rows(batch_of([*EVENTS, coming[1], coming[3]]), [one])
    assert written.all_rows() == {n: expected[n] for n in (101, 103)}


def test_a_time_to_come_in_history_does_not_make_the_stream_late(
    store: OnlineStore, path: pathlib.Path
) -> None:
    now = int(time.time() - BEGIN)
    history = [event(0, now - 100), event(1, now + 10**8)]
    backfill(path, history, keep=60)
    stream(store, [event(2, now - 20)])
    assert "late" not in totals(store)


def test_ids_without_a_key_are_not_written(path: pathlib.Path) -> None:
    backfill(path, EVENTS, by=())
    assert stored_ids(path) == 0


def test_a_history_of_nothing(store: OnlineStore, path: pathlib.Path) -> None:
    backfill(path, [])
    assert json.loads(store.notes("progress")["progress"]) == {}
    stream(store, EVENTS)
    for one in STEPS:
        assert stored_tiles(path, one.name) == batch_tiles(batch_of(EVENTS), one.plan)


def test_aggregates_of_all_events_have_tiles_too(path: pathlib.Path) -> None:
    backfill(path, EVENTS, [everybody()])
    plan = everybody().plan
    assert stored_tiles(path, plan.name) == batch_tiles(batch_of(EVENTS), plan)
