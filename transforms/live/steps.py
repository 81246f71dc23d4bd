"""The steps of a recipe over a micro-batch: the same pure functions, fed from a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from skewless.errors import RecipeError
from skewless.storage import local_copy, path_of
from skewless.transforms.aggregate.tiles import entities
from skewless.transforms.deduplicate import Deduplicate
from skewless.transforms.filter import Require, Where, keep_complete, keep_where
from skewless.transforms.join import JoinAsOf
from skewless.transforms.join_rows import in_order
from skewless.transforms.online.store import Transaction
from skewless.transforms.rows import FILE, OFFSET, Outcome
from skewless.transforms.shuffle import check_columns, key_values

__all__ = ["DropRepeated", "Join", "Keep", "LiveStep", "live_step", "message_ids"]


class LiveStep(Protocol):
    """A step over the rows of one micro-batch. Picklable."""

    @property
    def name(self) -> str:
        """What the ledger calls it: as the recipe's own step."""

    def __call__(self, batch: pa.RecordBatch, store: Transaction, until: int) -> Outcome:
        """Do the step.

        Args:
            batch: The rows.
            store: The transaction of the micro-batch.
            until: The event time until which what is remembered is remembered.
        """


@dataclasses.dataclass(frozen=True)
class Keep:
    """`Require` or `Where`."""

    step: Any

    @property
    def name(self) -> str:
        """`Require` or `Where`."""
        return type(self.step).__name__

    def __call__(self, batch: pa.RecordBatch, store: Transaction, until: int) -> Outcome:
        """Keep the rows that are wanted."""
        del store, until
        if isinstance(self.step, Require):
            return keep_complete(batch, self.step.columns)
        return keep_where(batch, self.step.expression)


@dataclasses.dataclass(frozen=True)
class DropRepeated:
    """`Deduplicate`: the first row of a key is kept, until the key is forgotten.

    Without key columns a row's key is where it came from: its file, topic or subscription
    and its offset there.
    """

    by: tuple[str, ...] = ()

    name: ClassVar[str] = "Deduplicate"

    def __call__(self, batch: pa.RecordBatch, store: Transaction, until: int) -> Outcome:
        """Keep the rows whose keys are new."""
        ids = _row_keys(batch, self.by) if self.by else message_ids(batch)
        new = store.unseen(ids, [until] * len(ids))
        kept = batch.filter(pa.array(new, pa.bool_()))
        return Outcome(kept, [], {"duplicate": batch.num_rows - kept.num_rows})


def _row_keys(batch: pa.RecordBatch, by: Sequence[str]) -> list[bytes]:
    check_columns(by, batch.schema.names, "Deduplicate")
    # As a backfill writes them.
    return entities([key_values(batch.column(name)) for name in by], batch.num_rows)


def message_ids(batch: pa.RecordBatch) -> list[bytes]:
    """Return where each row came from, as bytes.

    Raises:
        RecipeError: If the source does not say.
    """
    offsets = batch.column(OFFSET).to_pylist()
    if any(offset is None or offset < 0 for offset in offsets):
        raise RecipeError(
            "the messages of this source have no number by which one that comes again is "
            "known; give the recipe Deduplicate(by=[...])"
        )
    files = batch.column(FILE).to_pylist()
    return [f"{file}#{offset}".encode() for file, offset in zip(files, offsets, strict=True)]


@dataclasses.dataclass(frozen=True)
class Join:
    """`JoinAsOf`, the right rows being at hand.

    Args:
        step: The step.
        right: A file of Arrow IPC with the right rows that can be joined.
    """

    step: JoinAsOf
    right: str

    name: ClassVar[str] = "JoinAsOf"

    def __call__(self, batch: pa.RecordBatch, store: Transaction, until: int) -> Outcome:
        """Add the columns of the latest right row."""
        del store, until
        return Outcome(self.step.join_batch(batch, _right_rows(self.right)), [], {})


_held: dict[str, pa.RecordBatch | None] = {}


def _right_rows(path: str) -> pa.RecordBatch | None:
    if path not in _held:
        with (
            local_copy(path_of(path)) as here,
            pa.memory_map(str(here)) as file,
            pa.ipc.open_file(file) as reader,
        ):
            _held[path] = in_order(reader.read_all().to_batches())
    return _held[path]


def live_step(step: Any, right: str | None = None) -> LiveStep:
    """Return a recipe's step as one over micro-batches.

    Args:
        step: `Require`, `Where`, `Deduplicate` or `JoinAsOf`.
        right: Where the right rows of a join are.

    Raises:
        RecipeError: If the step cannot be done so.
    """
    if isinstance(step, Require | Where):
        return Keep(step)
    if isinstance(step, JoinAsOf) and right is not None:
        return Join(step, right)
    if isinstance(step, Deduplicate):
        if step.keep != "first":
            raise RecipeError(
                'Deduplicate(keep="last"): in a stream the last row is never known; '
                'give the recipe keep="first"'
            )
        return DropRepeated(tuple(step.by))
    raise RecipeError(f"{type(step).__name__}: there is no such step over a stream")
