"""A model of several versions that answers requests, whatever protocol they came by."""

from __future__ import annotations

import asyncio
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from skewless.models.inputs import parse_failure
from skewless.models.serving.batching import Batcher, Batching, Closed
from skewless.models.serving.enrich import Enrich
from skewless.models.serving.json_rows import RowReader
from skewless.models.serving.lacking import Lacking, Lookup, example_rows
from skewless.models.serving.observer import Observer
from skewless.models.serving.packing import Packed, concat
from skewless.models.serving.requests import (
    ROW_SIGNATURES,
    Answer,
    Arrays,
    Code,
    Request,
    ServingError,
)
from skewless.models.serving.servable import EXAMPLES, Servable, examples_of, split_outputs
from skewless.models.serving.versions import Versions, VersionStatus, Watching
from skewless.models.serving.warm_up import warm_up

__all__ = ["ServedModel"]

_log = logging.getLogger(__name__)
_TRIES = 5


class _Asked(NamedTuple):
    """A request in a batch: packed rows and what they lack, or serialized Examples."""

    packed: Packed | None
    examples: Sequence[bytes]
    rows: int
    lacking: Lacking | None = None


class _Version:
    """A loaded version, and the batches of each of its signatures."""

    def __init__(
        self, model: ServedModel, path: pathlib.Path, batching: Batching, enrich: Enrich | None
    ) -> None:
        self.servable = Servable(str(path))
        self.lookup = None if enrich is None else Lookup(enrich, self.servable.layout)
        self._reader = self.servable.reader
        if self.lookup is not None:
            self._reader = RowReader(self.servable.schema, self.lookup.columns)
        self.servable.version = self.servable.version or 1
        warm_up(self.servable)
        self._model = model
        self.batchers: Mapping[str, Batcher[_Asked, Answer]] = {
            signature: Batcher(functools.partial(self._run, signature), batching, model.queued)
            for signature in (EXAMPLES, *ROW_SIGNATURES)
        }

    def close(self) -> None:
        for batcher in self.batchers.values():
            batcher.close()
        if self.lookup is not None:
            self.lookup.close()

    def ask(self, request: Request) -> tuple[str, _Asked]:
        """Return the signature that a request asks, and with what.

        Raises:
            ServingError: If it is not as the model has it.
        """
        signature = _signature(request)
        if request.rows is not None:
            return signature, self._rows(request.rows)
        arrays = request.arrays
        if arrays is None:
            raise ServingError(Code.INVALID_ARGUMENT, "the request has no inputs")
        if signature == EXAMPLES:
            examples = examples_of(arrays)
            if self.lookup is None:
                return signature, _Asked(None, examples, len(examples))
            return signature, self._rows(example_rows(examples, self.servable.layout))
        if self.lookup is None:
            packed = self.servable.pack(arrays)
            return signature, _Asked(packed, (), packed.rows)
        columns = frozenset(self.servable.layout.arguments)
        keys = self.lookup.key_columns - columns
        packed = self.servable.pack(
            {n: a for n, a in arrays.items() if n not in keys}, self.lookup.columns
        )
        return signature, _Asked(
            packed, (), packed.rows, self.lookup.of_arrays(arrays, packed.rows)
        )

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> _Asked:
        lacking = None if self.lookup is None else self.lookup.of_rows(rows)
        return _Asked(self._reader.read(rows), (), len(rows), lacking)

    def _run(self, signature: str, asked: list[_Asked]) -> Sequence[Answer | Exception]:
        start = time.perf_counter()
        rows = [one.rows for one in asked]
        try:
            answers = self._together(signature, asked, rows)
        except ServingError as error:
            # The store does not answer: only those that need it suffer.
            return self._without_store(signature, asked, error)
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            # TensorFlow quotes what it cannot parse, and Python cannot always read the quote.
            if len(asked) > 1:
                # One of them is at fault; the others shall not suffer for it.
                return [self._run(signature, [one])[0] for one in asked]
            return [_refusal(error)]
        self._model.batched(len(asked), sum(rows), time.perf_counter() - start)
        return answers

    def _without_store(
        self, signature: str, asked: list[_Asked], error: ServingError
    ) -> Sequence[Answer | Exception]:
        able = [one for one in asked if one.lacking is None]
        answers = iter(self._run(signature, able) if able else ())
        return [next(answers) if one.lacking is None else error for one in asked]

    def _together(
        self, signature: str, asked: Sequence[_Asked], rows: Sequence[int]
    ) -> list[Answer]:
        servable, parts = self.servable, [one.packed for one in asked if one.packed is not None]
        feds: Sequence[Arrays | None] = [None] * len(rows)
        if parts:
            whole = concat(parts, servable.layout)
            lacking = [one.lacking for one in asked]
            if self.lookup is not None and any(lacking):
                self._look_up(whole, lacking, rows)
            outputs = servable.call_rows(
                ROW_SIGNATURES[0] if signature == EXAMPLES else signature, whole
            )
            feds = split_outputs(servable.layout.unpack(whole), rows)
        else:
            outputs = servable.call_examples([e for one in asked for e in one.examples])
        return [
            Answer(one, n, servable.version, signature, fed)
            for one, n, fed in zip(split_outputs(outputs, rows), rows, feds, strict=True)
        ]

    def _look_up(
        self, whole: Packed, lacking: Sequence[Lacking | None], rows: Sequence[int]
    ) -> None:
        start, failed = time.perf_counter(), True
        try:
            assert self.lookup is not None
            failed = self.lookup.fill(whole, lacking, rows).failed
        finally:
            self._model.asked_store(sum(rows), time.perf_counter() - start, failed)


class ServedModel:
    """Answers requests for one model.

    Args:
        folder: A folder of versions, or a version.
        name: What it is called; None for the name it was exported with.
        batching: How requests are put together.
        watching: Which versions are served.
        observers: Who is told what happens.
        enrich: Returns what reads the windowed features of a version from a store, given its
            directory; None where it has none.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        name: str | None = None,
        batching: Batching | None = None,
        watching: Watching | None = None,
        observers: Sequence[Observer] = (),
        enrich: Callable[[pathlib.Path], Enrich | None] | None = None,
    ) -> None:
        self._enrich = enrich
        self._batching = batching or Batching()
        self._observers = tuple(observers)
        self._draining = self._closing = False
        self._versions = Versions(folder, self._load, watching or Watching(), self._loaded)
        self.name = name or ""

    def start(self) -> None:
        """Load the versions that are there, and watch for others.

        Raises:
            RecipeError: If there is none to serve.
        """
        self._versions.start()
        self.name = self.name or self.servable().name

    def drain(self) -> None:
        """Be ready for nothing new, as balancers see it; what comes is still answered."""
        self._draining = True

    def close(self) -> None:
        """Answer what was taken, and let go of the model."""
        self._closing = True
        self._versions.close()

    @property
    def ready(self) -> bool:
        """Whether a version is there, and more is taken."""
        return not (self._draining or self._closing) and any(
            status.state == "AVAILABLE" for status in self._versions.statuses()
        )

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request.

        Raises:
            ServingError: If it is refused.
        """
        start = time.perf_counter()
        try:
            answer: Answer = self._retried(request, _call)
        except ServingError as error:
            self._answered(request, None, error.code, start)
            raise
        self._answered(request, answer, None, start)
        return answer

    async def answer_async(self, request: Request) -> Answer:
        """Return the answer to a request, for an event loop.

        Raises:
            ServingError: If it is refused.
        """
        start = time.perf_counter()
        try:
            future = asyncio.wrap_future(self._retried(request, _submit))
            left = None
            if request.deadline is not None:
                left = max(0.0, request.deadline - time.monotonic())
            answer: Answer = await asyncio.wait_for(future, left)
        except TimeoutError:
            self._answered(request, None, Code.DEADLINE_EXCEEDED, start)
            raise ServingError(
                Code.DEADLINE_EXCEEDED, "the deadline passed before there was an answer"
            ) from None
        except ServingError as error:
            self._answered(request, None, error.code, start)
            raise
        self._answered(request, answer, None, start)
        return answer

    def servable(self, version: int | None = None, label: str | None = None) -> Servable:
        """Return the version that would answer.

        Raises:
            ServingError: If it is not served.
        """
        return self._version(version, label).servable

    def status(self, version: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Return the states of all versions, or of one.

        Raises:
            ServingError: If there is no such version or label.
        """
        found = self._versions.statuses()
        if label is not None:
            version = self.servable(label=label).version
        if version is None:
            return found
        one = [status for status in found if status.version == version]
        if not one:
            raise ServingError(Code.NOT_FOUND, f"version {version} is not known")
        return one

    def set_labels(self, labels: Mapping[str, int]) -> None:
        """Let labels stand for versions.

        Raises:
            ServingError: If a version is not served.
        """
        self._versions.set_labels(labels)

    def queued(self, requests: int) -> None:
        """Tell how many requests wait."""
        for observer in self._observers:
            observer.queued(requests)

    def batched(self, requests: int, rows: int, seconds: float) -> None:
        """Tell of a call of the model."""
        for observer in self._observers:
            observer.batched(requests, rows, seconds)

    def asked_store(self, rows: int, seconds: float, failed: bool) -> None:
        """Tell of a read of the online store."""
        for observer in self._observers:
            observer.asked_store(rows, seconds, failed)

    def _load(self, path: pathlib.Path) -> _Version:
        return _Version(self, path, self._batching, self._enrich(path) if self._enrich else None)

    def _loaded(self, states: Mapping[int, str]) -> None:
        for observer in self._observers:
            observer.loaded(states)

    def _version(self, version: int | None, label: str | None) -> _Version:
        found = self._versions.get(version, label)
        assert isinstance(found, _Version)
        return found

    def _retried(self, request: Request, ask: Callable[..., Any]) -> Any:
        if self._closing:
            raise ServingError(Code.UNAVAILABLE, "the server is stopping", retry_after=1.0)
        for _ in range(_TRIES):
            version = self._version(request.version, request.label)
            signature, asked = version.ask(request)
            if not asked.rows:
                raise ServingError(
                    Code.INVALID_ARGUMENT, "the request has no rows; expected at least one"
                )
            try:
                return ask(version.batchers[signature], asked, asked.rows, request.deadline)
            except Closed:
                continue  # another version has just taken its place
        raise ServingError(Code.UNAVAILABLE, "the version is being unloaded", retry_after=1.0)

    def _answered(
        self, request: Request, answer: Answer | None, code: Code | None, start: float
    ) -> None:
        seconds = time.perf_counter() - start
        for observer in self._observers:
            observer.answered(request, answer, code, seconds)


def _call(batcher: Batcher[_Asked, Answer], *arguments: Any) -> Answer:
    return batcher.call(*arguments)


def _submit(batcher: Batcher[_Asked, Answer], *arguments: Any) -> Any:
    return batcher.submit(*arguments)


def _signature(request: Request) -> str:
    """Return the signature that is asked."""
    default = EXAMPLES if request.rows is None else ROW_SIGNATURES[0]
    signature = request.signature or default
    if signature not in (EXAMPLES, *ROW_SIGNATURES):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f'there is no signature "{signature[:80]}"; the signatures are '
            f"{', '.join((EXAMPLES, *ROW_SIGNATURES))}",
        )
    if request.rows is not None and signature == EXAMPLES:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f'signature "{EXAMPLES}" takes serialized Examples; ask "{ROW_SIGNATURES[0]}" '
            "about raw rows",
        )
    return signature


def _refusal(error: tf.errors.InvalidArgumentError | UnicodeDecodeError) -> ServingError:
    quoted = isinstance(error, UnicodeDecodeError)
    line = "an input is no serialized tf.Example" if quoted else parse_failure(error)
    return ServingError(Code.INVALID_ARGUMENT, f"the model cannot take the inputs: {line[:300]}")
