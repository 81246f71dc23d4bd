"""Predict for batches of rows, with any function that takes a batch."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless.errors import RecipeError, RunError
from skewless.transforms.rows import Outcome, Rows, each_batch, reject_rows
from skewless.transforms.single_out import reason_of, single_out

__all__ = ["ROW_ERRORS", "Predict", "PredictBatch", "predict_batch", "shared_model"]

PredictBatch = Callable[[pa.RecordBatch], Mapping[str, npt.NDArray[Any]]]

# What a row may be at fault for; anything else, such as no memory, is the model's.
ROW_ERRORS: tuple[type[Exception], ...] = (ArithmeticError, ValueError)

_STEP = "Predict"
_PROBES = 16
_MOST_MODELS = 4


@dataclasses.dataclass(eq=False)
class Predict(beam.PTransform):  # type: ignore[misc]
    """Add a model's outputs to batches of rows, as columns.

    The model is called with whole batches. Where it fails with one of `row_errors`, the batch
    is halved until the rows at fault are alone, 2 k log2(n) calls for k of n rows: these are
    rejected, with the model's own words as the reason, and all others are predicted. Any other
    error fails the step.

    All threads and steps of a process share one model. This is no `RunInference` underneath:
    that one gives back whole batches where it fails, and counts a batch as one inference.

    Args:
        load: A function or class of a module: given `args`, returns the function from a
            batch to named arrays of shape [rows, ...], which many threads may call. Called
            once a process.
        args: What to load, e.g. the path of a SavedModel.
        prefix: Put before the names of the outputs, where a column has one of them already.
        row_errors: The errors that are a row's.
        reject_all: Whether all rows of a batch may be rejected. If not, a batch fails of which
            16 rows spread over it all do: then it is the model's fault.

    Returns:
        `Rows`: the batches with the outputs, and the rejected rows.

    Raises:
        RecipeError: If the rows have a column of the name of an output.
        RunError: If the outputs are not as many as the rows, or the model fails at all rows.
    """

    load: Callable[..., PredictBatch]
    args: tuple[str, ...]
    prefix: str = ""
    row_errors: tuple[type[Exception], ...] = ROW_ERRORS
    reject_all: bool = True

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Wire the model over every batch."""
        function = functools.partial(
            _predict,
            load=self.load,
            args=self.args,
            prefix=self.prefix,
            row_errors=self.row_errors,
            reject_all=self.reject_all,
        )
        return each_batch(batches, function, _STEP)


def _predict(
    batch: pa.RecordBatch, load: Callable[..., PredictBatch], args: tuple[str, ...], **options: Any
) -> Outcome:
    return predict_batch(batch, shared_model(load, args), **options)


def predict_batch(
    batch: pa.RecordBatch,
    predict: PredictBatch,
    prefix: str = "",
    row_errors: tuple[type[Exception], ...] = ROW_ERRORS,
    *,
    reject_all: bool = True,
) -> Outcome:
    """Return a batch with a column for each output of a model, and the rows it cannot predict.

    Args:
        batch: The rows.
        predict: The model.
        prefix: As in `Predict`.
        row_errors: As in `Predict`.
        reject_all: As in `Predict`.

    Raises:
        RecipeError: If the rows have a column of the name of an output.
        RunError: If the outputs are not as many as the rows, or the model fails at all rows.
    """
    probes = 0 if reject_all else _PROBES
    try:
        done, failed = single_out(predict, batch, row_errors, probes=probes)
    except row_errors as error:
        raise RunError(
            f"Predict: the model fails at every row that was tried ({reason_of(error)}); check "
            "that the rows are those it was made for"
        ) from error
    rejected = []
    for row, fault in failed:
        reason = f"the model cannot predict this row: {reason_of(fault)}"
        rejected += reject_rows(row, _STEP, "", reason)
    parts = [_with_outputs(rows, outputs, prefix) for rows, outputs in done]
    if not parts:
        return Outcome(batch.slice(0, 0), rejected, {})
    return Outcome(parts[0] if len(parts) == 1 else pa.concat_batches(parts), rejected, {})


def _with_outputs(
    batch: pa.RecordBatch, outputs: Mapping[str, npt.NDArray[Any]], prefix: str
) -> pa.RecordBatch:
    rows = batch.num_rows
    for output, values in outputs.items():
        name = f"{prefix}{output}"
        if name in batch.schema.names:
            raise RecipeError(
                f'Predict: the rows have a column "{name}" already; choose another prefix='
            )
        if len(values) != rows:
            raise RunError(
                f'Predict: the model gives {len(values):,} of "{output}" for {rows:,} rows; '
                "expected as many as there are rows"
            )
        batch = batch.append_column(name, _column(values))
    return batch


def _column(values: npt.NDArray[Any]) -> pa.Array:
    """Return an output as a column, lists of lists where it has more dimensions; bytes as text."""
    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    if pa.types.is_binary(column.type):
        column = _as_text(column)
    for axis in range(values.ndim - 1, 0, -1):
        lists, size = math.prod(values.shape[:axis]), values.shape[axis]
        edges = pa.array(np.arange(lists + 1) * size, pa.int32())
        column = pa.ListArray.from_arrays(edges, column)
    return column


def _as_text(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode("utf-8", "replace") for value in column.to_pylist()])


# --- One model a process ---------------------------------------------------------------

_lock = threading.Lock()
_locks: dict[tuple[Any, ...], threading.Lock] = {}
_models: dict[tuple[Any, ...], PredictBatch] = {}


def shared_model(load: Callable[..., PredictBatch], args: tuple[str, ...]) -> PredictBatch:
    """Return what `load(*args)` does, loaded once however many threads of a process ask for it.

    The models that were asked for last are kept, four of them. One that cannot be loaded is
    tried again the next time.

    Beam's own `Shared` would load a model once for each step and pipeline: it tells models
    apart by where they are asked for, not by what they are.
    """
    key = (load, *args)
    with _lock:
        if key in _models:
            return _recent(key)
        loading = _locks.setdefault(key, threading.Lock())
    with loading:
        with _lock:
            if key in _models:
                return _recent(key)
        model = load(*args)
        with _lock:
            _models[key] = model
            _locks.pop(key, None)
            while len(_models) > _MOST_MODELS:
                del _models[next(iter(_models))]
    return model


def _recent(key: tuple[Any, ...]) -> PredictBatch:
    """Return a model, which becomes the last to go."""
    model = _models.pop(key)
    _models[key] = model
    return model
