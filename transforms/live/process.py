"""A stream of micro-batches in Beam: commit each one, then write what it lets go.

All of it is one stage with the source, so that a message is acknowledged after everything
that came of it has been committed and written.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.storage import path_of
from skewless.transforms.aggregate.tiles import Time
from skewless.transforms.live.microbatches import LiveRows, MicroBatches
from skewless.transforms.live.outputs import (
    Graph,
    Predictions,
    as_messages,
    write_examples,
    write_rejected,
)
from skewless.transforms.live.released import Released
from skewless.transforms.online.open import open_store
from skewless.transforms.rows import Rejected, Rows

__all__ = ["Outputs", "WriteReleased", "commit_rows"]

# An empty bundle is followed by the next one at once, which would keep a processor busy.
_IDLE_SECONDS = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """Where what is let go is written.

    Args:
        graph: The transform graph.
        directory: Where `examples/` and `rejected/` go.
        at: As of when rows know.
        window: The length of a window of `examples/`, in microseconds.
        predict: From a version and raw rows to predictions; None for none.
        send: A PTransform over batches of messages, such as `WriteKafka`; None for none.
    """

    graph: Graph
    directory: str
    at: Time | None
    window: int
    predict: Predictions | None = None
    send: beam.PTransform | None = None


def commit_rows(
    rows: Rows, live: LiveRows, store: str, accept: Graph
) -> tuple[beam.PCollection[Released], ...]:
    """Commit the micro-batches of a source, and what it rejected.

    The source's own counts are not asked: those of the transactions are.

    Args:
        rows: What the source gives.
        live: How rows are made.
        store: The address of the online store.
        accept: Says which rows the transform graph takes.

    Returns:
        What was let go, of the rows and of each collection of rejected ones.
    """
    commit = beam.ParDo(_Commit(live, store, accept))
    released = [rows.rows | "CommitRows" >> commit]
    for number, rejected in enumerate(rows.rejected):
        commit = beam.ParDo(_CommitRejected(live, store, accept))
        released.append(rejected | f"CommitRejected{number}" >> commit)
    return tuple(released)


class _Committer(beam.DoFn):  # type: ignore[misc]
    """What both have: a store, open as long as the process works for the stream."""

    def __init__(self, live: LiveRows, store: str, accept: Graph) -> None:
        self._live, self._address, self._accept = live, store, accept

    def setup(self) -> None:
        self._store = open_store(self._address)
        self._batches = MicroBatches(self._live, self._store, self._accept)
        self._emitted: list[int] = []

    def start_bundle(self) -> None:
        # The bundle before is done, and with it everything that was written for it.
        self._written, self._emitted = self._emitted, []
        self._empty = True

    def teardown(self) -> None:
        self._store.close()

    def _commit(self, batch: pa.RecordBatch | None, rejected: Any = ()) -> Iterator[Released]:
        released = self._batches.commit(batch, rejected, self._written)
        self._written = []
        if released is not None:
            self._emitted.append(released.number)
            yield released


@beam.typehints.with_output_types(Released)
class _Commit(_Committer):
    def process(self, batch: pa.RecordBatch) -> Iterator[Released]:
        self._empty = False
        yield from self._commit(batch)

    def finish_bundle(self) -> None:
        if self._empty:
            time.sleep(_IDLE_SECONDS)


@beam.typehints.with_output_types(Released)
class _CommitRejected(_Committer):
    def start_bundle(self) -> None:
        super().start_bundle()
        self._rejected: list[Rejected] = []

    def process(self, row: Rejected) -> Iterator[Released]:
        self._rejected.append(row)
        return iter(())

    def finish_bundle(self) -> Iterator[Any]:
        if self._rejected:
            for released in self._commit(None, self._rejected):
                yield beam.transforms.window.GlobalWindows.windowed_value(released)


@dataclasses.dataclass(eq=False)
class WriteReleased(beam.PTransform):  # type: ignore[misc]
    """Write what was let go: examples, rejected rows, messages.

    Args:
        outputs: Where to.

    Returns:
        A PCollection of the numbers written.
    """

    outputs: Outputs

    def expand(self, released: beam.PCollection[Released]) -> beam.PCollection[int]:
        """Write files, then send messages."""
        out = self.outputs
        written = released | "WriteFiles" >> beam.Map(
            write_files, dataclasses.replace(out, send=None)
        )
        if out.send is not None:
            messages = released | "MakeMessages" >> beam.FlatMap(
                messages_of, dataclasses.replace(out, send=None)
            ).with_output_types(pa.RecordBatch)
            _ = messages | "Send" >> out.send
        return written


def write_files(released: Released, outputs: Outputs) -> int:
    """Write the files of what was let go; return its number."""
    root = path_of(outputs.directory)
    write_rejected(released, root / "rejected")
    if released.rows is not None:
        features = outputs.graph.features(released)
        write_examples(released, features, root / "examples", outputs.at, outputs.window)
    return released.number


def messages_of(released: Released, outputs: Outputs) -> Iterator[pa.RecordBatch]:
    """Yield the messages of what was let go, if there are rows."""
    if released.rows is not None:
        predictions = (
            {} if outputs.predict is None else outputs.predict(released.version, released.rows)
        )
        yield as_messages(released, outputs.graph.features(released), predictions)
