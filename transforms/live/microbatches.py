"""Micro-batches: what each one changes is one transaction of the online store.

A transaction holds everything that a micro-batch does: which events were new, their tiles,
the rows that wait, those that are let go, and the counts of the ledger. So a process may die
at any moment: a message that comes again is known by its id, and what was let go but not yet
written is still in the outbox.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import Schema
from skewless.transforms.aggregate.late import LATE, late_rows
from skewless.transforms.aggregate.online import (
    FORGOTTEN,
    PROGRESS,
    SEQUENCE,
    claim_tiles,
    merge_events,
    newest_times,
    oldest_tile,
    read_windows,
)
from skewless.transforms.aggregate.tiles import TilePlan, Time, event_times, times_of
from skewless.transforms.aggregate.together import add_columns
from skewless.transforms.live.released import Accept, Released
from skewless.transforms.live.steps import LiveStep
from skewless.transforms.online.store import OnlineStore, Transaction
from skewless.transforms.rows import Outcome, Rejected, from_ipc, reject_rows, to_ipc
from skewless.transforms.shuffle import concat
from skewless.transforms.validate import validate_rows

__all__ = ["LiveRows", "MicroBatches", "last_commit", "note_end", "read_counts"]

_COUNTS = "counts"
_COMMITTED = "committed"
_WAITING = "waiting/"
_OUTBOX = "outbox/"

_DUES = "dues"

# Rows that wait for nothing are due before all times.
_AT_ONCE = -(2**62)

_MOST_ROWS = 50_000
# Rows of so much time may wait together, in microseconds.
_TOGETHER = 3_600_000_000

# Numbers are padded, so that their text sorts as they do.
_DIGITS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class LiveRows:
    """How micro-batches become rows with features of their past.

    Args:
        schema: The raw columns of an event.
        before: The steps before the aggregates.
        plans: The aggregates, all of one `at`; may be none.
        at: As of when a row is to know.
        after: The steps after the aggregates.
        last: What must hold before the graph sees a row.
        hold: How long rows wait, in microseconds of the stream's own time, for events of
            before them that come after them.
        window: Rows are let go together in windows of this length of their own time; 0 lets
            each go by itself.
        keep: How much longer than its windows need a tile is kept, in microseconds: so much
            later than the newest may an event or a row come. None keeps all.
        remember: How long the id of an event is remembered, in microseconds of event time.
    """

    schema: Schema
    before: tuple[LiveStep, ...]
    plans: tuple[TilePlan, ...]
    at: Time | None
    after: tuple[LiveStep, ...]
    last: Schema
    hold: int = 0
    window: int = 0
    keep: int | None = None
    remember: int = 86_400_000_000


class MicroBatches:
    """Commits micro-batches to a store.

    Args:
        rows: How rows are made.
        store: The store.
        accept: Says which rows the transform graph takes; by default all.

    Raises:
        RunError: If the store holds tiles of other aggregates.
    """

    def __init__(self, rows: LiveRows, store: OnlineStore, accept: Accept | None = None) -> None:
        self._rows, self._store, self._accept = rows, store, accept
        if rows.plans:
            claim_tiles(store, rows.plans)

    def commit(
        self,
        batch: pa.RecordBatch | None,
        rejected: Sequence[Rejected] = (),
        written: Sequence[int] = (),
        *,
        all_waiting: bool = False,
    ) -> Released | None:
        """Commit a micro-batch.

        Args:
            batch: Events, parsed.
            rejected: Messages that did not parse.
            written: The numbers of those let go before that have been written since.
            all_waiting: Let rows go whatever they wait for, 50,000 or so at a time: there
                will be no more events of before them.

        Returns:
            What was let go and is to be written now; it stays in the outbox until a later
            call says that it is written. None for nothing.
        """
        with self._store.transaction() as change:
            for number in written:
                change.set_note(f"{_OUTBOX}{number:0{_DIGITS}d}", None)
            made = _Commit(self._rows, change, self._accept)
            if rejected:
                made.reject(rejected)
            if batch is not None and batch.num_rows:
                made.add(batch)
            return made.release(all_waiting)

    def outbox(self) -> list[Released]:
        """Return what was let go and may not be written yet, in order."""
        notes = self._store.notes(_OUTBOX)
        return [
            Released.from_bytes(int(name.removeprefix(_OUTBOX)), data)
            for name, data in sorted(notes.items())
        ]


def last_commit(store: OnlineStore) -> float | None:
    """Return when a stream that did not end last committed, in seconds since 1970; or None."""
    told = store.notes(_COMMITTED).get(_COMMITTED)
    return None if told is None else float(told)


def note_end(store: OnlineStore) -> None:
    """Write down that a stream has ended and has nothing in work."""
    with store.transaction() as change:
        change.set_note(_COMMITTED, None)


def read_counts(store: OnlineStore) -> dict[tuple[str, str], int]:
    """Return the counts of all micro-batches by kind and step; what waits is `waiting`."""
    held = json.loads(store.notes(_COUNTS).get(_COUNTS, b"[]"))
    return {(kind, step): n for kind, step, n in held}


class _Commit:
    """One micro-batch in its transaction."""

    def __init__(self, rows: LiveRows, change: Transaction, accept: Accept | None) -> None:
        self._rows, self._change, self._accept = rows, change, accept
        held = change.notes(_COUNTS).get(_COUNTS, b"[]")
        self._counts = Counter({(kind, step): n for kind, step, n in json.loads(held)})
        self._progress: dict[str, int] = json.loads(change.notes(PROGRESS).get(PROGRESS, b"{}"))
        self._rejected: list[Rejected] = []
        self._number = int(change.notes(SEQUENCE).get(SEQUENCE, b"0")) + 1
        self._version, self._features = "", None
        self._dues: set[int] = set(json.loads(change.notes(_DUES).get(_DUES, b"[]")))
        # The time before which a plan's tiles are not there, or not whole.
        self._forgotten: dict[str, int] = json.loads(change.notes(FORGOTTEN).get(FORGOTTEN, b"{}"))
        self._until = round(time.time() * 1e6) + rows.remember

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Take messages that did not parse; one that comes again is a duplicate."""
        self._count("read", "Read", len(rejected))
        self._take_once(rejected)

    def _take_once(self, rejected: Sequence[Rejected]) -> None:
        """Take rejected rows that no `DropRepeated` has seen."""
        ids = [f"!{row.file}#{row.offset}#{row.step}".encode() for row in rejected]
        # Their event time is not known: they are remembered as if they were of now.
        new = self._change.unseen(ids, [self._until] * len(ids))
        self._count("duplicate", "Read", len(ids) - sum(new))
        self._take([row for row, one in zip(rejected, new, strict=True) if one])

    def add(self, batch: pa.RecordBatch) -> None:
        """Take events."""
        rows = self._rows
        self._count("read", "Read", batch.num_rows)
        batch, rejected, _ = validate_rows(batch, rows.schema)
        self._take_once(rejected)
        until = self._remember_until(batch)
        for step in rows.before:
            batch = self._after(step.name, step(batch, self._change, until))
        if rows.plans and batch.num_rows:
            batch = self._aggregate(batch)
        if batch.num_rows:
            self._wait(batch)

    def release(self, all_waiting: bool) -> Released | None:
        """Let rows go whose time has come, and write down what has changed."""
        due = self._due(all_waiting)
        batch = concat(due) if due else None
        if batch is not None:
            self._count("waiting", "", -batch.num_rows)
            batch = self._finish(batch)
        self._expire()
        released = None
        if batch is not None or self._rejected:
            rejected = tuple(self._rejected)
            released = Released(self._number, batch, rejected, self._version, self._features)
            name = f"{_OUTBOX}{self._number:0{_DIGITS}d}"
            self._change.set_note(name, released.to_bytes())
        self._change.set_note(SEQUENCE, str(self._number).encode())
        self._change.set_note(_COMMITTED, repr(time.time()).encode())
        counts = sorted((kind, step, n) for (kind, step), n in self._counts.items() if n)
        self._change.set_note(_COUNTS, json.dumps(counts).encode())
        self._change.set_note(_DUES, json.dumps(sorted(self._dues)).encode())
        self._change.set_note(PROGRESS, json.dumps(self._progress).encode())
        return released

    def _after(self, step: str, outcome: Outcome) -> pa.RecordBatch:
        for kind, n in outcome.counts.items():
            if kind in ("duplicate", "filtered"):
                self._count(kind, step, n)
        self._take(outcome.rejected)
        return outcome.kept

    def _take(self, rejected: Sequence[Rejected]) -> None:
        self._rejected += rejected
        for row in rejected:
            self._count("late" if row.step == LATE else "rejected", row.step, 1)

    def _count(self, kind: str, step: str, n: int) -> None:
        self._counts[kind, step] += n

    # --- Time ---------------------------------------------------------------------------

    def _now(self) -> int | None:
        """Return how far the stream has come: the least of what the aggregates have seen."""
        return min(self._progress.values()) if self._progress else None

    def _newest(self, batch: pa.RecordBatch, plans: Sequence[TilePlan]) -> dict[str, int]:
        """Return how far each aggregate has come with a batch; a time to come is as now."""
        newest = newest_times(batch, plans)
        later = {name: max(at, self._progress.get(name, at)) for name, at in newest.items()}
        return {**self._progress, **later}

    def _remember_until(self, batch: pa.RecordBatch) -> int:
        """Return until when the ids of a batch are remembered; without a time it is by now."""
        # The key columns may be those of a join that is to come; and so may the times.
        plans = [dataclasses.replace(plan, by=()) for plan in self._rows.plans]
        try:
            newest = self._newest(batch, plans)
        except RecipeError:
            return self._until
        return min(newest.values()) + self._rows.remember if newest else self._until

    def _times(self, batch: pa.RecordBatch) -> pa.Array:
        assert self._rows.at is not None
        return times_of(self._rows.at, batch, "at=")

    def _aggregate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Merge the events that are in time into their tiles."""
        batch, late = late_rows(batch, self._rows.plans)
        self._take(late)
        batch = self._in_time(batch)
        merge_events(self._change, batch, self._rows.plans)
        self._progress = self._newest(batch, self._rows.plans)
        return batch

    def _in_time(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Reject the rows whose tiles, or whose windows' tiles, have been forgotten."""
        ready = np.ones(batch.num_rows, np.bool_)
        asked = self._times(batch)
        at, asks = (
            np.asarray(column.to_numpy(zero_copy_only=False))
            for column in (asked.fill_null(0), asked.is_valid())
        )
        for plan in self._rows.plans:
            if plan.name not in self._forgotten:
                continue
            oldest = self._forgotten[plan.name]
            times, known = event_times(batch, plan)
            ready &= ~known | (times // plan.tile * plan.tile >= oldest)
            ready &= ~asks | (at // plan.tile * plan.tile - plan.longest >= oldest)
        if not ready.all():
            reason = "came after the tiles of its time had been forgotten"
            self._take(reject_rows(batch.filter(pa.array(~ready)), LATE, "", reason))
            batch = batch.filter(pa.array(ready))
        return batch

    def _oldest(self, plan: TilePlan, now: int) -> int:
        assert self._rows.keep is not None
        return oldest_tile(plan, now, self._rows.keep + self._rows.hold + self._rows.window)

    def _expire(self) -> None:
        """Forget tiles that no row can ask for any more, and ids."""
        now = self._now()
        if now is None:
            self._change.expire({}, round(time.time() * 1e6) if not self._rows.plans else 0)
            return
        if self._rows.keep is not None:
            for plan in self._rows.plans:
                oldest = self._oldest(plan, now)
                self._forgotten[plan.name] = max(oldest, self._forgotten.get(plan.name, oldest))
            self._change.set_note(FORGOTTEN, json.dumps(self._forgotten).encode())
        self._change.expire(self._forgotten, now)

    # --- Waiting ------------------------------------------------------------------------

    def _wait(self, batch: pa.RecordBatch) -> None:
        """Put rows aside until the stream has come past their time, or their window."""
        rows = self._rows
        self._count("waiting", "", batch.num_rows)
        due = np.full(batch.num_rows, _AT_ONCE)
        if rows.plans and (rows.hold or rows.window):
            # Rows that are let go at about the same time wait together.
            together = min(rows.hold, _TOGETHER)
            step = rows.window or max(together, *(plan.tile for plan in rows.plans))
            times = self._times(batch)
            at = times.fill_null(0).to_numpy(zero_copy_only=False)
            ends = (at // step + 1) * step + rows.hold
            due = np.where(times.is_valid().to_numpy(zero_copy_only=False), ends, _AT_ONCE)
        for one in np.unique(due).tolist():
            name = f"{_WAITING}{one}/{self._number}"
            self._change.set_note(name, to_ipc(batch.filter(pa.array(due == one))))
            self._dues.add(one)

    def _due(self, all_waiting: bool) -> list[pa.RecordBatch]:
        """Take back the rows whose time has come."""
        now = self._now()
        ready = sorted(
            due
            for due in self._dues
            if all_waiting or due == _AT_ONCE or (now is not None and due <= now)
        )
        if not ready:
            return []
        # All at once: a store may look at all of its notes for one.
        held: dict[int, list[tuple[str, bytes]]] = {}
        for name, data in self._change.notes(_WAITING).items():
            due = int(name.removeprefix(_WAITING).partition("/")[0])
            held.setdefault(due, []).append((name, data))
        found: list[pa.RecordBatch] = []
        rows = 0
        for due in ready:
            # At the end so many may wait that they go in several transactions.
            if all_waiting and rows >= _MOST_ROWS:
                break
            self._dues.discard(due)
            for name, data in sorted(held.get(due, ()), key=_number_of):
                self._change.set_note(name, None)
                found.append(from_ipc(data))
                rows += found[-1].num_rows
        return found

    def _finish(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        """Add the aggregates, do the steps after them, and ask the graph."""
        rows = self._rows
        if rows.plans:
            columns = read_windows(self._change, batch, self._times(batch), rows.plans)
            batch = add_columns(batch, rows.plans, columns)
        for step in rows.after:
            batch = self._after(step.name, step(batch, self._change, self._until))
        batch = self._after("Validate", validate_rows(batch, rows.last))
        if self._accept is not None and batch.num_rows:
            batch, self._features, rejected, self._version = self._accept(batch)
            self._take(rejected)
        self._count("written", "", batch.num_rows)
        return batch if batch.num_rows else None


def _number_of(note: tuple[str, bytes]) -> int:
    return int(note[0].rpartition("/")[2])
