"""Aggregate: add to each row what the events before it amount to, as of its own time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import get_args

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.schema import Schema, arrow_schema, column_names, make_schema
from skewless.transforms.aggregate.functions import Windowed, columns_of
from skewless.transforms.aggregate.tiles import (
    Column,
    TilePlan,
    Time,
    WithoutStore,
    tile_events,
    times_of,
)
from skewless.transforms.aggregate.together import PARTITIONS, AggregateTogether, check_distinct
from skewless.transforms.durations import Duration, microseconds
from skewless.transforms.rows import Rows
from skewless.transforms.shuffle import check_keys

__all__ = ["Aggregate"]

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
    "without_store",
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
        partitions: In how many parts rows and tiles are brought together. By default a recipe
            takes as many as the size of its source asks for, and at least 64.
        without_store: What a row gets at serving where the online store does not answer:
            "error", the request is refused; or "empty", the aggregates of a key that nothing
            is known of. Changes nothing in training.
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
        without_store: WithoutStore = "error",
        **aggregates: Windowed,
    ) -> None:
        super().__init__()
        if isinstance(by, str):
            raise RecipeError(f'Aggregate: by="{by}"; expected a list of columns: by=["{by}"]')
        self.by, self.known_at, self.tile, self.at = tuple(by), known_at, tile, at
        self.arrived_at, self.lateness, self.corrected = arrived_at, lateness, corrected
        self.partitions, self.aggregates = partitions, aggregates
        # No field: rows that were made are not made again where it changes.
        self.without_store: WithoutStore = without_store
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
        if self.without_store not in get_args(WithoutStore):
            raise RecipeError(
                f'{self._where}: without_store={self.without_store!r}; expected "error" or "empty"'
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
        check_distinct([column.name for column in columns], (), self._where)
        lateness = None
        if self.lateness is not None and not self.corrected:
            lateness = microseconds(self.lateness, f"{self._where}: lateness")
        arrived_at = None if self.corrected else self.arrived_at
        return TilePlan(
            self.name,
            self.by,
            self.known_at,
            arrived_at,
            lateness,
            tile,
            tuple(columns),
            self.without_store,
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
        check_distinct(self.column_names, column_names(schema), self._where)
        added = [c.windowed.feature(c.name, schema) for c in self.plan.columns]
        # Conditions must have an answer, before anything is read.
        tile_events(empty, self.plan)
        return make_schema([*schema.feature, *added], domains=schema)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Bring rows and tiles together and add the columns."""
        rows: Rows = batches | AggregateTogether((self,), self.partitions or PARTITIONS)
        return rows
