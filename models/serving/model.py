"""A model of several versions that answers requests, whatever protocol they came by."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.models.inputs import parse_failure
from skewless.models.serving.batching import Batcher, Batching, Closed
from skewless.models.serving.observer import Observer
from skewless.models.serving.packing import Packed, concat
from skewless.models.serving.requests import (
    ROW_SIGNATURES,
    Answer,
    Code,
    Request,
    ServingError,
)
from skewless.models.serving.servable import EXAMPLES, Servable, examples_of, split_outputs
from skewless.models.serving.versions import Versions, VersionStatus, Watching
from skewless.schema import is_required

__all__ = ["ServedModel"]

_log = logging.getLogger(__name__)
_TRIES = 5


class _Asked(NamedTuple):
    """A request in a batch: packed rows, or serialized Examples."""

    packed: Packed | None
    examples: Sequence[bytes]
    rows: int


class _Version:
    """A loaded version, and the batches of each of its signatures."""

    def __init__(self, model: ServedModel, path: pathlib.Path, batching: Batching) -> None:
        self.servable = Servable(str(path))
        self.servable.version = self.servable.version or 1
        _warm_up(self.servable)
        self._model = model
        self.batchers: Mapping[str, Batcher[_Asked, Answer]] = {
            signature: Batcher(functools.partial(self._run, signature), batching, model.queued)
            for signature in (EXAMPLES, *ROW_SIGNATURES)
        }

    def close(self) -> None:
        for batcher in self.batchers.values():
            batcher.close()

    def _run(self, signature: str, asked: list[_Asked]) -> Sequence[Answer | Exception]:
        start = time.perf_counter()
        rows = [one.rows for one in asked]
        try:
            answers = self._together(signature, asked, rows)
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            # TensorFlow quotes what it cannot parse, and Python cannot always read the quote.
            if len(asked) > 1:
                # One of them is at fault; the others shall not suffer for it.
                return [self._run(signature, [one])[0] for one in asked]
            return [_refusal(error)]
        self._model.batched(len(asked), sum(rows), time.perf_counter() - start)
        return answers

    def _together(
        self, signature: str, asked: Sequence[_Asked], rows: Sequence[int]
    ) -> list[Answer]:
        servable, parts = self.servable, [one.packed for one in asked if one.packed is not None]
        fed = None
        if parts:
            whole = concat(parts, servable.layout)
            outputs = servable.call_rows(signature, whole)
            fed = servable.layout.unpack(whole)
        else:
            examples = [e for one in asked for e in one.examples]
            outputs = servable.call_examples(examples)
        feds = [None] * len(rows) if fed is None else split_outputs(fed, rows)
        return [
            Answer(one, n, servable.version, signature, given)
            for one, n, given in zip(split_outputs(outputs, rows), rows, feds, strict=True)
        ]


class ServedModel:
    """Answers requests for one model.

    Args:
        folder: A folder of versions, or a version.
        name: What it is called; None for the name it was exported with.
        batching: How requests are put together.
        watching: Which versions are served.
        observers: Who is told what happens.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        name: str | None = None,
        batching: Batching | None = None,
        watching: Watching | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._batching = batching or Batching()
        self._observers = tuple(observers)
        self._closing = False
        self._versions = Versions(folder, self._load, watching or Watching(), self._loaded)
        self.name = name or ""

    def start(self) -> None:
        """Load the versions that are there, and watch for others.

        Raises:
            RecipeError: If there is none to serve.
        """
        self._versions.start()
        self.name = self.name or self.servable().name

    def close(self) -> None:
        """Answer what was taken, and let go of the model."""
        self._closing = True
        self._versions.close()

    @property
    def ready(self) -> bool:
        """Whether a version is there, and more is taken."""
        return not self._closing and any(
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

    def _load(self, path: pathlib.Path) -> _Version:
        return _Version(self, path, self._batching)

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
            signature, asked = _asked(request, version.servable)
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


def _asked(request: Request, servable: Servable) -> tuple[str, _Asked]:
    """Return the signature that is asked, and with what."""
    default = EXAMPLES if request.rows is None else ROW_SIGNATURES[0]
    signature = request.signature or default
    if signature not in (EXAMPLES, *ROW_SIGNATURES):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f'there is no signature "{signature[:80]}"; the signatures are '
            f"{', '.join((EXAMPLES, *ROW_SIGNATURES))}",
        )
    if request.rows is not None:
        if signature == EXAMPLES:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f'signature "{EXAMPLES}" takes serialized Examples; ask "{ROW_SIGNATURES[0]}" '
                "about raw rows",
            )
        packed = servable.reader.read(request.rows)
        return signature, _some(_Asked(packed, (), packed.rows))
    if request.arrays is None:
        raise ServingError(Code.INVALID_ARGUMENT, "the request has no inputs")
    if signature == EXAMPLES:
        examples = examples_of(request.arrays)
        return signature, _some(_Asked(None, examples, len(examples)))
    packed = servable.pack(request.arrays)
    return signature, _some(_Asked(packed, (), packed.rows))


def _some(asked: _Asked) -> _Asked:
    if asked.rows == 0:
        raise ServingError(Code.INVALID_ARGUMENT, "the request has no rows; expected at least one")
    return asked


def _refusal(error: tf.errors.InvalidArgumentError | UnicodeDecodeError) -> ServingError:
    quoted = isinstance(error, UnicodeDecodeError)
    line = "an input is no serialized tf.Example" if quoted else parse_failure(error)
    return ServingError(Code.INVALID_ARGUMENT, f"the model cannot take the inputs: {line[:300]}")


def _warm_up(servable: Servable) -> None:
    """Call every signature, so that the first request is as fast as any.

    The rows are of missing values, which a graph may refuse: that is no fault of the model.
    """
    row = servable.layout.pack({}, 1)
    for rows in (1, 32):
        many = concat([row] * rows, servable.layout)
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            for signature in ROW_SIGNATURES:
                servable.call_rows(signature, many)
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            servable.call_examples([_empty_example(servable)] * rows)


def _empty_example(servable: Servable) -> bytes:
    """Return an Example of the columns that an Example must have."""
    example = tf.train.Example()
    for feature in servable.schema.feature:
        if is_required(feature):
            values = example.features.feature[feature.name]
            if feature.type == schema_pb2.FLOAT:
                values.float_list.value.append(0.0)
            elif feature.type == schema_pb2.INT:
                values.int64_list.value.append(0)
            else:
                values.bytes_list.value.append(b"")
    return bytes(example.SerializeToString())
