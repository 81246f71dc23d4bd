"""The proof of parity for streams: the same events one way and another, bit by bit."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skewless import progress
from skewless.errors import RecipeError, RunError
from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.batch import typed_recipe
from skewless.pipeline.execution import Execution
from skewless.pipeline.live import live_rows
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.rereading import read_rows
from skewless.pipeline.verifying import Comparison, Difference
from skewless.transforms.aggregate.late import late_rows
from skewless.transforms.aggregate.online import differing_tiles
from skewless.transforms.aggregate.tiles import event_times, merge_tiles, tile_events, times_of
from skewless.transforms.apply import load_transform
from skewless.transforms.live.microbatches import LiveRows, MicroBatches
from skewless.transforms.online.open import open_store
from skewless.transforms.online.store import Reader
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.parquet import WriteParquet
from skewless.transforms.validate import validate_rows

__all__ = ["verify_stream"]

_DISORDER = 30 * 60 * 1_000_000
_HOLD = "35m"
_BATCH = 1_000
_ONE_BY_ONE = 2_000
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class _Way:
    """A way in which the same events come."""

    name: str
    batch: int
    shuffled: bool = False
    first: int | None = None
    restarts: bool = False


_WAYS = (
    _Way("in order, 1,000 at once", _BATCH),
    _Way("shuffled, 1% twice", _BATCH, shuffled=True, restarts=True),
    _Way("in order, one by one", 1, first=_ONE_BY_ONE),
)


def verify_stream(
    paths: RunPaths, recipe: Recipe, execution: Execution, limit: int | None = None
) -> list[Comparison]:
    """Stream a run's events in several ways and compare rows, features and tiles with the run's.

    Args:
        paths: A run.
        recipe: The run's recipe, with at least one `Aggregate`.
        execution: Where its source is read.
        limit: Stream no more than so many events, the earliest ones.

    Returns:
        For each way one comparison of the rows' columns and features, and one of the tiles.

    Raises:
        RecipeError: If the recipe has no `Aggregate`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        live = live_rows(recipe, paths.root, folder, execution, hold=_HOLD, keep=None)
        if not live.plans:
            raise RecipeError("verify --stream: the recipe has no Aggregate; leave --stream out")
        events = _events(typed_recipe(recipe, paths)[0], folder / "events", execution, live)
        total = len(events)
        if limit is not None:
            events = events.slice(0, limit)
        written = _Written(paths)
        found: list[Comparison] = []
        for number, way in enumerate(_WAYS):
            found += _compare(way, live, events, total, written, str(folder / f"store{number}.db"))
        return found


@dataclasses.dataclass(eq=False)
class _ReadEvents(beam.PTransform):  # type: ignore[misc]
    source: Any
    directory: str

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        return (begin | "Read" >> self.source).rows | WriteParquet(self.directory)


def _events(recipe: Recipe, folder: pathlib.Path, execution: Execution, live: LiveRows) -> pa.Table:
    """Return the source's rows in the order in which they became known."""
    folder.mkdir()
    execution.run(_ReadEvents(recipe.source, str(folder)))
    table = pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("*.parquet")))
    # Events that never become known come last: they are in no tile.
    return table.take(pa.array(np.argsort(_known_times(table, live), kind="stable")))


def _known_times(table: pa.Table, live: LiveRows) -> npt.NDArray[np.int64]:
    times, known = event_times(_whole(table), live.plans[0])
    return np.where(known, times, np.iinfo(np.int64).max - 2 * _DISORDER)


def _whole(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _ordered(way: _Way, events: pa.Table, live: LiveRows) -> pa.Table:
    """Return the events as they come on a way."""
    if not way.shuffled:
        return events
    random = np.random.default_rng(len(events))
    times = _known_times(events, live)
    twice = random.choice(len(events), len(events) // 100, replace=False)
    at = np.concatenate([np.arange(len(events)), twice])
    comes = times[at] + random.integers(0, _DISORDER, len(at))
    return events.take(pa.array(at[np.argsort(comes, kind="stable")]))


def _compare(
    way: _Way, live: LiveRows, events: pa.Table, total: int, written: _Written, address: str
) -> Iterator[Comparison]:
    events = events.slice(0, way.first)
    horizon = None if len(events) == total else int(_known_times(events, live)[-1])
    rows, features, tiles = (Comparison(f"{way.name}: {what}") for what in _COMPARED)
    store = open_store(address)
    try:
        seen = 0
        for released in _stream(way, live, _ordered(way, events, live), store):
            seen += released.num_rows
            # A row of a time that the events do not reach does not know all of its past.
            whole = _until(released, live, horizon)
            written.compare(whole, rows, features)
            progress.add("rows_compared", whole.num_rows)
        if seen != written.within(events):
            raise RunError(
                f"{way.name}: {seen:,} rows came out, but the run has {written.within(events):,}"
            )
        _compare_tiles(live, events, store, tiles)
    finally:
        store.close()
    yield from (rows, features, tiles)


def _until(batch: pa.RecordBatch, live: LiveRows, horizon: int | None) -> pa.RecordBatch:
    """Return the rows that are as of a time before the horizon."""
    if horizon is None or live.at is None:
        return batch
    times = times_of(live.at, batch, "at=")
    return batch.filter(pc.less_equal(times, horizon).fill_null(True))


_COMPARED = ("rows", "features", "tiles")


def _stream(way: _Way, live: LiveRows, events: pa.Table, store: Any) -> Iterator[pa.RecordBatch]:
    """Commit events in micro-batches; yield the rows that are let go."""
    batches = MicroBatches(live, store)
    written: list[int] = []
    for at in range(0, len(events), way.batch):
        released = batches.commit(_whole(events.slice(at, way.batch)), (), written)
        if way.restarts and (at // way.batch) % 50 == 25:
            # Another process: it knows what the store holds, and nothing else.
            batches = MicroBatches(live, store)
            released = next(iter(batches.outbox()), None)
        written = [] if released is None else [released.number]
        if released is not None and released.rows is not None:
            yield released.rows
    while (released := batches.commit(None, (), written, all_waiting=True)) is not None:
        written = [released.number]
        if released.rows is not None:
            yield released.rows


def _compare_tiles(live: LiveRows, events: pa.Table, held: Reader, found: Comparison) -> None:
    """Compare the tiles in a store with those that batch makes of the same events."""
    distinct = _accepted(live, events)
    for plan in live.plans:
        made = merge_tiles([tile_events(distinct, plan)], plan)
        differing, tiles = differing_tiles(held, made, plan)
        found.rows += tiles
        found.features = max(found.features, len(plan.partials))
        found.differing += differing
        found.bits += differing


def _accepted(live: LiveRows, events: pa.Table) -> pa.RecordBatch:
    """Return the events that the steps before the aggregates let through."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/store.db")
        try:
            with store.transaction() as change:
                batch = validate_rows(_whole(events), live.schema).kept
                for step in live.before:
                    batch = step(batch, change, 2**62).kept
                return late_rows(batch, live.plans)[0]
        finally:
            store.close()


class _Written:
    """A run's rows and features, found by where each row came from."""

    def __init__(self, paths: RunPaths) -> None:
        self._graph = str(paths.transform_graph)
        parts = [part for split in SPLITS for part in paths.row_parts(split)]
        self._rows = pa.concat_tables(read_rows(part) for part in parts).combine_chunks()
        self._at = {place: i for i, place in enumerate(_places(self._rows))}
        self._apply = load_transform(self._graph)
        self._features = pa.Table.from_batches(
            [self._apply(batch) for batch in self._rows.to_batches(max_chunksize=32_768)]
        ).combine_chunks()

    def within(self, events: pa.Table) -> int:
        """Return how many of the run's rows are among events."""
        return sum(place in self._at for place in set(_places(events)))

    def compare(self, batch: pa.RecordBatch, rows: Comparison, features: Comparison) -> None:
        """Compare streamed rows, and what the graph makes of them, with the run's."""
        places = _places(pa.Table.from_batches([batch]))
        known = [self._at.get(place, -1) for place in places]
        if -1 in known:
            raise RunError(
                f"the stream gave a row at {places[known.index(-1)]} that the run has not"
            )
        at = pa.array(known)
        held = self._rows.take(at)
        names = [name for name in held.schema.names if name not in (FILE, OFFSET)]
        _compare_columns(held.select(names), batch.select(names), places, rows)
        made = self._apply(batch)
        _compare_columns(self._features.take(at), made, places, features)


def _places(table: pa.Table) -> list[tuple[str, int]]:
    files = table.column(FILE).cast(pa.string()).to_pylist()
    return list(zip(files, table.column(OFFSET).to_pylist(), strict=True))


def _compare_columns(
    held: pa.Table, streamed: pa.RecordBatch, places: list[tuple[str, int]], found: Comparison
) -> None:
    found.rows += held.num_rows
    found.features = held.num_columns
    for name in held.schema.names:
        one = held.column(name).combine_chunks()
        two = streamed.column(name)
        # Bytes of floats, so that no bit is passed over: NaN and -0.0 are values of their own.
        if one.type != two.type:
            two = two.cast(one.type)
        if _bits(one).equals(_bits(two)):
            continue
        pairs = zip(_bits(one).to_pylist(), _bits(two).to_pylist(), strict=True)
        differing = [i for i, (a, b) in enumerate(pairs) if a != b]
        found.differing += len(differing)
        found.bits += len(differing)
        for i in differing[: _SHOWN - len(found.first)]:
            written, served = (str(column[i].as_py()) for column in (one, two))
            found.first.append(Difference(*places[i], name, written, served))


def _bits(column: pa.Array) -> pa.Array:
    """Return a column with floats as the integers that have their bits."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = _bits(column.values)
        return type(column).from_arrays(column.offsets, values, mask=column.is_null())
    if pa.types.is_float32(kind):
        return column.view(pa.int32())
    return column.view(pa.int64()) if pa.types.is_float64(kind) else column
