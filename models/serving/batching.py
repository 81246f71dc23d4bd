"""Requests that come together are answered together."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from skewless.errors import RecipeError
from skewless.models.serving.requests import Code, Deadline, ServingError

__all__ = ["Batcher", "Batching", "Closed"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        max_rows: Rows in one call of the model; a request with more is a call by itself.
        max_delay: How long a call waits for as many requests as came for the last one, in
            seconds. The first request after a pause does not wait.
        queue_rows: How many rows may wait; a request beyond is refused.
    """

    max_rows: int = 1024
    max_delay: float = 0.001
    queue_rows: int = 8192

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise RecipeError(f"max_rows={self.max_rows}; expected at least 1")
        if not 0 <= self.max_delay <= 1:
            raise RecipeError(f"max_delay={self.max_delay}; expected from 0 to 1 second")
        if self.queue_rows < self.max_rows:
            raise RecipeError(
                f"queue_rows={self.queue_rows}; expected at least max_rows={self.max_rows}"
            )


class Closed(Exception):  # noqa: N818 - no error of anybody's
    """The batcher takes nothing any more."""


@dataclasses.dataclass(eq=False, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    rows: int
    deadline: Deadline
    # None where the thread that asks runs the model itself.
    future: concurrent.futures.Future[Result]


class Batcher(Generic[Item, Result]):
    """Puts what many threads submit into batches, one running at a time.

    A thread that finds nobody waiting or running calls the model itself, so that a single
    client pays for no other thread. What comes meanwhile waits, and is the next batch.

    Args:
        run: Returns a result, or an exception, for each item of a batch.
        batching: How.
        queued: Is told how many wait, when that changes.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | Exception]],
        batching: Batching,
        queued: Callable[[int], None] | None = None,
    ) -> None:
        self._run = run
        self._batching = batching
        self._queued = queued
        self._waiting: collections.deque[_Waiting[Item, Result]] = collections.deque()
        self._rows = 0
        self._running = False
        self._gathering = False
        self._closed = False
        self._last = 1
        self._seconds_a_row = 0.001
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def call(self, item: Item, rows: int, deadline: Deadline = None) -> Result:
        """Return an item's result, when it is there.

        Raises:
            ServingError: If too much waits, or the deadline passes.
            Closed: If the batcher was closed.
        """
        with self._changed:
            alone = not self._running and not self._waiting and not self._closed
            if alone:
                self._running = True
        if not alone:
            future = self.submit(item, rows, deadline)
            return _result(future, deadline)
        entry = _Waiting[Item, Result](item, rows, deadline, concurrent.futures.Future())
        try:
            self._run_batch([entry])
        finally:
            with self._changed:
                self._running = False
                if self._waiting or self._closed:
                    self._changed.notify_all()
        return entry.future.result()

    def submit(
        self, item: Item, rows: int, deadline: Deadline = None
    ) -> concurrent.futures.Future[Result]:
        """Return the future of an item's result.

        Raises:
            ServingError: If too much waits.
            Closed: If the batcher was closed.
        """
        entry = _Waiting[Item, Result](item, rows, deadline, concurrent.futures.Future())
        with self._changed:
            if self._closed:
                raise Closed
            if self._waiting and self._rows + rows > self._batching.queue_rows:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{len(self._waiting)} requests wait already; try again later",
                    retry_after=max(1.0, self._rows * self._seconds_a_row),
                )
            self._waiting.append(entry)
            self._rows += rows
            if not self._running or self._gathering:
                self._changed.notify_all()
            count = len(self._waiting)
        self._tell(count)
        return entry.future

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing more, and finish what waits.

        Returns:
            Whether all was finished in time.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._running or not (self._waiting or self._closed):
                    self._changed.wait()
                if not self._waiting:
                    return
                self._running = True
                self._wait_for_others()
                batch = self._take()
            self._tell(len(self._waiting))
            try:
                self._run_batch(batch)
            finally:
                with self._changed:
                    self._running = False
            # Neither the batch nor its answers may outlive it.
            del batch

    def _wait_for_others(self) -> None:
        """Wait until as many have come as for the last batch, or for `max_delay`."""
        until = time.monotonic() + self._batching.max_delay
        self._gathering = True
        while (
            len(self._waiting) < self._last
            and self._rows < self._batching.max_rows
            and not self._closed
        ):
            left = until - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        self._gathering = False

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch = [self._waiting.popleft()]
        rows = batch[0].rows
        while self._waiting and rows + self._waiting[0].rows <= self._batching.max_rows:
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._rows -= rows
        self._last = len(batch)
        return batch

    def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        now = time.monotonic()
        wanted = [one for one in batch if one.future.set_running_or_notify_cancel()]
        for one in wanted:
            if one.deadline is not None and one.deadline <= now:
                one.future.set_exception(_too_late())
        wanted = [one for one in wanted if not one.future.done()]
        if not wanted:
            return
        results: Sequence[Result | Exception]
        try:
            results = self._run([one.item for one in wanted])
        except Exception as error:
            results = [error] * len(wanted)
        seconds = time.monotonic() - now
        self._seconds_a_row += 0.1 * (seconds / sum(o.rows for o in wanted) - self._seconds_a_row)
        for one, result in zip(wanted, results, strict=True):
            if isinstance(result, Exception):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)

    def _tell(self, count: int) -> None:
        if self._queued is not None:
            self._queued(count)


def _result(future: concurrent.futures.Future[Result], deadline: Deadline) -> Result:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return future.result(left)
    except TimeoutError:
        future.cancel()
        raise _too_late() from None


def _too_late() -> ServingError:
    return ServingError(Code.DEADLINE_EXCEEDED, "the deadline passed before there was an answer")
