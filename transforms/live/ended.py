"""The end of a stream, told by a file: some runners go on for ever after their sources have."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.trigger import AccumulationMode, AfterWatermark
from apache_beam.transforms.window import GlobalWindows

from skewless.storage import path_of

__all__ = ["NoteEnd"]


@dataclasses.dataclass(eq=False)
class NoteEnd(beam.PTransform):  # type: ignore[misc]
    """Write a file when nothing is to come any more, and the runner has committed what came.

    Args:
        path: The file.
    """

    path: str

    def expand(self, done: Sequence[beam.PCollection[Any]]) -> beam.PCollection[None]:
        """Wait for the end of time in all of `done`."""
        rest = [one | f"Drop{n}" >> beam.FlatMap(_nothing) for n, one in enumerate(done)]
        once = done[0].pipeline | "Once" >> beam.Create([(None, None)])
        ended = (*rest, once) | "Together" >> beam.Flatten()
        at_end = beam.WindowInto(
            GlobalWindows(), trigger=AfterWatermark(), accumulation_mode=AccumulationMode.DISCARDING
        )
        grouped = ended | "AtEnd" >> at_end | "Group" >> beam.GroupByKey()
        return grouped | "Write" >> beam.ParDo(_Write(self.path))


def _nothing(element: Any) -> Iterator[tuple[None, None]]:
    del element
    return iter(())


class _Write(beam.DoFn):  # type: ignore[misc]
    """Writes when the bundle is committed, and with it all that messages were read for."""

    def __init__(self, path: str) -> None:
        self._path = path

    def process(
        self,
        group: tuple[None, Iterable[None]],
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
    ) -> None:
        del group
        finalizer.register(functools.partial(_write, self._path))


def _write(path: str) -> None:
    file = path_of(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
