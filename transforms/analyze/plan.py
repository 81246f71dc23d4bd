"""An analysis as data: which arrays feed which combiners, and what becomes of the results.

A phase is one pass over the rows (or a few, where a combiner asks to refine). It says
nothing of TensorFlow or of tf.Transform, so that it can be pickled, merged and tested alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from skewless.transforms.analyze.combiner import Array, Combiner

__all__ = ["Binding", "Feed", "Fold", "Known", "Phase", "Progress", "Reference", "Step", "advance"]


class Reference(NamedTuple):
    """One output of a fold or of a step, by name."""

    name: str
    output: int


class Fold(NamedTuple):
    """One combiner, and the arrays of a batch that it takes.

    Attributes:
        name: Unique in the analysis, and the same in every process.
        combiner: What it is at first; `refine` may replace it.
        arrays: What the phase's feed calls the arrays.
    """

    name: str
    combiner: Combiner
    arrays: tuple[str, ...]


class Step(NamedTuple):
    """A pure function of the outputs of folds and other steps, once all rows are in."""

    name: str
    function: Callable[..., Sequence[Any]]
    inputs: tuple[Reference, ...]


class Binding(NamedTuple):
    """A tensor of the graph that becomes the constant which the analysis found."""

    tensor: str
    dtype: int
    source: Reference


class Known(NamedTuple):
    """A constant found: its value, and TensorFlow's number of its dtype."""

    value: Any
    dtype: int


class Feed(Protocol):
    """What makes a batch of raw rows into arrays; picklable, loaded where it is used."""

    def load(
        self, known: Mapping[str, Known], arrays: frozenset[str]
    ) -> Callable[[pa.RecordBatch], dict[str, Array]]:
        """Return the function to the named arrays, with the constants of earlier phases."""


class Phase(NamedTuple):
    """All analyzers whose inputs do not depend on each other's results.

    Attributes:
        columns: The raw columns that the feed needs.
        feed: What makes the arrays of a batch; None where no rows are read.
        folds: The combiners.
        steps: What follows when all rows are in, each step after what it needs.
        bindings: What the results are for.
    """

    columns: frozenset[str]
    feed: Feed | None
    folds: tuple[Fold, ...]
    steps: tuple[Step, ...]
    bindings: tuple[Binding, ...]

    @property
    def most_passes(self) -> int:
        """How often its rows may have to be read."""
        return max(fold.combiner.most_passes for fold in self.folds)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far an analysis is between two passes.

    Attributes:
        known: The constants found in earlier phases, by tensor.
        running: The combiners of this phase that have to see the rows (again).
        finished: The outputs of those that are done, and of the steps that follow, as far as
            anything needs them still: whoever reads rows gets all of it.
    """

    known: Mapping[str, Known]
    running: Mapping[str, Combiner]
    finished: Mapping[str, Sequence[Any]]

    @classmethod
    def at(cls, phase: Phase, known: Mapping[str, Known]) -> Progress:
        """Return where a phase begins."""
        return cls(known, {fold.name: fold.combiner for fold in phase.folds}, {})


def advance(progress: Progress, merged: Mapping[str, Any], phase: Phase) -> Progress:
    """Return how far the analysis is after a pass of `phase`.

    Args:
        progress: How far it was before.
        merged: The accumulator over all rows of each running combiner; a missing one saw
            no rows.
        phase: The phase the pass belongs to.

    Returns:
        With what is still running; if that is nothing, the phase's bindings are known.
    """
    running: dict[str, Combiner] = {}
    finished = dict(progress.finished)
    for name, combiner in progress.running.items():
        accumulator = merged[name] if name in merged else combiner.create_accumulator()
        refined = combiner.refine(accumulator)
        if refined is None:
            finished[name] = combiner.extract_output(accumulator)
        else:
            running[name] = refined
    # A vocabulary becomes a file at once: no later pass is to carry its tokens along.
    outputs = _outputs(phase.steps, finished)
    if running:
        return Progress(progress.known, running, _still_needed(outputs, phase))
    known = {**progress.known, **_bind(phase.bindings, outputs)}
    return Progress(known, {}, {})


def _outputs(
    steps: Iterable[Step], finished: Mapping[str, Sequence[Any]]
) -> dict[str, Sequence[Any]]:
    """Return the outputs by name, also of the steps that have all they need."""
    outputs = dict(finished)
    for step in steps:
        if step.name not in outputs and all(name in outputs for name, _ in step.inputs):
            outputs[step.name] = step.function(*(outputs[name][at] for name, at in step.inputs))
    return outputs


def _still_needed(outputs: Mapping[str, Sequence[Any]], phase: Phase) -> dict[str, Sequence[Any]]:
    """Return the outputs that are bound, or that a step waits for which lacks others."""
    needed = {binding.source.name for binding in phase.bindings}
    needed |= {name for step in phase.steps if step.name not in outputs for name, _ in step.inputs}
    return {name: output for name, output in outputs.items() if name in needed}


def _bind(bindings: Iterable[Binding], outputs: Mapping[str, Sequence[Any]]) -> dict[str, Known]:
    return {
        binding.tensor: Known(outputs[binding.source.name][binding.source.output], binding.dtype)
        for binding in bindings
    }
