"""AggregateTogether: bring rows and the events before them together, by time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from skewless.errors import RecipeError
from skewless.storage import path_of
from skewless.transforms.aggregate.kinds import as_type
from skewless.transforms.aggregate.late import is_late, late_rows
from skewless.transforms.aggregate.tiles import (
    TilePlan,
    Time,
    event_times,
    tile_events,
    times_of,
)
from skewless.transforms.aggregate.windows import windows_at
from skewless.transforms.rows import ORIGIN, Rows, from_ipc, to_ipc
from skewless.transforms.shuffle import concat, key_values, row_order

if TYPE_CHECKING:
    from skewless.transforms.aggregate.aggregate import Aggregate

__all__ = [
    "PARTITIONS",
    "AggregateTogether",
    "add_columns",
    "check_distinct",
    "typed_columns",
]

# More parts than other steps have: tiles and windows take a few times the memory of the rows.
PARTITIONS = 64
# Parts are spans of so many of the longest window: only events near the end of one are sent
# to the next as well.
_SPAN = 4
_BATCH_ROWS = 65_536
# So many plans are worked on at once.
_THREADS = 2
# A part's rows that ask; what has another number counts for so many of the first plans.
_ROWS = 0


@dataclasses.dataclass(eq=False)
class AggregateTogether(beam.PTransform):  # type: ignore[misc]
    """Do several `Aggregate`s that have the same `at` at once: rows move once for all of them.

    Rows and events meet by time, in spans of a few of the longest window, so that neither a
    key that most rows have nor a long history makes one part larger than others.

    Args:
        steps: The steps.
        partitions: In how many parts rows and events are brought together. The rows of one
            part are in memory at once.
        directory: Where rows and events wait for their part to be complete, on any Beam file
            system; the files are not deleted. Where None, the runner keeps them, and a local
            one keeps a few copies of all in memory.
    """

    steps: Sequence[Aggregate]
    partitions: int = PARTITIONS
    directory: str | None = None

    def takes(self, step: Aggregate) -> bool:
        """Say whether a step can be done together with these."""
        return str(step.at) == str(self.steps[0].at) and step.partitions in (None, self.partitions)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Send rows and events to their parts, and make tiles and columns there."""
        plans = tuple(step.plan for step in self.steps)
        at = self.steps[0].at
        if at is None:
            raise RecipeError(f'Aggregate "{plans[0].name}": give at=, as of when rows are to know')
        sent = batches | "SendEvents" >> beam.ParDo(
            _SendEvents(plans, at, self.partitions, self.directory)
        ).with_outputs("rejected", main="parts")
        add = _AddColumns(plans, at, is_written=self.directory is not None)
        joined = sent.parts | beam.GroupByKey() | "AddColumns" >> beam.ParDo(add)
        return Rows(joined, (sent.rejected,))


@beam.typehints.with_output_types(tuple[int, tuple[int, bytes]])
class _SendEvents(beam.DoFn):  # type: ignore[misc]
    """Send each row to the part of its time, and as an event to all parts that may need it."""

    def __init__(
        self, plans: Sequence[TilePlan], at: Time, partitions: int, directory: str | None
    ) -> None:
        self._plans, self._at, self._partitions = plans, at, partitions
        self._directory = directory
        self._span = _SPAN * max(plan.longest for plan in plans)

    def start_bundle(self) -> None:
        self._file: Any = None

    def finish_bundle(self) -> None:
        if self._file is not None:
            self._file.close()

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        for number, plan in enumerate(self._plans):
            # As one step after the other: what is late for this one, those before have counted.
            before = batch
            batch, late = late_rows(batch, [plan])
            for row in late:
                yield beam.pvalue.TaggedOutput("rejected", row)
            if late and number:
                events = before.filter(is_late(before, plan))
                yield from self._events(number, events, np.full(events.num_rows, -1))
        times = times_of(self._at, batch, f'Aggregate "{self._plans[0].name}" at=')
        places = self._place(times.fill_null(0).to_numpy(zero_copy_only=False))
        order = np.argsort(places, kind="stable")
        sorted_, found = batch.take(pa.array(order)), places[order]
        for place in np.unique(found):
            start, stop = np.searchsorted(found, [place, place + 1])
            yield int(place), (_ROWS, self._sent(sorted_.slice(start, stop - start)))
        yield from self._events(len(self._plans), batch, places)

    def _events(self, number: int, batch: pa.RecordBatch, places: Any) -> Iterator[Any]:
        """Send events of the first plans to where they are needed, but not to their `places`."""
        needed: dict[int, Any] = {}
        # Whose events count from the same times need them at the same places.
        alike = {
            (str(plan.known_at), str(plan.arrived_at), plan.tile, plan.longest): plan
            for plan in self._plans[:number]
        }
        for plan in alike.values():
            times, counts = event_times(batch, dataclasses.replace(plan, by=()))
            # Seen by rows from the tile's end on, as long as the longest window.
            seen = times // plan.tile * plan.tile + plan.tile
            for ends in (self._place(seen), self._place(seen + plan.longest - 1)):
                away = np.flatnonzero(counts & (ends != places))
                for place in np.unique(ends[away]).tolist():
                    chosen = needed.setdefault(place, np.zeros(batch.num_rows, np.bool_))
                    chosen[away[ends[away] == place]] = True
        events = batch.select(_event_columns(self._plans[:number], batch.schema.names))
        for place, chosen in needed.items():
            yield place, (number, self._sent(events.filter(pa.array(chosen))))

    def _sent(self, batch: pa.RecordBatch) -> bytes:
        """Return a batch, or where it was written."""
        if self._directory is None:
            return to_ipc(batch, "lz4")
        if self._file is None:
            path_of(self._directory).mkdir(parents=True, exist_ok=True)
            # A name of its own for each try: nobody reads what a failed bundle has written.
            self._path = FileSystems.join(self._directory, f"events-{uuid.uuid4().hex}.arrow")
            self._file, self._written = FileSystems.create(self._path), 0
        packed = to_ipc(batch)
        self._file.write(packed)
        start, self._written = self._written, self._written + len(packed)
        return f"{start} {len(packed)} {self._path}".encode()

    def _place(self, times: Any) -> Any:
        return times // self._span % self._partitions


def _event_columns(plans: Sequence[TilePlan], names: Sequence[str]) -> list[str]:
    """Return the columns that events are made of, and maybe others: Arrow does not tell which."""
    needed: set[str] = set()
    texts = []
    for plan in plans:
        needed |= {*plan.by, *(p.column for p in plan.partials if p.column is not None)}
        texts += [plan.known_at, plan.arrived_at, *(partial.where for partial in plan.partials)]
    expressions = "\n".join(str(text) for text in texts if text is not None)
    return [name for name in names if name in needed or name in expressions]


def _received(sent: bytes, *, is_written: bool) -> pa.RecordBatch:
    """Return the batch that was sent, or written instead."""
    if is_written:
        start, size, path = sent.decode().split(" ", 2)
        with FileSystems.open(path) as file:
            file.seek(int(start))
            sent = file.read(int(size))
    return from_ipc(sent)


@beam.typehints.with_output_types(pa.RecordBatch)
class _AddColumns(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plans: Sequence[TilePlan], at: Time, *, is_written: bool) -> None:
        self._plans, self._at, self._is_written = plans, at, is_written

    def process(self, part: tuple[int, Iterable[tuple[int, bytes]]]) -> Iterator[pa.RecordBatch]:
        sent: dict[int, list[pa.RecordBatch]] = {}
        for number, one in part[1]:
            batch = _received(one, is_written=self._is_written)
            sent.setdefault(number, []).append(batch)
        if _ROWS not in sent:
            return
        rows = concat(sent.pop(_ROWS))
        order = row_order(rows)
        if np.any(order[1:] < order[:-1]):
            rows = rows.take(pa.array(order))
        times = times_of(self._at, rows, "Aggregate at=")
        # NumPy and Arrow let go of the interpreter while they sort and search.
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            work = functools.partial(self._columns, rows, times, sent)
            found = pool.map(work, range(len(self._plans)))
            columns = [column for each in found for column in each]
        whole = add_columns(rows, self._plans, columns)
        for start in range(0, whole.num_rows, _BATCH_ROWS):
            yield whole.slice(start, _BATCH_ROWS)

    def _columns(
        self,
        rows: pa.RecordBatch,
        times: pa.Array,
        sent: Mapping[int, Sequence[pa.RecordBatch]],
        number: int,
    ) -> list[pa.Array]:
        """Return the columns of one plan, whose events are the rows and those sent for it."""
        plan = self._plans[number]
        counting = [batch for n, batches in sent.items() if n > number for batch in batches]
        tiles = tile_events(_events_of([rows, *counting], plan), plan)
        return windows_at(tiles, [key_values(rows.column(by)) for by in plan.by], times, plan)


def _events_of(batches: Sequence[pa.RecordBatch], plan: TilePlan) -> pa.RecordBatch:
    names = _event_columns([plan], batches[0].schema.names)
    return concat(batch.select(names) for batch in batches)


def add_columns(
    batch: pa.RecordBatch, plans: Sequence[TilePlan], columns: Sequence[pa.Array]
) -> pa.RecordBatch:
    """Return a batch with the plans' columns, before the origin columns.

    Args:
        batch: Rows.
        plans: Whose columns they are.
        columns: What `windows_at` returned for each plan, one after the other.
    """
    added = typed_columns(plans, columns, batch.schema)
    check_distinct(list(added), batch.schema.names, "Aggregate")
    data = [name for name in batch.schema.names if name not in ORIGIN]
    origin = [name for name in batch.schema.names if name in ORIGIN]
    return pa.RecordBatch.from_arrays(
        [*map(batch.column, data), *added.values(), *map(batch.column, origin)],
        names=[*data, *added, *origin],
    )


def typed_columns(
    plans: Sequence[TilePlan], columns: Sequence[pa.Array], events: pa.Schema
) -> dict[str, pa.Array]:
    """Return the plans' columns by name, in the types that they have among rows.

    Args:
        plans: Whose columns they are.
        columns: What `windows_at` returned for each plan, one after the other.
        events: The Arrow schema of the events.
    """
    named = [column for plan in plans for column in plan.columns]
    of = {id(column.windowed): column.windowed for column in named}
    types = {key: windowed.result_type(events) for key, windowed in of.items()}
    return {
        column.name: as_type(values, types[id(column.windowed)])
        for column, values in zip(named, columns, strict=True)
    }


def check_distinct(names: Sequence[str], known: Iterable[str], where: str) -> None:
    """Check that no name is there twice, among themselves and those known.

    Raises:
        RecipeError: If one is.
    """
    taken = set(known)
    for name in names:
        if name in taken:
            raise RecipeError(f'{where}: there are two columns "{name}"; call one otherwise')
        taken.add(name)
