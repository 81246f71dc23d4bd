"""Events of a stream as they come at a given rate: JSON messages, parsed by the pull."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import PickleCoder
from apache_beam.io.unbounded_source import (
    CheckpointMark,
    ReadFromUnboundedSource,
    UnboundedReader,
    UnboundedSource,
)
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

from skewless.schema import Schema
from skewless.transforms.rows import Rejected, Rows
from skewless.transforms.sources.messages import JsonPayload, Message, parse_messages
from skewless.transforms.sources.source import Source

AT_ONCE = 5_000


@dataclasses.dataclass(frozen=True)
class Lines:
    """A file of one JSON object a line, handed out from a moment on.

    Attributes:
        path: The file.
        rate: Lines a second; 0 for as many as are taken.
        began: When the first line came, seconds since 1970.
    """

    path: str
    rate: float
    began: float

    def due(self, total: int) -> int:
        """Return how many lines have come by now."""
        if not self.rate:
            return total
        return max(0, min(total, int((time.time() - self.began) * self.rate)))

    def lines(self) -> Any:
        """Return all lines."""
        return lines_of(self.path)


class _Mark(CheckpointMark):  # type: ignore[misc]
    def __init__(self, at: int) -> None:
        self.at = at

    def finalize_checkpoint(self) -> None:
        """Nobody is told."""


_read: dict[str, list[bytes]] = {}


def lines_of(path: str) -> list[bytes]:
    if path not in _read:
        _read[path] = pathlib.Path(path).read_bytes().splitlines()
    return _read[path]


class _Reader(UnboundedReader):  # type: ignore[misc]
    def __init__(self, source: _Events, at: int) -> None:
        self._source, self._at = source, at
        self._lines = source.lines.lines()

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        stop = min(self._source.lines.due(len(self._lines)), self._at + AT_ONCE)
        if stop <= self._at:
            if stop < len(self._lines):
                time.sleep(0.01)
            return False
        self._current = self._source.take(self._lines[self._at : stop], self._at)
        self._at = stop
        return True

    def get_current(self) -> Any:
        return self._current

    def get_current_timestamp(self) -> Timestamp:
        return Timestamp(0)

    def get_watermark(self) -> Timestamp:
        return MAX_TIMESTAMP if self._at >= len(self._lines) else Timestamp(0)

    def get_checkpoint_mark(self) -> _Mark:
        return _Mark(self._at)

    def get_current_source(self) -> _Events:
        return self._source

    def close(self) -> None:
        """Nothing is open."""


class _Events(UnboundedSource):  # type: ignore[misc]
    """An element is what `take` makes of some lines: a batch, or a list of messages."""

    def __init__(self, lines: Lines, schema: Schema | None) -> None:
        self.lines, self._schema = lines, schema

    def take(self, lines: Sequence[bytes], at: int) -> Any:
        if self._schema is None:
            return list(lines)
        messages = [Message(line, source="events", offset=at + i) for i, line in enumerate(lines)]
        return parse_messages(messages, self._schema, JsonPayload())

    def split(self, desired_num_splits: int, options: Any = None) -> list[UnboundedSource]:
        return [self]

    def create_reader(self, options: Any, mark: _Mark | None) -> _Reader:
        return _Reader(self, mark.at if mark else 0)

    def get_checkpoint_mark_coder(self) -> Any:
        return PickleCoder()

    def default_output_coder(self) -> Any:
        return PickleCoder()

    def is_bounded(self) -> bool:
        return False


@dataclasses.dataclass(eq=False)
class ReadLines(Source):
    """A stream of JSON lines as a source of skewless."""

    lines: Lines | None = None

    @property
    def input_name(self) -> str:
        return "events"

    def expand(self, pbegin: Any) -> Rows:
        outputs = (
            pbegin
            | "Read" >> _reading(self.lines, self.raw_schema())
            | beam.ParDo(_Outcomes()).with_outputs("rejected", main="rows")
        )
        return Rows(outputs.rows, (outputs.rejected,))


def raw_lines(lines: Lines) -> beam.PTransform:
    """Return a read of lists of raw lines."""
    return _reading(lines, None)


def _reading(lines: Lines | None, schema: Schema | None) -> beam.PTransform:
    assert lines is not None
    return ReadFromUnboundedSource(
        _Events(lines, schema), poll_interval=0.1, max_records_per_bundle=1, max_read_time_seconds=1
    )


@beam.typehints.with_output_types(pa.RecordBatch)
class _Outcomes(beam.DoFn):  # type: ignore[misc]
    def process(self, outcome: Any) -> Any:
        yield outcome.kept
        for row in outcome.rejected:
            assert isinstance(row, Rejected)
            yield beam.pvalue.TaggedOutput("rejected", row)


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(np.asarray(values), share))
