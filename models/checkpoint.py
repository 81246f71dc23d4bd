"""The state of an unfinished training, in one file that is replaced whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

__all__ = ["Checkpoint", "save_atomically"]

Arrays = list[npt.NDArray[Any]]


@dataclasses.dataclass
class Checkpoint:
    """All that the next epoch depends on.

    Attributes:
        purpose: What is being trained on what; another training's file is not resumed.
        history: The measures of each finished epoch.
        best_epoch: The index of the epoch with the lowest loss; -1 before the first.
        best: The model's weights after that epoch.
        variables: Weights, optimizer and random states after the last epoch.
    """

    purpose: str
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = -1
    best: Arrays = dataclasses.field(default_factory=list)
    variables: Arrays = dataclasses.field(default_factory=list)

    def record(self, model: keras.Model, measures: dict[str, float], monitor: str | None) -> None:
        """Add a finished epoch; without a `monitor`, the last epoch is the best."""
        self.history.append(measures)
        losses = [epoch[monitor] for epoch in self.history] if monitor else [0.0]
        if losses[-1] < min(losses[:-1], default=float("inf")):
            self.best_epoch = len(self.history) - 1
            self.best = model.get_weights()
        self.variables = [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]

    def restore(self, model: keras.Model) -> None:
        """Put a compiled model into the state after the last recorded epoch."""
        for variable, value in zip(_variables(model), self.variables, strict=True):
            variable.assign(value)

    def save(self, path: pathlib.Path) -> None:
        """Write to `path`."""
        state = {"purpose": self.purpose, "history": self.history, "best_epoch": self.best_epoch}
        arrays = {
            "state": np.asarray(json.dumps(state)),
            **{f"best_{i}": array for i, array in enumerate(self.best)},
            **{f"variable_{i}": array for i, array in enumerate(self.variables)},
        }
        save_atomically(path, lambda partial: _save_arrays(partial, arrays))

    @classmethod
    def load(cls, path: pathlib.Path, purpose: str) -> Checkpoint:
        """Return what `path` holds, or a fresh start if that is not for `purpose`."""
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                state = json.loads(str(file["state"]))
                if state["purpose"] != purpose:
                    return cls(purpose)
                best = [file[f"best_{i}"] for i in range(_count(file.files, "best_"))]
                count = _count(file.files, "variable_")
                variables = [file[f"variable_{i}"] for i in range(count)]
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
            return cls(purpose)
        return cls(purpose, state["history"], state["best_epoch"], best, variables)


def save_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Have `write` fill a file beside `path`, and rename it when it is complete."""
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _variables(model: keras.Model) -> list[Any]:
    random = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    states = [layer.seed_generator.state for layer in random]
    return [*model.weights, *states, *model.optimizer.variables]


def _save_arrays(path: pathlib.Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _count(names: Sequence[str], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in names)
