"""Aggregate: add to each row what the events before it amount to, as of its own time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.schema import Schema, arrow_schema, column_names, make_schema
from skewless.transforms.aggregate.functions import Windowed, columns_of
from skewless.transforms.aggregate.kinds import as_type
from skewless.transforms.aggregate.tiles import (
    Column,
    TilePlan,
    Tiles,
    Time,
    merge_tiles,
    tile_events,
    times_of,
    windows_at,
)
from skewless.transforms.durations import Duration, microseconds
from skewless.transforms.rows import ORIGIN, Rejected, Rows, reject_rows
from skewless.transforms.shuffle import (
    PARTITIONS,
    check_keys,
    concat,
    key_values,
    row_order,
    take_batches,
)

__all__ = ["LATE", "Aggregate", "AggregateTogether", "add_columns", "late_rows"]

LATE = "Late"

_ARGUMENTS = (
    "by",
    "known_at",
    "tile",
    "at",
    "arrived_at",
    "lateness",
    "corrected",
    "name",
    "partitions",
)


@dataclasses.dataclass(eq=False, init=False)
class Aggregate(beam.PTransform):  # type: ignore[misc]
    """Add aggregates of the events of a row's key, as they were known at the row's time.

    The rows are the events too. Events are kept in tiles: fixed windows of time, aligned to
    1970. A row at time t gets the tiles that ended at or before t: nothing of the tile in
    progress, nothing later, and nothing of an event whose time has not come. All aggregates
    are exact, so that neither the order nor the place of the work shows in any bit.

    An event counts where it has a key and a time. A row without them has empty windows:
    counts and sums are 0, everything else is missing.

    Args:
        by: The key columns; an empty list for one key of all events.
        known_at: When what an event says is known: a column of times, or an expression.
        tile: The length of a tile, as in "5m"; every window is a multiple of it.
        at: As of when a row is to know: a column or an expression; where None, the source's
            event time.
        arrived_at: When an event arrived, where that is recorded: it counts from then on.
        lateness: How long after the end of its tile an event may arrive; one that came
            later is kept aside as late. Asks for arrived_at.
        corrected: Let every event count from when it was known, whenever it arrived, and
            none be late: not what serving has seen.
        name: What its tiles are called; by default the key columns and the tile.
        partitions: In how many parts rows and tiles are brought together, default 16.
        **aggregates: Column name to aggregate: `delay=mean("dep_delay", over=["1h", "3h"])`
            adds `delay_1h` and `delay_3h`, and with `over="1h"` it adds `delay`.

    Raises:
        RecipeError: If an argument is wrong.

    >>> from skewless.transforms.aggregate.functions import mean
    >>> Aggregate(by=["origin"], known_at="departed", tile="5m",
    ...           delay=mean("dep_delay", over=["1h", "3h"])).column_names
    ('delay_1h', 'delay_3h')
    """

    by: tuple[str, ...]
    known_at: Time
    tile: Duration
    at: Time | None
    arrived_at: Time | None
    lateness: Duration | None
    corrected: bool
    name: str
    partitions: int | None
    aggregates: dict[str, Windowed]

    def __init__(
        self,
        *,
        by: Sequence[str],
        known_at: Time,
        tile: Duration,
        at: Time | None = None,
        arrived_at: Time | None = None,
        lateness: Duration | None = None,
        corrected: bool = False,
        name: str | None = None,
        partitions: int | None = None,
        **aggregates: Windowed,
    ) -> None:
        super().__init__()
        if isinstance(by, str):
            raise RecipeError(f'Aggregate: by="{by}"; expected a list of columns: by=["{by}"]')
        self.by, self.known_at, self.tile, self.at = tuple(by), known_at, tile, at
        self.arrived_at, self.lateness, self.corrected = arrived_at, lateness, corrected
        self.partitions, self.aggregates = partitions, aggregates
        self.name = name or f"{','.join(by) or 'all'}@{tile}"
        self._check()
        self.plan = self._plan()

    def _check(self) -> None:
        if not self.aggregates:
            raise RecipeError(
                f"{self._where}: names no aggregate; expected some, as in "
                'departures=count(over="1h")'
            )
        for name, windowed in self.aggregates.items():
            if not isinstance(windowed, Windowed):
                raise RecipeError(
                    f"{self._where}: {name}={windowed!r}; expected an aggregate, "
                    'as in count(over="1h")'
                )
        for argument in ("known_at", "at", "arrived_at"):
            time = getattr(self, argument)
            optional = time is None and argument != "known_at"
            if not (optional or isinstance(time, str | pc.Expression)):
                raise RecipeError(
                    f"{self._where}: {argument}={time!r}; expected a column of times, "
                    "or an expression of columns"
                )
        if self.lateness is not None and self.arrived_at is None:
            raise RecipeError(
                f"{self._where}: lateness={self.lateness!r} without arrived_at=; name the "
                "column that says when an event arrived"
            )
        if self.corrected and self.arrived_at is None:
            raise RecipeError(
                f"{self._where}: corrected=True without arrived_at= changes nothing; leave it out"
            )
        if self.partitions is not None and self.partitions < 1:
            raise RecipeError(f"{self._where}: partitions={self.partitions}; expected at least 1")

    @property
    def _where(self) -> str:
        return f'Aggregate "{self.name}"'

    def _plan(self) -> TilePlan:
        tile = microseconds(self.tile, f"{self._where}: tile")
        columns = []
        for name, windowed in self.aggregates.items():
            for column, over in columns_of(name, windowed):
                if tile == 0 or over == 0 or over % tile:
                    raise RecipeError(
                        f"{self._where}: {name} is over {over / 1e6:g} s, which is no multiple "
                        f"of tile={self.tile!r}; choose another tile or window"
                    )
                columns.append(Column(column, over, windowed))
        _check_distinct([column.name for column in columns], (), self._where)
        lateness = None
        if self.lateness is not None and not self.corrected:
            lateness = microseconds(self.lateness, f"{self._where}: lateness")
        arrived_at = None if self.corrected else self.arrived_at
        return TilePlan(
            self.name, self.by, self.known_at, arrived_at, lateness, tile, tuple(columns)
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns that it adds."""
        return tuple(column.name for column in self.plan.columns)

    def as_of(self, at: Time | None) -> Aggregate:
        """Return the step with `at` filled in."""
        given = {name: getattr(self, name) for name in _ARGUMENTS}
        return Aggregate(**{**given, "at": at, **self.aggregates})

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema` with the added columns.

        Raises:
            RecipeError: If a column does not exist, or is not of the type it needs.
        """
        check_keys(self.by, schema, f"{self._where} by=")
        if self.at is None:
            raise RecipeError(
                f"{self._where}: as of when rows are to know is not said; give at= here, "
                "or event_time= to the source"
            )
        empty = pa.RecordBatch.from_pylist([], schema=arrow_schema(schema))
        for argument in ("known_at", "at", "arrived_at"):
            time = getattr(self, argument)
            if time is not None:
                times_of(time, empty, f"{self._where} {argument}=")
        _check_distinct(self.column_names, column_names(schema), self._where)
        added = [c.windowed.feature(c.name, schema) for c in self.plan.columns]
        # Conditions must have an answer, before anything is read.
        tile_events(empty, self.plan)
        return make_schema([*schema.feature, *added], domains=schema)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Bring rows and tiles together and add the columns."""
        rows: Rows = batches | AggregateTogether((self,), self.partitions or PARTITIONS)
        return rows


def _check_distinct(names: Sequence[str], known: Iterable[str], where: str) -> None:
    taken = set(known)
    for name in names:
        if name in taken:
            raise RecipeError(f'{where}: there are two columns "{name}"; call one otherwise')
        taken.add(name)


# --- Bringing rows and tiles together ---------------------------------------------------


@dataclasses.dataclass(eq=False)
class AggregateTogether(beam.PTransform):  # type: ignore[misc]
    """Do several `Aggregate`s that have the same `at` at once: rows move once for all of them.

    Rows and tiles meet by time, in spans as long as the longest window, so that neither a
    key that most rows have nor a long history makes one part larger than others.

    Args:
        steps: The steps.
        partitions: In how many parts rows and tiles are brought together. The rows of one
            part are in memory at once.
    """

    steps: Sequence[Aggregate]
    partitions: int = PARTITIONS

    def takes(self, step: Aggregate) -> bool:
        """Say whether a step can be done together with these."""
        return str(step.at) == str(self.steps[0].at) and step.partitions in (None, self.partitions)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Make the tiles, send rows and tiles to their parts, and join them there."""
        plans = tuple(step.plan for step in self.steps)
        at = self.steps[0].at
        if at is None:
            raise RecipeError(f'Aggregate "{plans[0].name}": give at=, as of when rows are to know')
        sent = batches | "TileEvents" >> beam.ParDo(
            _TileEvents(plans, at, self.partitions)
        ).with_outputs("tiles", "rejected", main="rows")
        rows = sent.rows | "Rows" >> beam.Map(_same).with_output_types(tuple[int, pa.RecordBatch])
        tiles = sent.tiles | "Tiles" >> beam.Map(_same).with_output_types(
            tuple[int, tuple[int, pa.RecordBatch]]
        )
        joined = (
            {"rows": rows, "tiles": tiles}
            | beam.CoGroupByKey()
            | "AddColumns" >> beam.ParDo(_AddColumns(plans, at))
        )
        return Rows(joined, (sent.rejected,))


def _same(element: Any) -> Any:
    return element


class _TileEvents(beam.DoFn):  # type: ignore[misc]
    """Send each row to the part of its time, and each tile to all parts that may need it."""

    def __init__(self, plans: Sequence[TilePlan], at: Time, partitions: int) -> None:
        self._plans, self._at, self._partitions = plans, at, partitions
        self._span = max(plan.longest for plan in plans)

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        for number, plan in enumerate(self._plans):
            # As one step after the other: what is late for this one, those before have counted.
            batch, late = late_rows(batch, [plan])
            for row in late:
                yield beam.pvalue.TaggedOutput("rejected", row)
            tiles = tile_events(batch, plan)
            # Seen by rows from the tile's end on, as long as the longest window.
            seen = tiles.starts + plan.tile
            places = [self._place(seen), self._place(seen + plan.longest - 1)]
            for place in np.unique(places):
                inside = np.flatnonzero((places[0] == place) | (places[1] == place))
                part = tiles.take(inside).to_arrow()
                yield beam.pvalue.TaggedOutput("tiles", (int(place), (number, part)))
        times = times_of(self._at, batch, f'Aggregate "{self._plans[0].name}" at=')
        places = self._place(times.fill_null(0).to_numpy(zero_copy_only=False))
        for place in np.unique(places):
            yield int(place), batch.filter(pa.array(places == place))

    def _place(self, times: Any) -> Any:
        return times // self._span % self._partitions


def late_rows(
    batch: pa.RecordBatch, plans: Sequence[TilePlan]
) -> tuple[pa.RecordBatch, list[Rejected]]:
    """Return the rows that are not late, and the late ones: rejected at the step `Late`.

    A row is late for a plan with `lateness` if it arrived longer than that after the end of
    the tile in which it was known. That is a property of the row alone.
    """
    rejected: list[Rejected] = []
    for plan in plans:
        if plan.lateness is None or plan.arrived_at is None:
            continue
        where = f'Aggregate "{plan.name}"'
        known = times_of(plan.known_at, batch, f"{where} known_at=")
        arrived = times_of(plan.arrived_at, batch, f"{where} arrived_at=")
        column = plan.arrived_at if isinstance(plan.arrived_at, str) else str(plan.arrived_at)
        ends = (known.fill_null(0).to_numpy(zero_copy_only=False) // plan.tile + 1) * plan.tile
        limits = pa.array(ends + plan.lateness)
        late = pc.greater(pc.if_else(known.is_valid(), arrived, None), limits).fill_null(False)
        if pc.any(late).as_py():
            reason = (
                f"arrived more than {plan.lateness / 1e6:g} s after the end of its tile of "
                f"{plan.tile / 1e6:g} s"
            )
            rejected += reject_rows(batch.filter(late), LATE, column, reason)
            batch = batch.filter(pc.invert(late))
    return batch, rejected


@beam.typehints.with_output_types(pa.RecordBatch)
class _AddColumns(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plans: Sequence[TilePlan], at: Time) -> None:
        self._plans, self._at = plans, at

    def process(self, part: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[pa.RecordBatch]:
        batches, sent = list(part[1]["rows"]), list(part[1]["tiles"])
        if not batches:
            return
        rows = concat(batches)
        del batches
        nothing = rows.slice(0, 0)
        times = times_of(self._at, rows, "Aggregate at=")
        columns = []
        for number, plan in enumerate(self._plans):
            tables = [Tiles.from_arrow(table, plan) for of, table in sent if of == number]
            tiles = merge_tiles([tile_events(nothing, plan), *tables], plan)
            keys = [key_values(rows.column(name)) for name in plan.by]
            columns += windows_at(tiles, keys, times, plan)
        yield from take_batches(add_columns(rows, self._plans, columns), row_order(rows))


def add_columns(
    batch: pa.RecordBatch, plans: Sequence[TilePlan], columns: Sequence[pa.Array]
) -> pa.RecordBatch:
    """Return a batch with the plans' columns, before the origin columns.

    Args:
        batch: Rows.
        plans: Whose columns they are.
        columns: What `windows_at` returned for each plan, one after the other.
    """
    named = [column for plan in plans for column in plan.columns]
    typed = [
        as_type(values, column.windowed.result_type(batch.schema))
        for column, values in zip(named, columns, strict=True)
    ]
    _check_distinct([column.name for column in named], batch.schema.names, "Aggregate")
    data = [name for name in batch.schema.names if name not in ORIGIN]
    origin = [name for name in batch.schema.names if name in ORIGIN]
    return pa.RecordBatch.from_arrays(
        [*map(batch.column, data), *typed, *map(batch.column, origin)],
        names=[*data, *[column.name for column in named], *origin],
    )
