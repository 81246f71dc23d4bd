"""The aggregates of a model, read from an online store for those who serve it."""

from __future__ import annotations

import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from skewless.errors import RecipeError, RunError
from skewless.models.predict import read_input_schema
from skewless.models.serving.enrich import Enriched
from skewless.models.serving.requests import Code, ServingError
from skewless.schema import (
    Schema,
    arrow_schema,
    arrow_type,
    column_names,
    find_feature,
    make_feature,
    make_schema,
)
from skewless.transforms.aggregate.online import OtherTilesError, holds_tiles, read_columns
from skewless.transforms.aggregate.plans_json import AGGREGATES_FILE, plans_from_json
from skewless.transforms.aggregate.tiles import TilePlan
from skewless.transforms.online.open import open_store
from skewless.transforms.online.store import OnlineStore, Wanted

__all__ = ["StoreEnrichment"]

_log = logging.getLogger(__name__)

# A store that did not answer is left alone for so many seconds: requests would wait for it
# one after the other. It is also what clients are told to wait.
_PAUSE = 1.0
# So often, in seconds, a store is asked whose tiles it holds: it may be another one by now.
_CHECK = 5.0


def _now() -> int:
    return time.time_ns() // 1000


class StoreEnrichment:
    """Reads the aggregates that a model needs from an online store, as of now: an `Enrich`.

    It needs nothing but the model's folder and the store's address. A store that is away,
    now or when this is made, is asked again after a second.

    Args:
        version: The folder of a version of the model.
        store: The address of the store that a stream or a backfill of the model's recipe
            writes to; None where there is none.
        timeout: For how many seconds to wait for the store.
        clock: Tells the time, in microseconds since 1970.

    Attributes:
        columns: For each `Aggregate`, by its name, the columns that the model needs.
        keys: The key columns, none of them required.

    Raises:
        RecipeError: If the folder says of no aggregates, or the address is none.
        RunError: If the store holds tiles of other aggregates.
    """

    def __init__(
        self,
        version: str | os.PathLike[str],
        store: str | None,
        *,
        timeout: float = 0.25,
        clock: Callable[[], int] = _now,
    ) -> None:
        if not timeout > 0:
            raise RecipeError(f"StoreEnrichment(timeout={timeout!r}): expected more than 0 seconds")
        plans, schema = _read_plans(pathlib.Path(version))
        inputs = set(column_names(read_input_schema(str(version))))
        names = {p.name: tuple(c.name for c in p.columns if c.name in inputs) for p in plans}
        self.columns: Mapping[str, tuple[str, ...]] = {n: some for n, some in names.items() if some}
        self._plans = {p.name: p.select(names[p.name]) for p in plans if names[p.name]}
        self.keys = _optional({k: None for p in self._plans.values() for k in p.by}, schema)
        self._events = arrow_schema(schema)
        self._clock = clock
        self._link = _Link(store, list(self._plans.values()), timeout)
        self._link.greet()

    def __call__(self, keys: pa.RecordBatch, wanted: Collection[str]) -> Enriched:
        """Return the columns of aggregates for rows of keys; a null key has empty windows.

        Args:
            keys: The key columns.
            wanted: The names of the aggregates.

        Raises:
            ServingError: If the store does not answer, and the recipe does not say
                `without_store="empty"`.
        """
        start = time.perf_counter()
        plans = [plan for name, plan in self._plans.items() if name in wanted]
        times = pa.array(np.full(keys.num_rows, self._clock()))
        failed = False
        try:
            columns = self._link.read(keys, times, plans, self._events)
        except RunError as error:
            strict = [plan.name for plan in plans if plan.without_store == "error"]
            if strict:
                raise self._refusal(strict[0]) from error
            columns = read_columns(_NoTiles(), keys, times, plans, self._events)
            failed = True
        return Enriched(columns, failed, time.perf_counter() - start)

    def close(self) -> None:
        """Close the connections to the store."""
        self._link.close()

    def _refusal(self, name: str) -> ServingError:
        shown = ", ".join(self.columns[name][:3])
        if self._link.address is None:
            return ServingError(
                Code.FAILED_PRECONDITION,
                f'the request leaves out {shown} of Aggregate "{name}", and this server was given '
                "no online store to read them from; send them",
            )
        return ServingError(
            Code.UNAVAILABLE,
            f'the online store does not answer, and the request leaves out {shown} of Aggregate "'
            f'{name}"; send them, or try again',
            retry_after=_PAUSE,
        )


class _Link:
    """The way to a store that may be away."""

    def __init__(self, address: str | None, plans: Sequence[TilePlan], timeout: float) -> None:
        self.address = address
        self._plans = plans
        self._timeout = timeout
        self._lock = threading.Lock()
        self._store: OnlineStore | None = None
        self._check_at = self._ask_at = float("-inf")
        self._away = False

    def greet(self) -> None:
        """Open the store, if it is there.

        Raises:
            RunError: If it is there and holds tiles of other aggregates.
        """
        if self.address is None or not self._plans:
            return
        try:
            self._opened()
        except OtherTilesError:
            self.close()
            raise
        except RunError as error:
            self._failed(error)

    def read(
        self, keys: pa.RecordBatch, times: pa.Array, plans: Sequence[TilePlan], events: pa.Schema
    ) -> pa.RecordBatch:
        """Return what `read_columns` does.

        Raises:
            RunError: If the store does not answer, has not lately, or holds nothing of use.
        """
        try:
            columns = read_columns(self._opened(), keys, times, plans, events)
        except RunError as error:
            self._failed(error)
            raise
        if self._away:
            self._away = False
            _log.warning("the online store answers again")
        return columns

    def close(self) -> None:
        """Close the store."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def _opened(self) -> OnlineStore:
        if self.address is None:
            raise RunError("there is no online store")
        with self._lock:
            now = time.monotonic()
            if now < self._ask_at:
                raise _LeftAloneError("the online store did not answer a moment ago")
            if self._store is None:
                self._store = open_store(self.address, self._timeout)
            if now >= self._check_at:
                if not holds_tiles(self._store, self._plans):
                    raise RunError(
                        "the online store holds no tiles at all; start the stream, or backfill it"
                    )
                self._check_at = now + _CHECK
            return self._store

    def _failed(self, error: RunError) -> None:
        if self.address is None or isinstance(error, _LeftAloneError):
            return
        self._check_at, self._ask_at = float("-inf"), time.monotonic() + _PAUSE
        if not self._away:
            self._away = True
            _log.warning("aggregates cannot be read: %s", error)


class _LeftAloneError(RunError):
    """The store did not answer a moment ago, and was not asked again."""


class _NoTiles:
    """A store that holds nothing."""

    def read(self, wanted: Sequence[Wanted]) -> list[list[tuple[int, bytes]]]:
        """Return no tiles."""
        return [[] for _ in wanted]

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """Return no notes."""
        del prefix
        return {}


def _read_plans(version: pathlib.Path) -> tuple[list[TilePlan], Schema]:
    path = version / "assets.extra" / AGGREGATES_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); give a version that was exported of a "
            "recipe with Aggregates"
        ) from None
    return plans_from_json(text, str(path))


def _optional(names: Collection[str], schema: Schema) -> Schema:
    """Return the schema of key columns; a request may leave out any."""
    made = []
    for name in names:
        feature = find_feature(schema, name)
        if feature is None:
            raise RecipeError(f'{AGGREGATES_FILE}: the schema has no key column "{name}"')
        key = make_feature(name, arrow_type(feature), required=False)
        if feature.annotation.tag:
            key.annotation.CopyFrom(feature.annotation)
        made.append(key)
    return make_schema(made)
