"""Count the bytes that pass through what a pipeline shuffles, on the in-process runner.

What its stages hand over is encoded as any runner would send it. Each element is looked at
once more, so that a pipeline takes longer than it would: nothing here is a time.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import apache_beam as beam
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import execution, fn_runner

from skewless.pipeline.batch import WriteRows
from skewless.pipeline.execution import Execution
from tests.benchmarks.scaling_shapes import Proto, Shape, shape_of

__all__ = ["Counting", "Passed", "Ran"]


@dataclasses.dataclass
class Passed:
    """What passed through one grouping, or through one side input.

    Attributes:
        size: Bytes in all.
        elements: How many there were.
        keys: The bytes of each key; what is grouped is there for one worker, key by key.
    """

    size: int = 0
    elements: int = 0
    keys: collections.Counter[bytes] = dataclasses.field(default_factory=collections.Counter)

    @property
    def largest(self) -> int:
        """The bytes of the key that has most."""
        return max(self.keys.values(), default=self.size)


@dataclasses.dataclass
class Ran:
    """A pipeline that was run: its shape, and what passed through it by the step's name."""

    name: str
    shape: Shape
    shuffled: dict[str, Passed]
    side_inputs: dict[str, Passed]
    # What waits in files for its part to be complete.
    written: int = 0


@dataclasses.dataclass(frozen=True)
class Counting(Execution):
    """The in-process runner, of whose pipelines everything is counted."""

    ran: list[Ran] = dataclasses.field(default_factory=list)

    def run(self, build: beam.PTransform, within: float | None = None) -> None:
        """Run a pipeline and append what it was."""
        with _counted() as counts:
            super().run(build, within)
        name = type(build).__name__.removeprefix("_")
        ran = counts.ran(name)
        if isinstance(build, WriteRows) and build.read.temporary:
            folder = pathlib.Path(build.read.temporary)
            ran.written = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        self.ran.append(ran)


class _Counts:
    def __init__(self) -> None:
        self.protos: list[Proto] = []
        self.groups: dict[str, Passed] = collections.defaultdict(Passed)
        self.pcollections: dict[str, Passed] = collections.defaultdict(Passed)

    def ran(self, name: str) -> Ran:
        (proto,) = self.protos
        steps = proto.components.transforms
        sides: dict[str, Passed] = {}
        for step in steps.values():
            if step.spec.urn != common_urns.primitives.PAR_DO.urn:
                continue
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            for tag in payload.side_inputs:
                sides[step.unique_name] = self.pcollections[step.inputs[tag]]
        # Fusion gives those that it combines before they move names of its own.
        groups = {
            steps[key].unique_name if key in steps else key: one for key, one in self.groups.items()
        }
        return Ran(name, shape_of(proto), groups, sides)


@contextlib.contextmanager
def _counted() -> Iterator[_Counts]:
    counts = _Counts()
    manager = execution.BundleContextManager
    get_buffer, run = manager.get_buffer, fn_runner.FnApiRunner.run_via_runner_api

    def counting(self: Any, buffer_id: bytes, transform_id: str) -> Any:
        buffer = get_buffer(self, buffer_id, transform_id)
        kind, name = execution.split_buffer_id(buffer_id)
        # The runner asks what kind of buffer it has: it must stay the very same one.
        if kind in ("group", "materialize") and "append" not in vars(buffer):
            passed = (counts.groups if kind == "group" else counts.pcollections)[name]
            count = _count_keys if kind == "group" else _count
            buffer.append = functools.partial(count, buffer, buffer.append, passed)
        return buffer

    def noting(self: Any, proto: Proto, options: Any) -> Any:
        counts.protos.append(proto)
        return run(self, proto, options)

    with (
        mock.patch.object(manager, "get_buffer", counting),
        mock.patch.object(fn_runner.FnApiRunner, "run_via_runner_api", noting),
    ):
        yield counts


def _count(_: Any, append: Callable[[bytes], None], passed: Passed, data: bytes) -> None:
    append(data)
    passed.size += len(data)


def _count_keys(buffer: Any, append: Callable[[bytes], None], passed: Passed, data: bytes) -> None:
    _count(buffer, append, passed, data)
    stream = create_InputStream(data)
    coder, key_coder = buffer._pre_grouped_coder.get_impl(), buffer._key_coder.get_impl()
    while (before := stream.size()) > 0:
        key, _ = coder.decode_from_stream(stream, True).value
        passed.elements += 1
        passed.keys[key_coder.encode(key)] += before - stream.size()
