"""The passes of an analysis in Beam, each over all files of the cache.

Each pass is one DoFn that feeds all combiners of its phase, one CombineGlobally that merges
them, and one DoFn that says what the next pass has to do, however many features there are.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.internal import pickler

from skewless.storage import path_of
from skewless.transforms.analyze.combiner import Array, Combiner
from skewless.transforms.analyze.plan import Known, Phase, Progress, advance
from skewless.transforms.cache import read_cache

__all__ = ["RunPhases"]

# A combiner travels with its accumulator, so that merging needs nothing else.
Accumulators = dict[str, tuple[Combiner, Any]]


@dataclasses.dataclass(eq=False)
class RunPhases(beam.PTransform):  # type: ignore[misc]
    """Run the phases of an analysis over cached rows.

    Args:
        phases: The phases in order.
        directory: Where they are written for the workers to read, on any Beam file system;
            the files are not deleted.

    Returns:
        A PCollection of one dict: the constant found for each tensor.
    """

    phases: tuple[Phase, ...]
    directory: str

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[Mapping[str, Known]]:
        """Chain the passes: each one waits for what the one before found."""
        progress = paths.pipeline | "Begin" >> beam.Create([Progress({}, {}, {})])
        for number, phase in enumerate(self.phases):
            stored = _store(phase, self.directory)
            progress |= f"BeginPhase{number}" >> beam.Map(_begin, stored)
            for turn in range(phase.most_passes):
                one_pass = _Pass(stored, paths)
                progress = progress | f"Phase{number}Pass{turn}" >> one_pass
        return progress | "Known" >> beam.Map(_known)


def _store(phase: Phase, directory: str) -> str:
    """Write a phase down and return its path: a graph in every pass would swell the pipeline."""
    folder = path_of(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"phase-{uuid.uuid4().hex}"
    path.write_bytes(pickler.dumps(phase))
    return str(path)


@functools.lru_cache(maxsize=4)
def _load(stored: str) -> Phase:
    phase: Phase = pickler.loads(path_of(stored).read_bytes())
    return phase


def _begin(progress: Progress, stored: str) -> Progress:
    return Progress.at(_load(stored), progress.known)


def _known(progress: Progress) -> Mapping[str, Known]:
    return progress.known


@dataclasses.dataclass(eq=False)
class _Pass(beam.PTransform):  # type: ignore[misc]
    stored: str
    paths: beam.PCollection[str]

    def expand(self, progress: beam.PCollection[Progress]) -> beam.PCollection[Progress]:
        accumulators = self.paths | "Accumulate" >> beam.ParDo(
            _Accumulate(self.stored), beam.pvalue.AsSingleton(progress)
        )
        merged = accumulators | "Merge" >> beam.CombineGlobally(_Merge()).without_defaults()
        return progress | "Advance" >> beam.Map(_advance, beam.pvalue.AsIter(merged), self.stored)


def _advance(progress: Progress, merged: Iterable[Accumulators], stored: str) -> Progress:
    """Return how far it is after a pass; `merged` has one element, or none for no rows."""
    if not progress.running:
        return progress
    found = {name: value for every in merged for name, (_, value) in every.items()}
    return advance(progress, found, _load(stored))


@beam.typehints.with_input_types(str, Progress)
@beam.typehints.with_output_types(dict)
class _Accumulate(beam.DoFn):  # type: ignore[misc]
    def __init__(self, stored: str) -> None:
        self._stored = stored

    def start_bundle(self) -> None:
        self._accumulators: Accumulators = {}
        self._arrays: Callable[[pa.RecordBatch], dict[str, Array]] | None = None

    def process(self, path: str, progress: Progress) -> None:
        if not progress.running:
            return
        phase = _load(self._stored)
        folds = [fold for fold in phase.folds if fold.name in progress.running]
        if not folds or phase.feed is None:
            return
        if self._arrays is None:
            wanted = frozenset(name for fold in folds for name in fold.arrays)
            self._arrays = phase.feed.load(progress.known, wanted)
            for fold in folds:
                combiner = progress.running[fold.name]
                self._accumulators[fold.name] = combiner, combiner.create_accumulator()
        for batch in read_cache(path):
            arrays = self._arrays(batch)
            for fold in folds:
                combiner, accumulator = self._accumulators[fold.name]
                added = combiner.add_input(accumulator, [arrays[name] for name in fold.arrays])
                self._accumulators[fold.name] = combiner, added

    def finish_bundle(self) -> Iterator[Any]:
        if self._accumulators:
            yield beam.transforms.window.GlobalWindows.windowed_value(self._accumulators)
        self._accumulators = {}


class _Merge(beam.CombineFn):  # type: ignore[misc]
    def create_accumulator(self) -> Accumulators:
        return {}

    def add_input(self, merged: Accumulators, accumulators: Accumulators) -> Accumulators:
        return self.merge_accumulators([merged, accumulators])

    def merge_accumulators(self, several: Iterable[Accumulators]) -> Accumulators:
        grouped: dict[str, tuple[Combiner, list[Any]]] = {}
        for accumulators in several:
            for name, (combiner, accumulator) in accumulators.items():
                grouped.setdefault(name, (combiner, []))[1].append(accumulator)
        return {
            name: (combiner, values[0] if len(values) == 1 else combiner.merge_accumulators(values))
            for name, (combiner, values) in grouped.items()
        }

    def extract_output(self, merged: Accumulators) -> Accumulators:
        return merged
