"""A recipe over a stream: events in, features and predictions out, without an end."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
import time
import uuid
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from skewless import progress
from skewless.errors import RecipeError, RunError
from skewless.pipeline.artifacts import latest_run
from skewless.pipeline.execution import IN_PROCESS, Execution
from skewless.pipeline.ledger import Ledger
from skewless.pipeline.live import NewestRun, graph_of, live_rows, predict_rows
from skewless.pipeline.recipe import Recipe, load_recipe
from skewless.schema import column_names
from skewless.storage import AnyPath, is_remote
from skewless.transforms.durations import Duration
from skewless.transforms.live.ended import NoteEnd
from skewless.transforms.live.microbatches import (
    LiveRows,
    MicroBatches,
    last_commit,
    note_end,
    read_counts,
)
from skewless.transforms.live.process import Outputs, WriteReleased, commit_rows
from skewless.transforms.live.released import Released
from skewless.transforms.online.open import open_store
from skewless.transforms.online.store import OnlineStore
from skewless.transforms.rows import Rows
from skewless.transforms.sinks.kafka import WriteKafka
from skewless.transforms.sinks.pubsub import WritePubSub
from skewless.transforms.sources.files import FileSource
from skewless.transforms.sources.kafka import ReadKafka
from skewless.transforms.sources.pubsub import ReadPubSub
from skewless.transforms.sources.source import Source

__all__ = ["Stream", "StreamRows", "stream", "stream_ledger", "stream_sink", "stream_source"]

_ALL_TIME = "100000d"
_RIGHT = ".right"
# A micro-batch may be of any times: to cut it by them would change the order of events, so
# that the stream's time ran ahead of events that were there.
_ANY_SECONDS = 1e12


@dataclasses.dataclass(frozen=True)
class Stream:
    """What `stream` is to do.

    Args:
        recipe: The recipe's file.
        source: Where events come from: `kafka:HOST:PORT/TOPIC`, `pubsub:SUBSCRIPTION`, or
            files of the kind that the recipe reads: a path or glob. None for the recipe's own
            `stream`.
        runs: A run, or the folder of the recipe's runs: the newest finished one is used, and
            a newer one as soon as it is there.
        store: The address of the online store.
        output: Where `examples/` and `rejected/` go.
        sink: Where messages go: `kafka:HOST:PORT/TOPIC` or `pubsub:TOPIC`; None for nowhere.
        predict: Whether predictions of the newest blessed model go with them.
        hold: How long rows wait for events of before them.
        window: The span of time of one file of examples, for whose end rows wait. None: ten
            minutes, and with a sink no time.
        keep: How much later than the newest an event may come. None: whenever.
        remember: How long ids are remembered. None: as long as tiles are kept.
        watch_seconds: Files: how often to look for new ones; None reads those there are.
        stop_when_idle: Pub/Sub: end when there was no message for so many seconds.
        execution: The runner.
    """

    recipe: pathlib.Path
    source: str | None
    runs: AnyPath
    store: str
    output: AnyPath
    sink: str | None = None
    predict: bool = False
    hold: Duration = "0s"
    window: Duration | None = None
    keep: Duration | None = "1d"
    remember: Duration | None = None
    watch_seconds: float | None = None
    stop_when_idle: float | None = None
    execution: Execution = dataclasses.field(default_factory=Execution)


def stream(wanted: Stream) -> Ledger:
    """Read events, commit them in micro-batches, and write what becomes of them.

    It ends when its source does, which Kafka never does, and Pub/Sub and files only when
    asked. It may be killed at any time: the same call goes on where it was.

    Returns:
        The ledger of all that the store has seen, checked.

    Raises:
        SkewlessError: If the recipe, the source or the store is wrong, or somebody stopped
            the job.
    """
    recipe = load_recipe(wanted.recipe)
    source = stream_source(wanted, recipe)
    sink = None if wanted.sink is None else stream_sink(wanted.sink)
    with (
        contextlib.closing(open_store(wanted.store)) as store,
        tempfile.TemporaryDirectory() as folder,
    ):
        # Workers elsewhere can read where they write, not this machine.
        elsewhere = is_remote(wanted.output) or wanted.execution.runner != IN_PROCESS
        state = wanted.output / _RIGHT if elsewhere else pathlib.Path(folder)
        return _follow(wanted, recipe, source, sink, store, state)


def _follow(
    wanted: Stream,
    recipe: Recipe,
    source: Source,
    sink: beam.PTransform | None,
    store: OnlineStore,
    state: AnyPath,
) -> Ledger:
    # Files that are there are in no order of time: all of them are read, then all rows go.
    ends = isinstance(source, FileSource) and source.watch_seconds is None
    keep, hold = (None, _ALL_TIME) if ends else (wanted.keep, wanted.hold)
    window = wanted.window
    if window is None:
        window = "10m" if wanted.sink is None else "0s"
    live = live_rows(
        recipe,
        latest_run(wanted.runs),
        state,
        wanted.execution,
        hold=hold,
        window=window,
        keep=keep,
        remember=wanted.remember,
    )
    source = dataclasses.replace(source, schema=live.schema)
    graph = graph_of(NewestRun(str(_folder_of(wanted.runs)), _columns(live), wanted.predict))
    outputs = Outputs(
        graph,
        str(wanted.output),
        live.at,
        live.window,
        predict_rows if wanted.predict else None,
        sink,
    )
    batches = MicroBatches(live, store, graph)
    _drain(batches, batches.outbox(), outputs, wanted.execution)
    _await_leases(source, store)
    _run(StreamRows(source, live, wanted.store, outputs), wanted)
    # What the last bundle has written is in the outbox still; to write it twice is no harm.
    _drain(batches, batches.outbox(), outputs, wanted.execution)
    while (released := batches.commit(None, all_waiting=True)) is not None:
        _drain(batches, [released], outputs, wanted.execution)
    note_end(store)
    return stream_ledger(read_counts(store), recipe.source.input_name)


def _run(rows: StreamRows, wanted: Stream) -> None:
    """Stream until the source ends, by the runner's word or, where it has none, by a file."""
    if wanted.execution.ends_streams:
        wanted.execution.run(rows)
        return
    ended = wanted.output / f".ended-{uuid.uuid4().hex}"
    try:
        wanted.execution.run(dataclasses.replace(rows, ended=str(ended)), until=ended.exists)
        if not ended.exists():
            # With a savepoint, for one: what waits is to wait on.
            raise RunError(
                f"{wanted.execution.runner}: the job was stopped before its source ended; start "
                "it again to go on, from the store or with --savepoint_path=PATH"
            )
    finally:
        ended.unlink(missing_ok=True)


def _folder_of(runs: AnyPath) -> AnyPath:
    """Return the run that is meant, or the folder in which newer ones will be."""
    run = latest_run(runs)
    return run if str(run) == str(runs) else run.parent


def _await_leases(source: Source, store: OnlineStore) -> None:
    """Wait for the messages that a stream which died had in work to be free again.

    They would come behind those that follow them, and rows would not know of them.
    """
    last = last_commit(store)
    if not isinstance(source, ReadPubSub) or last is None:
        return
    # It may have taken them at any time until now.
    if time.time() - last < 2 * source.lease_seconds:
        seconds = source.lease_seconds + 1
        progress.note(f"waiting {seconds} s for messages that a stream had in work")
        time.sleep(seconds)


def stream_ledger(counts: dict[tuple[str, str], int], name: str) -> Ledger:
    """Return the counts of a store as a ledger, checked."""
    ledger = Ledger.of((name, kind, step, n) for (kind, step), n in counts.items())
    ledger.check()
    return ledger


def _columns(live: LiveRows) -> tuple[str, ...]:
    """Return the columns that rows have in the end."""
    added = [column.name for plan in live.plans for column in plan.columns]
    return (*column_names(live.schema), *added, *column_names(live.last))


def _drain(
    batches: MicroBatches, released: Sequence[Released], outputs: Outputs, execution: Execution
) -> None:
    """Write what was let go and may not have been written, then say that it is."""
    if released:
        execution.here().run(_Drain(tuple(released), outputs))
        batches.commit(None, (), [one.number for one in released])


@dataclasses.dataclass(eq=False)
class _Drain(beam.PTransform):  # type: ignore[misc]
    released: tuple[Released, ...]
    outputs: Outputs

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[int]:
        return begin | "Outbox" >> beam.Create(self.released) | WriteReleased(self.outputs)


@dataclasses.dataclass(eq=False)
class StreamRows(beam.PTransform):  # type: ignore[misc]
    """Read events, commit them, and write what is let go.

    Args:
        source: Where events come from.
        live: How rows are made.
        store: The address of the online store.
        outputs: What is written, and where.
        ended: A file to write when all is done; None for none.
    """

    source: Source
    live: LiveRows
    store: str
    outputs: Outputs
    ended: str | None = None

    def expand(self, begin: beam.pvalue.PBegin) -> None:
        """Do all of it in one stage."""
        read = begin | "Read" >> self.source
        rows = read if isinstance(read, Rows) else Rows(read)
        committed = commit_rows(rows, self.live, self.store, self.outputs.graph)
        written = tuple(
            released | f"Write{number}" >> WriteReleased(self.outputs)
            for number, released in enumerate(committed)
        )
        if self.ended is not None:
            _ = written | "NoteEnd" >> NoteEnd(self.ended)


def stream_source(wanted: Stream, recipe: Recipe) -> Source:
    """Return the source that `--source` names, or the recipe's `stream`.

    Raises:
        RecipeError: If it names none.
    """
    own, text = recipe.source, wanted.source
    if text is None:
        if recipe.stream is None:
            raise RecipeError(
                "the recipe has no stream=; give it one, or say where events come from: "
                "--source kafka:HOST:PORT/TOPIC"
            )
        if isinstance(recipe.stream, ReadKafka) and recipe.stream.start != "committed":
            raise RecipeError(
                "ReadKafka: a stream goes on from where it was; give it group= and "
                'start="committed"'
            )
        if getattr(recipe.stream, "id_attribute", None) is not None:
            raise RecipeError(
                "ReadPubSub(id_attribute=...): a stream knows repeated events by Deduplicate; "
                "leave it out"
            )
        return _as_it_comes(recipe.stream, wanted)
    named: dict[str, Any] = {"event_time": own.event_time, "name": own.input_name}
    given = {**named, "batch_seconds": _ANY_SECONDS}
    if text.startswith("kafka:"):
        servers, _, topic = text.removeprefix("kafka:").rpartition("/")
        if not servers or not topic:
            raise RecipeError(f'--source "{text}": expected kafka:HOST:PORT/TOPIC')
        group = f"skewless-{recipe.name}"
        return ReadKafka(topic, bootstrap_servers=servers, group=group, start="committed", **given)
    if text.startswith("pubsub:"):
        subscription = text.removeprefix("pubsub:")
        return ReadPubSub(subscription, stop_when_idle=wanted.stop_when_idle, **given)
    if not isinstance(own, FileSource):
        raise RecipeError(
            f'--source "{text}": the recipe reads no files; expected kafka:HOST:PORT/TOPIC or '
            "pubsub:projects/PROJECT/subscriptions/SUBSCRIPTION"
        )
    return dataclasses.replace(own, pattern=text, watch_seconds=wanted.watch_seconds)


def _as_it_comes(source: Source, wanted: Stream) -> Source:
    """Return a recipe's `stream` with micro-batches of any times, ending when it is to."""
    changes: dict[str, Any] = {}
    if isinstance(source, ReadKafka | ReadPubSub):
        changes["batch_seconds"] = _ANY_SECONDS
    if isinstance(source, ReadPubSub) and wanted.stop_when_idle is not None:
        changes["stop_when_idle"] = wanted.stop_when_idle
    return dataclasses.replace(source, **changes)


def stream_sink(text: str) -> beam.PTransform:
    """Return the PTransform over messages that `--to` names.

    Raises:
        RecipeError: If it names none.
    """
    if text.startswith("kafka:"):
        servers, _, topic = text.removeprefix("kafka:").rpartition("/")
        if servers and topic:
            return WriteKafka(topic, bootstrap_servers=servers, headers=["_id", "_version"])
    if text.startswith("pubsub:"):
        return WritePubSub(text.removeprefix("pubsub:"), attributes=["_id", "_version"])
    raise RecipeError(
        f'--to "{text}": expected kafka:HOST:PORT/TOPIC or pubsub:projects/PROJECT/topics/TOPIC'
    )
