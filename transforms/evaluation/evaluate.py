"""Measure predictions against labels, overall and by slice, into TFMA's own format."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError, RunError, no_such_column
from skewless.storage import local_output, path_of
from skewless.transforms.evaluation.decision import LABEL, METRICS, PREDICTION, Evaluation
from skewless.transforms.evaluation.metrics import SliceRows, metrics_combiner, on_grid

__all__ = ["MISSING", "Evaluate", "join_predictions", "slice_rows"]

MISSING = "(missing)"

SliceKey = tuple[tuple[str, str], ...]
Results = Sequence[tuple[SliceKey, Mapping[str, float]]]


@dataclasses.dataclass(eq=False)
class Evaluate(beam.PTransform):  # type: ignore[misc]
    """Evaluate batches with the columns `label` and `prediction` and those to slice by.

    Writes to `output` what `tfma.load_eval_result` opens, and `metrics.json`:
    `{"overall": {metric: value}, "slices": [{"slice": {column: value}, "metrics": {…}}]}`,
    where a metric that is undefined (such as the AUC of one class only) is null. Gives a
    PCollection of that one object.

    Args:
        output: The directory to write to.
        task: `binary`, `multiclass` or `regression`.
        classes: The number of classes; multiclass only.
        slices: Raw columns to slice by; a tuple of columns for their combinations.

    Raises:
        RecipeError: If the task is unknown or a slice is given twice.
    """

    output: str
    task: str
    classes: int = 2
    slices: Sequence[str | Sequence[str]] = ()

    def __post_init__(self) -> None:
        super().__init__()
        if self.task not in METRICS:
            raise RecipeError(f'Evaluate(task="{self.task}"): expected one of {", ".join(METRICS)}')
        self.slices = Evaluation(self.slices).slices

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        """Wire slicing, the metrics of each slice, and the one writer of all."""
        to_slices = functools.partial(
            slice_rows, slices=self.slices, task=self.task, classes=self.classes
        )
        write = functools.partial(
            _write_metrics, output=self.output, task=self.task, slices=self.slices
        )
        return (
            batches
            | "SliceRows" >> beam.FlatMap(to_slices)
            | "ComputeMetrics" >> beam.CombinePerKey(metrics_combiner(self.task, self.classes))
            | "CollectSlices" >> beam.combiners.ToList()
            | "WriteMetrics" >> beam.Map(write)
        )


def join_predictions(
    batch: pa.RecordBatch,
    label: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    slices: Sequence[str | Sequence[str]] = (),
) -> pa.RecordBatch:
    """Return the rows as `Evaluate` takes them.

    Args:
        batch: Raw rows with at least the columns to slice by.
        label: The label that the model was trained on, of shape [rows].
        prediction: Of shape [rows], or [rows, classes] for several classes.
        slices: As for `Evaluation`.

    Raises:
        RecipeError: If the batch lacks a column to slice by.
    """
    columns = sorted({name for group in Evaluation(slices).slices for name in group})
    for name in columns:
        if name not in batch.schema.names:
            raise no_such_column(name, batch.schema.names, f"Evaluation(slices={list(slices)!r})")
    flat = pa.array(np.asarray(prediction, np.float32).ravel())
    if prediction.ndim == 2:
        offsets = np.arange(len(prediction) + 1, dtype=np.int32) * prediction.shape[1]
        flat = pa.ListArray.from_arrays(offsets, flat)
    return pa.RecordBatch.from_arrays(
        [pa.array(np.asarray(label, np.float32)), flat, *map(batch.column, columns)],
        names=[LABEL, PREDICTION, *columns],
    )


def slice_rows(
    batch: pa.RecordBatch, slices: Sequence[Sequence[str]], task: str, classes: int = 2
) -> Iterator[tuple[SliceKey, SliceRows]]:
    """Yield all rows of a batch, by the key `()`, then the rows of each slice.

    Args:
        batch: Rows as `join_predictions` gives them.
        slices: The columns of each slice.
        task: As for `Evaluate`.
        classes: As for `Evaluate`.

    Raises:
        RunError: If a label or prediction is missing or not finite, a label is none of the
            classes, or a prediction is not a probability.
        RecipeError: If a column to slice by is a list.
    """
    label = _finite(batch, LABEL)
    prediction: npt.NDArray[Any] = _finite(batch, PREDICTION)
    if task != "regression":
        _check_classes(label, task, classes if task == "multiclass" else 2)
        if prediction.size and not (prediction.min() >= 0 and prediction.max() <= 1):
            raise RunError(
                f"Evaluate: a prediction is {prediction.min():g} or {prediction.max():g}; "
                f"expected probabilities from 0 to 1 for a {task} model"
            )
        prediction = on_grid(prediction)
    # No columns to group by is one group of all rows.
    groups = (group for columns in ((), *slices) for group in _group_rows(batch, columns))
    for key, rows in groups:
        yield key, SliceRows(label[rows], prediction[rows])


def _group_rows(
    batch: pa.RecordBatch, columns: Sequence[str]
) -> Iterator[tuple[SliceKey, npt.NDArray[np.int64]]]:
    """Yield the rows of each combination of values, ascending."""
    columns = sorted(columns)
    codes = np.zeros(batch.num_rows, np.int64)
    values = []
    for name in columns:
        texts = _as_text(batch.column(name), name).dictionary_encode()
        values.append(texts.dictionary.to_pylist())
        codes = codes * len(values[-1]) + texts.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    found, starts = np.unique(codes[order], return_index=True)
    for code, rows in zip(found, np.split(order, starts[1:]), strict=True):
        at = np.unravel_index(code, [len(texts) for texts in values]) if columns else ()
        yield tuple((c, texts[i]) for c, texts, i in zip(columns, values, at, strict=True)), rows


def _as_text(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_nested(column.type):
        raise RecipeError(f'Evaluation: column "{name}" is a list; slice by a single value')
    return pc.fill_null(column.cast(pa.string()), MISSING)


def _finite(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.float32]:
    """Return a column as float32, of shape [rows] or, for lists, [rows, classes]."""
    column = batch.column(name)
    listed = pa.types.is_list(column.type)
    values = (column.flatten() if listed else column).cast(pa.float32())
    array: npt.NDArray[np.float32] = values.to_numpy(zero_copy_only=False)
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad or column.null_count:
        raise RunError(
            f"Evaluate: {bad or column.null_count} of {batch.num_rows} rows have a {name} that "
            "is missing or not finite; " + _REPAIRS[name]
        )
    return array.reshape(batch.num_rows, -1) if listed and batch.num_rows else array


def _check_classes(label: npt.NDArray[np.float32], task: str, classes: int) -> None:
    other = label[(label < 0) | (label >= classes)]
    if other.size:
        raise RunError(
            f"Evaluate: {other.size} of {label.size} rows have a label that is none of the "
            f"{classes} classes, such as {other[0]:.9g}; expected 0 to {classes - 1} for this "
            f"{task} model; give every class rows to train on, or drop such rows with Where "
            "before the split"
        )


_REPAIRS = {
    LABEL: "filter such rows with Require before the split",
    PREDICTION: "the model has diverged: lower its learning rate, or check its features",
}


def _format_metrics(
    results: Results, slices: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, Any]:
    """Return the content of `metrics.json`: slices in the recipe's order, then by value."""
    by_slice = {
        key: {n: None if math.isnan(metrics[n]) else metrics[n] for n in names}
        for key, metrics in results
    }
    if () not in by_slice:
        raise RunError("Evaluate: there are no rows to evaluate; is the test split empty?")
    overall = by_slice.pop(())
    order = {tuple(sorted(columns)): at for at, columns in enumerate(slices)}
    ordered = sorted(by_slice, key=lambda key: (order[tuple(name for name, _ in key)], key))
    return {
        "overall": overall,
        "slices": [{"slice": dict(key), "metrics": by_slice[key]} for key in ordered],
    }


def _write_metrics(
    results: Results, output: str, task: str, slices: Sequence[Sequence[str]]
) -> dict[str, Any]:
    # TFMA takes a second to import, which only this step is to pay.
    from skewless.transforms.evaluation.tfma_files import write_for_tfma

    metrics = _format_metrics(results, slices, METRICS[task])
    with local_output(path_of(output)) as folder:
        write_for_tfma(str(folder), results, task, slices)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics
