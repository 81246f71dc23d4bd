"""A sample of the answered requests, written to files while the server goes on."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import logging
import os
import pathlib
import random
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from skewless.errors import RecipeError, RunError, no_such_column
from skewless.models.serving.logged import Described, Entry, LoggedModel
from skewless.models.serving.logged_records import logged_records
from skewless.models.serving.logged_rows import logged_rows
from skewless.models.serving.observer import Quiet
from skewless.models.serving.requests import Answer, Code, Request, ServingError
from skewless.schema import Schema, column_names

__all__ = ["RequestLog", "RequestLogOptions"]

_log = logging.getLogger(__name__)

# How often the thread looks for requests, and how many it takes at once: a larger piece
# would hold up the threads that answer.
_TICK = 0.5
_AT_ONCE = 256
# The name of a file: the time of its first request, the version, and what no other file has.
_TIME = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-\d+-[0-9a-f]{8}\.(parquet|tfrecord)")


@dataclasses.dataclass(frozen=True)
class RequestLogOptions:
    """Which requests are logged, and how.

    Attributes:
        directory: Where the files go, on this machine.
        sample: The share of requests that is logged.
        format: `parquet`, one row for each row asked about; or `tfrecord`, TensorFlow
            Serving's `PredictionLog`s, one for each request.
        rows_per_file: A file is closed when it has so many rows,
        seconds_per_file: or after so many seconds.
        queue: How many requests may wait to be written; those beyond are dropped.
        keep_bytes: When all files hold more, the oldest are deleted; None keeps them all.
        exclude: Raw columns that are not to be logged.
        errors: Whether to log requests that were refused too, for `parquet`: their code, and
            no columns.
        seed: Makes the sample the same for the same requests; None takes another each time.
    """

    directory: str
    sample: float = 0.01
    format: Literal["parquet", "tfrecord"] = "parquet"
    rows_per_file: int = 10_000
    seconds_per_file: float = 300.0
    queue: int = 10_000
    keep_bytes: int | None = None
    exclude: tuple[str, ...] = ()
    errors: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.directory or "://" in self.directory:
            raise RecipeError(
                f'request log: directory="{self.directory}"; expected a directory on this '
                "machine; mount a bucket, or send the files on"
            )
        if not 0 < self.sample <= 1:
            raise RecipeError(f"request log: sample={self.sample}; expected more than 0, at most 1")
        if self.format not in ("parquet", "tfrecord"):
            raise RecipeError(
                f'request log: format="{self.format}"; expected "parquet" or "tfrecord"'
            )
        for name in ("rows_per_file", "queue", "keep_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"request log: {name}={value}; expected at least 1")
        if self.seconds_per_file <= 0:
            raise RecipeError(
                f"request log: seconds_per_file={self.seconds_per_file}; expected more than 0"
            )
        if self.errors and self.format == "tfrecord":
            raise RecipeError(
                "request log: errors=True; a PredictionLog has no place for them; "
                'leave it out, or take format="parquet"'
            )

    def check(self, schema: Schema) -> None:
        """Check that a model has the columns that are not to be logged.

        Raises:
            RecipeError: If it lacks one: its name may be misspelt.
        """
        for name in self.exclude:
            if name not in column_names(schema):
                raise no_such_column(name, column_names(schema), "request log: exclude")


class RequestLog(Quiet):
    """Writes a sample of the requests to files; an `Observer`.

    A file has the rows of one version, and appears whole, under a name that begins with the
    time of its first request. What cannot be written is dropped and counted: no request
    waits for the log.

    Args:
        options: Which requests, and how.

    Attributes:
        written: How many requests are in files.
        dropped: How many were chosen and are in none.
    """

    def __init__(self, options: RequestLogOptions) -> None:
        self.written = 0
        self.dropped = 0
        self._options = options
        self._directory = pathlib.Path(options.directory)
        self._random = random.Random(options.seed)
        self._queue: collections.deque[tuple[LoggedModel, Entry]] = collections.deque()
        self._models: dict[int, LoggedModel] = {}
        self._newest: LoggedModel | None = None
        self._files: dict[int, _File] = {}
        self._servable: Callable[[int | None], Described] | None = None
        self._counting = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self, servable: Callable[[int | None], Described]) -> None:
        """Make the directory, and write from now on.

        Args:
            servable: Returns a version that is served, `ServedModel.servable`; None is the
                newest.

        Raises:
            RecipeError: If the model lacks a column that is not to be logged.
            RunError: If nothing can be written to the directory.
        """
        newest = servable(None)
        self._options.check(newest.schema)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._directory).close()
        except OSError as error:
            raise RunError(
                f"request log: cannot write to {self._directory} ({error.strerror}); "
                "name another directory, or allow it"
            ) from None
        self._servable = servable
        self._newest = self._models[newest.version] = LoggedModel.of(newest, self._options.exclude)
        self._thread.start()

    def close(self, timeout: float = 30.0) -> None:
        """Write what waits, and stop."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._drop(len(self._queue))

    def answered(
        self, request: Request, answer: Answer | None, code: Code | None, seconds: float
    ) -> None:
        """Take a request for the log, or not."""
        if self._random.random() >= self._options.sample:
            return
        if answer is None and not self._options.errors:
            return
        model = self._model(answer)
        if model is None or self._closed or len(self._queue) >= self._options.queue:
            self._drop(1)
            return
        entry = Entry(time.time_ns() // 1000, request, answer, code, seconds)
        self._queue.append((model, entry))
        if len(self._queue) * 2 > self._options.queue:
            self._wake.set()

    def _model(self, answer: Answer | None) -> LoggedModel | None:
        """Return what is logged of the version that answered, while it is still there."""
        if answer is None or self._servable is None:
            return self._newest
        found = self._models.get(answer.version)
        if found is None:
            try:
                model = self._servable(answer.version)
            except ServingError:
                return None
            found = self._models[answer.version] = LoggedModel.of(model, self._options.exclude)
            if self._newest is None or found.version > self._newest.version:
                self._newest = found
        return found

    def _drop(self, requests: int) -> None:
        with self._counting:
            self.dropped += requests

    def _work(self) -> None:
        tick = min(_TICK, self._options.seconds_per_file / 2)
        while not self._closed:
            self._wake.wait(tick)
            self._wake.clear()
            self._take_all()
            self._roll()
        self._take_all()
        self._roll(everything=True)

    def _take_all(self) -> None:
        """Turn all that waits into rows of files."""
        while self._queue:
            taken = [self._queue.popleft() for _ in range(min(_AT_ONCE, len(self._queue)))]
            by_model: dict[int, list[Entry]] = collections.defaultdict(list)
            models = {}
            for model, entry in taken:
                models[model.version] = model
                by_model[model.version].append(entry)
            for version, entries in by_model.items():
                self._add(models[version], entries)
                self._roll()

    def _add(self, model: LoggedModel, entries: Sequence[Entry]) -> None:
        try:
            if self._options.format == "parquet":
                parts: Sequence[Any] = logged_rows(entries, model)
            else:
                parts = list(logged_records(entries, model, self._options.sample))
        except Exception as error:
            if len(entries) > 1:
                for entry in entries:
                    self._add(model, [entry])
                return
            self._drop(1)
            _log.warning("a request cannot be logged: %s", " ".join(str(error).split())[:200])
            return
        if model.version not in self._files:
            first = datetime.datetime.fromtimestamp(entries[0].time / 1e6, datetime.UTC)
            name = f"{first:{_TIME}}-{model.version}-{uuid.uuid4().hex[:8]}"
            columns = model.columns if self._options.format == "parquet" else None
            self._files[model.version] = _File(name, columns)
        file = self._files[model.version]
        file.parts += parts
        file.requests += len(entries)
        file.rows += sum(entry.answer.rows if entry.answer else 1 for entry in entries)

    def _roll(self, everything: bool = False) -> None:
        """Write the files that are full or old enough."""
        now = time.monotonic()
        for version, file in list(self._files.items()):
            old = now - file.started >= self._options.seconds_per_file
            if everything or old or file.rows >= self._options.rows_per_file:
                del self._files[version]
                self._publish(file)

    def _publish(self, file: _File) -> None:
        path = self._directory / f"{file.name}.{self._options.format}"
        try:
            _write(path, file.parts, file.columns)
        except Exception as error:
            # A full disk must not end the thread: there may be room again.
            self._drop(file.requests)
            line = " ".join(str(error).split())[:200]
            _log.warning("%d requests cannot be logged: %s", file.requests, line)
            return
        with self._counting:
            self.written += file.requests
        if self._options.keep_bytes is not None:
            _delete_oldest(self._directory, self._options.keep_bytes)


@dataclasses.dataclass
class _File:
    """What will be a file: batches, or records where it has no columns."""

    name: str
    columns: pa.Schema | None
    started: float = dataclasses.field(default_factory=time.monotonic)
    parts: list[Any] = dataclasses.field(default_factory=list)
    requests: int = 0
    rows: int = 0


def _write(path: pathlib.Path, parts: Sequence[Any], columns: pa.Schema | None) -> None:
    """Write a file that is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if columns is not None:
            table = pa.Table.from_batches(parts, columns)
            # zstd level 1 halves the files of Snappy at about the same speed.
            pq.write_table(table, temporary, compression="zstd", compression_level=1)
        else:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in parts:
                    writer.write(record)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _delete_oldest(directory: pathlib.Path, keep_bytes: int) -> None:
    """Delete a log's files, oldest first, until the others hold no more than is kept."""
    kept = 0
    for path in sorted(directory.iterdir(), reverse=True):
        if _NAME.fullmatch(path.name):
            # Another server that logs to the same place may be faster.
            with contextlib.suppress(OSError):
                kept += path.stat().st_size
                if kept > keep_bytes:
                    path.unlink()
