"""Run the phases of a case by hand, without Beam: every sharding of the same rows at once."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pathlib
import pickle
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import tensorflow_transform as tft

from skewless.transforms.analyze.fit import Fit, plan_fit
from skewless.transforms.analyze.plan import Phase, Progress, advance
from tests.transforms.analyze.cases_rows import SCHEMA, Tensors

# For each public name of tf.Transform the arguments that some function gave it by now.
given: defaultdict[str, set[str]] = defaultdict(set)

# One batch after the other, on one worker after the other.
Shards = Sequence[Sequence[pa.RecordBatch]]


@functools.cache
def planned(function: Callable[[Tensors], Tensors], engine: str = "fused") -> Fit:
    """Return what the engine makes of a function, and keep which names it called, and how."""
    scratch = tempfile.mkdtemp()
    with _recorded():
        return plan_fit(SCHEMA, function, f"{scratch}/graph", scratch, engine)


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    def record(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            given[name] |= inspect.signature(function).bind(*args, **kwargs).arguments.keys()
            return function(*args, **kwargs)

        return recorded

    with contextlib.ExitStack() as stack:
        for module in (tft, tft.experimental):
            for name in module.__all__:
                function = getattr(module, name)
                if inspect.isfunction(function):
                    stack.enter_context(mock.patch.object(module, name, record(name, function)))
        yield


def constants(fit: Fit, layouts: Mapping[str, Shards]) -> dict[str, dict[str, Any]]:
    """Return for each layout all that was found: bytes by tensor, files of vocabularies."""
    found: dict[str, dict[str, Any]] = {name: {} for name in layouts}
    progresses = {name: Progress({}, {}, {}) for name in layouts}
    for phase in fit.phases or ():
        for name, progress in progresses.items():
            progresses[name] = Progress.at(phase, progress.known)
        while any(progress.running for progress in progresses.values()):
            # What the passes before found is the same for all, or the test has failed.
            first = next(p for p in progresses.values() if p.running)
            arrays = phase.feed.load(first.known, _arrays_of(first, phase))
            for name, progress in progresses.items():
                merged = _merged(phase, progress, arrays, layouts[name])
                progresses[name] = after = advance(progress, merged, phase)
                if not after.running:
                    new = after.known.keys() - progress.known.keys()
                    found[name].update({key: _content(after.known[key].value) for key in new})
    return found


def _arrays_of(progress: Progress, phase: Phase) -> frozenset[str]:
    folds = [fold for fold in phase.folds if fold.name in progress.running]
    return frozenset(name for fold in folds for name in fold.arrays)


def _merged(phase: Phase, progress: Progress, arrays: Any, shards: Shards) -> dict[str, Any]:
    """Return the accumulators of all shards, each sent as bytes, merged two by two."""
    folds = [fold for fold in phase.folds if fold.name in progress.running]
    accumulators = []
    for batches in shards:
        made = {fold.name: progress.running[fold.name].create_accumulator() for fold in folds}
        for batch in batches:
            values = arrays(batch)
            for fold in folds:
                added = [values[name] for name in fold.arrays]
                made[fold.name] = progress.running[fold.name].add_input(made[fold.name], added)
        accumulators.append(pickle.dumps(made))
    return {
        fold.name: functools.reduce(
            lambda one, other, combiner=progress.running[fold.name]: combiner.merge_accumulators(
                [other, one]
            ),
            [pickle.loads(made)[fold.name] for made in accumulators],
        )
        for fold in folds
        if accumulators
    }


def _content(value: Any) -> Any:
    """Return what makes two constants the same: bits, or a vocabulary's name and lines."""
    if isinstance(value, str):
        path = pathlib.Path(value)
        return path.name, path.read_bytes()
    array = np.asarray(value)
    return array.shape, array.tolist() if array.dtype == object else array.tobytes()
