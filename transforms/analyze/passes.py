"""The passes of an analysis in Beam: every batch once to disk, then over the files.

Each pass is one DoFn that feeds all combiners of its phase, one CombineGlobally that merges
them, and one DoFn that says what the next pass has to do, however many features there are.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from skewless.schema import Schema
from skewless.transforms.analyze.columns import raw_columns
from skewless.transforms.analyze.combiner import Array, Combiner
from skewless.transforms.analyze.plan import Known, Phase, Progress, advance

__all__ = ["CacheRows", "RunPhases"]

# A file of the cache is what one worker reads at once in each pass.
_FILE_BYTES = 64 << 20

# A combiner travels with its accumulator, so that merging needs nothing else.
Accumulators = dict[str, tuple[Combiner, Any]]


@dataclasses.dataclass(eq=False)
class CacheRows(beam.PTransform):  # type: ignore[misc]
    """Write batches to Arrow IPC files and give their paths.

    Args:
        schema: What the rows must be.
        columns: The columns to keep.
        directory: Where, on any Beam file system.
    """

    schema: Schema
    columns: frozenset[str]
    directory: str

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Write what each bundle holds, and spread the files over the workers."""
        write = _WriteCache(self.schema, sorted(self.columns), self.directory)
        paths = rows | "WriteCache" >> beam.ParDo(write)
        return paths | "SpreadCache" >> beam.Reshuffle()


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(str)
class _WriteCache(beam.DoFn):  # type: ignore[misc]
    def __init__(self, schema: Schema, columns: Sequence[str], directory: str) -> None:
        self._schema = schema
        self._columns = columns
        self._directory = directory

    def setup(self) -> None:
        if not FileSystems.exists(self._directory):
            FileSystems.mkdirs(self._directory)

    def start_bundle(self) -> None:
        self._path, self._bytes = "", 0
        self._file: Any = None
        self._writer: Any = None

    def process(self, batch: pa.RecordBatch) -> Iterator[str]:
        batch = raw_columns(batch, self._schema).select(self._columns)
        if self._writer is None:
            # A name of its own for each try: a retried bundle leaves nothing half done
            # behind that anybody reads.
            self._path = FileSystems.join(self._directory, f"rows-{uuid.uuid4().hex}.arrow")
            self._file = FileSystems.create(self._path)
            self._writer = pa.ipc.new_stream(self._file, batch.schema)
        self._writer.write_batch(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _FILE_BYTES:
            yield self._close()

    def finish_bundle(self) -> Iterator[Any]:
        if self._writer is not None:
            yield beam.transforms.window.GlobalWindows.windowed_value(self._close())

    def _close(self) -> str:
        self._writer.close()
        self._file.close()
        path = self._path
        self.start_bundle()
        return path


@dataclasses.dataclass(eq=False)
class RunPhases(beam.PTransform):  # type: ignore[misc]
    """Run the phases of an analysis over cached rows.

    Args:
        phases: The phases in order.

    Returns:
        A PCollection of one dict: the constant found for each tensor.
    """

    phases: tuple[Phase, ...]

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[Mapping[str, Known]]:
        """Chain the passes: each one waits for what the one before found."""
        progress = paths.pipeline | "Begin" >> beam.Create([Progress({}, {}, {})])
        for number, phase in enumerate(self.phases):
            progress |= f"BeginPhase{number}" >> beam.Map(_begin, phase)
            for turn in range(phase.most_passes):
                one_pass = _Pass(phase, paths)
                progress = progress | f"Phase{number}Pass{turn}" >> one_pass
        return progress | "Known" >> beam.Map(_known)


def _begin(progress: Progress, phase: Phase) -> Progress:
    return Progress.at(phase, progress.known)


def _known(progress: Progress) -> Mapping[str, Known]:
    return progress.known


@dataclasses.dataclass(eq=False)
class _Pass(beam.PTransform):  # type: ignore[misc]
    phase: Phase
    paths: beam.PCollection[str]

    def expand(self, progress: beam.PCollection[Progress]) -> beam.PCollection[Progress]:
        accumulators = self.paths | "Accumulate" >> beam.ParDo(
            _Accumulate(self.phase), beam.pvalue.AsSingleton(progress)
        )
        merged = accumulators | "Merge" >> beam.CombineGlobally(_Merge()).without_defaults()
        return progress | "Advance" >> beam.Map(_advance, beam.pvalue.AsIter(merged), self.phase)


def _advance(progress: Progress, merged: Iterable[Accumulators], phase: Phase) -> Progress:
    """Return how far it is after a pass; `merged` has one element, or none for no rows."""
    if not progress.running:
        return progress
    found = {name: value for every in merged for name, (_, value) in every.items()}
    return advance(progress, found, phase)


@beam.typehints.with_input_types(str, Progress)
@beam.typehints.with_output_types(dict)
class _Accumulate(beam.DoFn):  # type: ignore[misc]
    def __init__(self, phase: Phase) -> None:
        self._phase = phase

    def start_bundle(self) -> None:
        self._accumulators: Accumulators = {}
        self._arrays: Callable[[pa.RecordBatch], dict[str, Array]] | None = None

    def process(self, path: str, progress: Progress) -> None:
        folds = [fold for fold in self._phase.folds if fold.name in progress.running]
        if not folds:
            return
        if self._arrays is None:
            wanted = frozenset(name for fold in folds for name in fold.arrays)
            self._arrays = self._phase.feed.load(progress.known, wanted)
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


def read_cache(path: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file of the cache."""
    with FileSystems.open(path) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


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
