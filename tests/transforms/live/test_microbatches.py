"""Micro-batches, cut and killed anywhere: tiles, rows and ledger are those of batch."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RunError
from skewless.schema import make_feature, make_schema
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.functions import count
from skewless.transforms.filter import Require
from skewless.transforms.live.microbatches import MicroBatches, read_counts
from skewless.transforms.live.released import Accepted, Released
from skewless.transforms.live.steps import DropRepeated, Join, Keep
from skewless.transforms.online import OnlineStore, open_store
from skewless.transforms.rows import OFFSET, reject_rows
from tests.transforms.live.small import (
    BEGIN,
    SECOND,
    STEPS,
    TILE,
    DiedError,
    Dying,
    Written,
    batch_of,
    batch_rows,
    batch_tiles,
    by_offset,
    event,
    everybody,
    finish,
    join,
    live,
    poison,
    right_file,
    step,
    stored_ids,
    stored_tiles,
    totals,
    without_late,
)

DISORDER = 15  # seconds


def picky(batch: pa.RecordBatch) -> Accepted:
    """Accept as a graph does that cannot take every seventh row."""
    bad = pc.equal(pc.subtract(batch["n"], pc.multiply(pc.divide(batch["n"], 7), 7)), 6)
    kept = batch.filter(pc.invert(bad))
    rejected = reject_rows(batch.filter(bad), "ApplyTransform", "n", "expected another")
    return Accepted(kept, kept.select(["n"]), rejected, "runs/small/first")


# --- Any cut, any death ------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "", None]),
        st.integers(0, 120) | st.sampled_from([10, 20, 9.999999, 0]),
        st.integers(-25, 25),  # as of how much later a row asks
        st.integers(0, DISORDER),  # how much later it comes
        st.booleans(),  # whether it comes twice
        st.booleans(),
    ),
    max_size=40,
)
# What happens after each commit, and how many messages are in the next one.
FATE = st.sampled_from(["lives"] * 5 + ["dies before", "dies unwritten", "dies written"])
FATES = st.lists(st.tuples(FATE, st.integers(1, 9)), min_size=1)


def messages_of(drawn: list[Any]) -> list[Any]:
    """Return events and poison in the order in which they come, some of them twice."""
    coming = []
    for offset, (k, at, asks, delay, twice, broken) in enumerate(drawn):
        one = event(offset, at, k, b=at + asks)
        message = poison(offset) if broken and offset % 5 == 0 else one
        coming += [(at + delay, offset, message)]
        coming += [(at + delay + 3, offset, message)] if twice else []
    return [message for _, _, message in sorted(coming, key=lambda one: one[:2])]


@settings(max_examples=40)
@given(drawn=EVENTS, fates=FATES, data=st.data())
def test_any_cut_and_any_death_is_as_batch(drawn: list[Any], fates: list[Any], data: Any) -> None:
    rows = live(hold=DISORDER, window=data.draw(st.sampled_from([0, 20, 60]), "window"))
    accept = data.draw(st.sampled_from([None, picky]), "accept")
    coming, written, read = messages_of(drawn), Written(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/store.db"
        store = Dying(open_store(path))
        batches, done, at, turn = MicroBatches(rows, store, accept), [], 0, 0
        while at < len(coming):
            fate, size = fates[turn % len(fates)] if turn < 100 else ("lives", 5)
            turn += 1
            some = coming[at : at + size]
            parsed = [one for one in some if isinstance(one, dict)]
            broken = [one for one in some if not isinstance(one, dict)]
            store.dies = fate == "dies before"
            released: Released | None = None
            with contextlib.suppress(DiedError):
                released = batches.commit(batch_of(parsed) if parsed else None, broken, done)
                read += len(some)
            store.dies = False
            if fate == "lives":
                at += size
                done = [] if released is None else [written.write(released)]
                continue
            # Nothing is acknowledged: all of it comes again, to a process that knows nothing.
            if fate == "dies written" and released is not None:
                written.write(released)
            batches = MicroBatches(rows, store, accept)
            done = [written.write(one) for one in batches.outbox()]
        finish(batches, written, done)

        accepted = batch_of([one for one in _distinct(coming) if isinstance(one, dict)])
        for one in STEPS:
            assert stored_tiles(path, one.name) == batch_tiles(accepted, one.plan)
        expected = batch_rows(accepted)
        unfit = {n for n in expected if accept is not None and n % 7 == 6}
        assert written.all_rows() == {n: row for n, row in expected.items() if n not in unfit}
        broken = {one.offset for one in coming if not isinstance(one, dict)}
        assert sorted(one.offset for one in written.all_rejected()) == sorted(broken | unfit)
        counted = Counter(totals(store))
        assert counted["read"] == read
        assert counted["written"] == len(expected) - len(unfit)
        assert counted["rejected"] == len(broken) + len(unfit)
        assert counted["duplicate"] == read - len(_distinct(coming))
        assert batches.outbox() == []
        store.close()


def _distinct(coming: list[Any]) -> list[Any]:
    found = {(one[OFFSET] if isinstance(one, dict) else -1 - one.offset): one for one in coming}
    return list(found.values())


# --- Late, rejected, repeated ------------------------------------------------------------


def test_late_by_its_own_record(store: OnlineStore, path: pathlib.Path) -> None:
    late = step(arrived_at="arrived", lateness="5s")
    events = [
        event(0, 3, arrived=14),  # the tile ends at 10
        event(1, 3, arrived=15),
        event(2, 3, arrived=15.000001),
        event(3, 4, arrived=4000),
        event(4, 21),
    ]
    batches, written = MicroBatches(live([late], hold=DISORDER), store), Written()
    for at in range(0, 5, 2):
        batches.commit(batch_of(events[at : at + 2]))
    batches.commit(batch_of(events))
    finish(batches, written, [written.write(one) for one in batches.outbox()])
    accepted = without_late(batch_of(events), [late])
    assert set(by_offset(accepted)) == {0, 1, 4}
    assert written.all_rows() == batch_rows(accepted, [late])
    assert [(one.step, one.offset) for one in written.all_rejected()] == [("Late", 2), ("Late", 3)]
    assert stored_tiles(path, late.name) == batch_tiles(accepted, late.plan)
    assert totals(store) == {"read": 10, "duplicate": 5, "late": 2, "written": 3}


def test_late_because_its_tiles_are_forgotten(store: OnlineStore, path: pathlib.Path) -> None:
    one = step()
    batches, written = MicroBatches(live([one], keep=20), store), Written()
    for number, at in enumerate([0, 100, 200]):
        written.write(batches.commit(batch_of([event(number, at)])))  # type: ignore[arg-type]
    # Windows reach back 30 s, and 20 s more are kept: tiles of before 150 are gone.
    assert {start for _, start in stored_tiles(path, one.name)} == {(BEGIN + 200) * SECOND}
    late = [event(3, 149, b=200), event(4, 200, b=179), event(5, 151, b=179)]
    timely = [event(6, 150, b=180), event(7, None), event(8, 190, b=None), event(9, 300, None)]
    released = batches.commit(batch_of([*late, *timely]))
    assert released is not None
    assert [row.offset for row in released.rejected] == [3, 4, 5]
    assert {row.step for row in released.rejected} == {"Late"}
    assert "had been forgotten" in released.rejected[0].reason
    assert set(by_offset(released.rows)) == {6, 7, 8, 9}
    assert totals(store) == {"read": 10, "late": 3, "written": 7}


def test_poison_that_comes_again_is_a_duplicate(store: OnlineStore) -> None:
    batches = MicroBatches(live(), store)
    first = batches.commit(None, [poison(1), poison(2), poison(1)])
    assert first is not None
    assert [row.offset for row in first.rejected] == [1, 2]
    again = MicroBatches(live(), store).commit(None, [poison(2), poison(3)])
    assert again is not None
    assert [row.offset for row in again.rejected] == [3]
    assert MicroBatches(live(), store).commit(None, [poison(2)]) is None
    assert totals(store) == {"read": 6, "rejected": 3, "duplicate": 3}


def test_a_row_against_the_schema_that_comes_again_is_rejected_once(store: OnlineStore) -> None:
    batches = MicroBatches(live(), store)
    bad = batch_of([event(1, 5, n=None), event(2, 5)])
    first, again = batches.commit(bad), batches.commit(bad)
    assert first is not None
    assert [(row.step, row.offset) for row in first.rejected] == [("Validate", 1)]
    assert again is None
    assert totals(store) == {"read": 4, "rejected": 1, "written": 1, "duplicate": 2}


def test_filtered_rows_are_counted_and_are_in_no_tile(
    store: OnlineStore, path: pathlib.Path
) -> None:
    before = [Keep(Require("k")), DropRepeated(("n",))]
    batches = MicroBatches(live(before=before), store)
    released = batches.commit(batch_of([event(0, 5, None), event(1, 5), event(2, 6, n=1)]))
    assert released is not None
    assert set(by_offset(released.rows)) == {1}
    assert totals(store) == {"read": 3, "filtered": 1, "duplicate": 1, "written": 1}
    assert stored_tiles(path, STEPS[0].name) == batch_tiles(batch_of([event(1, 5)]), STEPS[0].plan)


def test_what_must_hold_in_the_end_is_checked_after_the_aggregates(store: OnlineStore) -> None:
    last = make_schema([make_feature("last", pa.int64(), required=True)])
    rows = dataclasses.replace(live(), last=last)
    batches = MicroBatches(rows, store)
    released = batches.commit(batch_of([event(0, 5), event(1, 5, b=15)]))
    assert released is not None
    assert set(by_offset(released.rows)) == {1}
    assert [row.offset for row in released.rejected] == [0]
    assert released.rejected[0].column == "last"
    assert totals(store) == {"read": 2, "written": 1, "rejected": 1}


def test_a_stream_without_aggregates_holds_nothing_back(
    store: OnlineStore, path: pathlib.Path
) -> None:
    batches = MicroBatches(live([], hold=60, remember=60), store)
    released = batches.commit(batch_of([event(0, None), event(1, 5), event(0, None)]))
    assert released is not None
    assert set(by_offset(released.rows)) == {0, 1}
    assert totals(store) == {"read": 3, "duplicate": 1, "written": 2}
    # Ids are remembered by the clock.
    assert stored_ids(path) == 2


# --- Time --------------------------------------------------------------------------------


def test_what_is_too_old_is_forgotten(store: OnlineStore, path: pathlib.Path) -> None:
    """However long the stream goes on, tiles and ids are those of the last while."""
    rows = live(keep=50, remember=60, hold=10)
    batches, done = MicroBatches(rows, store), []
    for number in range(120):
        made = batches.commit(batch_of([event(number, number * 10, f"k{number}")]), (), done)
        done = [made.number] if made is not None else []
        # 30 s of windows, 10 of hold, 50 kept, and the tile in progress.
        assert len(stored_tiles(path, STEPS[0].name)) <= 10
        assert stored_ids(path) <= 7
        assert len(store.notes("outbox/")) <= 1
        assert len(store.notes("waiting/")) <= 3
    assert totals(store)["waiting"] <= 3


@pytest.mark.parametrize("hold", [0, 10])
def test_times_to_come_do_not_carry_the_stream_away(store: OnlineStore, hold: int) -> None:
    batches, written = MicroBatches(live(keep=10_000, hold=hold), store), Written()
    now = time.time() - BEGIN
    coming = [event(0, now - 90), event(1, now + 10**8), event(2, now - 60), event(3, now - 40)]
    for one in coming:
        released = batches.commit(batch_of([one]))
        if released is not None:
            written.write(released)
    assert "late" not in totals(store)
    # One of a time to come waits for it, where rows wait.
    assert set(written.all_rows()) == ({0, 1, 2, 3} if hold == 0 else {0, 2, 3})


def test_rows_wait_for_the_least_of_what_the_aggregates_have_seen(store: OnlineStore) -> None:
    slow = everybody(known_at="arrived")
    batches = MicroBatches(live([step(), slow], hold=10), store)
    assert batches.commit(batch_of([event(0, 5, arrived=5)])) is None
    assert batches.commit(batch_of([event(1, 500, arrived=6)])) is None
    released = batches.commit(batch_of([event(2, 501, arrived=60)]))
    assert released is not None
    assert set(by_offset(released.rows)) == {0}


@pytest.mark.parametrize("begin", [-BEGIN, -BEGIN - 1000])
def test_rows_that_need_not_wait_do_not_also_before_1970(store: OnlineStore, begin: int) -> None:
    batches = MicroBatches(live(), store)
    released = batches.commit(batch_of([event(0, begin), event(1, begin - 7), event(2, None)]))
    assert released is not None
    assert set(by_offset(released.rows)) == {0, 1, 2}


def test_rows_are_let_go_by_windows(store: OnlineStore) -> None:
    batches = MicroBatches(live(window=60, hold=5), store)
    assert BEGIN % 60 == 40  # so that a window ends after 20, 80 and 140 s
    assert batches.commit(batch_of([event(n, n * 20 + 20) for n in range(4)])) is None
    assert batches.commit(batch_of([event(4, 84.999)])) is None
    released = batches.commit(batch_of([event(5, 85)]))
    assert released is not None
    assert set(by_offset(released.rows)) == {0, 1, 2}


def test_many_that_wait_go_some_at_a_time(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skewless.transforms.live.microbatches._MOST_ROWS", 4)
    batches, sizes, done = MicroBatches(live(hold=10**6, window=10), store), [], []
    batches.commit(batch_of([event(n, n * 10) for n in range(10)]))
    while (released := batches.commit(None, (), done, all_waiting=True)) is not None:
        sizes.append(released.rows.num_rows)  # type: ignore[union-attr]
        done = [released.number]
    assert sizes == [4, 4, 2]
    assert totals(store) == {"read": 10, "written": 10}


# --- The outbox --------------------------------------------------------------------------


def test_what_was_let_go_is_in_the_outbox_until_it_is_written(store: OnlineStore) -> None:
    batches = MicroBatches(live(), store, picky)
    first = batches.commit(batch_of([event(5, 1), event(6, 2)]), [poison(7)])
    second = batches.commit(batch_of([event(8, 3)]))
    assert first is not None
    assert second is not None
    held = MicroBatches(live(), store).outbox()
    assert [one.number for one in held] == [first.number, second.number]
    assert held[0] == first._replace(features=None)
    assert held[0].version == "runs/small/first"
    assert [row.offset for row in held[0].rejected] == [7, 6]
    assert batches.commit(None, (), [first.number]) is None
    assert [one.number for one in batches.outbox()] == [second.number]


def test_numbers_of_the_outbox_are_in_order_beyond_ten(store: OnlineStore) -> None:
    batches = MicroBatches(live(), store)
    numbers = [batches.commit(batch_of([event(n, n)])).number for n in range(12)]  # type: ignore[union-attr]
    assert [one.number for one in batches.outbox()] == numbers == sorted(numbers)


def test_released_through_bytes() -> None:
    rows = batch_of([event(1, 1)])
    for one in (Released(7, rows, (poison(2),), "v"), Released(8, None, (poison(3),))):
        assert Released.from_bytes(one.number, one.to_bytes()) == one


def test_an_error_in_the_graph_leaves_nothing_behind(
    store: OnlineStore, path: pathlib.Path
) -> None:
    def fails(batch: pa.RecordBatch) -> Accepted:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        MicroBatches(live(), store, fails).commit(batch_of([event(0, 5)]))
    assert read_counts(store) == {}
    assert stored_tiles(path, STEPS[0].name) == {}
    assert stored_ids(path) == 0


# --- Recipes -----------------------------------------------------------------------------


def test_a_store_of_other_aggregates_is_refused(store: OnlineStore) -> None:
    MicroBatches(live(), store)
    MicroBatches(live(STEPS[:1]), store)
    for other in (step(tile="5s"), step(by=["n"], name="k@10s"), step(known_at="arrived")):
        renamed = step(
            by=list(other.by), tile=other.tile, known_at=other.known_at, name=STEPS[0].name
        )
        with pytest.raises(RunError, match='no tiles of Aggregate "k@10s" as the recipe has it'):
            MicroBatches(live([renamed]), store)
    new = step(name="new")
    with pytest.raises(RunError, match='no tiles of Aggregate "new"'):
        MicroBatches(live([*STEPS, new]), store)


def test_aggregates_may_be_by_a_joined_column(store: OnlineStore, tmp_path: pathlib.Path) -> None:
    region = Aggregate(by=["region"], known_at="t", at="b", tile="10s", near=count(over="20s"))
    before = [DropRepeated(), Join(join(), right_file(tmp_path))]
    batches = MicroBatches(live([region], before=before), store)
    coming = [event(0, 1, "a"), event(1, 1, "b"), event(2, 1, "c"), event(3, 1, b=12)]
    released = batches.commit(batch_of(coming))
    assert released is not None
    found = {n: (row["region"], row["near"]) for n, row in by_offset(released.rows).items()}
    assert found == {0: ("north", 0), 1: ("north", 0), 2: (None, 0), 3: ("north", 3)}


assert BEGIN % TILE == 0
