"""Predict for batches of rows, with any function that takes a batch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import numpy.typing as npt
import pyarrow as pa

from skewless.errors import RecipeError

__all__ = ["Predict", "predict_batch"]

PredictBatch = Callable[[pa.RecordBatch], Mapping[str, npt.NDArray[Any]]]


@dataclasses.dataclass(eq=False)
class Predict(beam.PTransform):  # type: ignore[misc]
    """Add a model's outputs to batches of rows, as columns.

    Args:
        load: A function or class of a module: given `args`, returns the function from a
            batch to named arrays of shape [rows, ...]. Called once a process.
        args: What to load, e.g. the path of a SavedModel.
        prefix: Put before the names of the outputs, where a column has one of them already.

    Raises:
        RecipeError: If the rows have a column of the name of an output.
    """

    load: Callable[..., PredictBatch]
    args: tuple[str, ...]
    prefix: str = ""

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Wire the model over every batch."""
        return batches | "Predict" >> beam.Map(
            predict_batch, load=self.load, args=self.args, prefix=self.prefix
        ).with_output_types(pa.RecordBatch)


def predict_batch(
    batch: pa.RecordBatch,
    load: Callable[..., PredictBatch],
    args: tuple[str, ...],
    prefix: str = "",
) -> pa.RecordBatch:
    """Return `batch` with a column for each output of the model."""
    for output, values in _loaded(load, args)(batch).items():
        name = f"{prefix}{output}"
        if name in batch.schema.names:
            raise RecipeError(
                f'Predict: the rows have a column "{name}" already; choose another prefix='
            )
        column = pa.array(list(values)) if values.ndim > 1 else pa.array(values)
        batch = batch.append_column(name, column)
    return batch


@functools.lru_cache(maxsize=2)
def _loaded(load: Callable[..., PredictBatch], args: tuple[str, ...]) -> PredictBatch:
    return load(*args)
