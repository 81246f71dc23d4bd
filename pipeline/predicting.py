"""Predictions for raw rows by an exported model alone: of JSON lines, or for a step."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import tensorflow as tf

from skewless.errors import RecipeError
from skewless.models.predict import Arrays, Predictor
from skewless.pipeline.artifacts import RunPaths
from skewless.schema import (
    Schema,
    arrow_type,
    is_required,
    make_feature,
    make_schema,
    parse_schema,
)
from skewless.storage import AnyPath, local_copy, path_of
from skewless.transforms.parse import parse_json_rows
from skewless.transforms.predict import ROW_ERRORS, PredictBatch
from skewless.transforms.rows import Rejected, reject_rows
from skewless.transforms.single_out import reason_of, single_out
from skewless.transforms.validate import validate_rows

__all__ = [
    "load_predictor",
    "model_directory",
    "needed_columns",
    "predict_lines",
    "read_model_schema",
]

_BATCH_ROWS = 1024
_BOM = b"\xef\xbb\xbf"

# What TensorFlow raises when it is a value that it cannot take, not for want of memory, say.
_BAD_VALUE = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)


def model_directory(path: AnyPath) -> AnyPath:
    """Return the version at `path`: a SavedModel, the newest of a folder of them, or of a run."""
    run = RunPaths(path)
    if run.manifest.exists():
        return run.newest_model()
    found = [p for p in path.glob("*") if p.name.isdecimal() and (p / "saved_model.pb").exists()]
    return max(found, key=_number) if found else path


def _number(version: AnyPath) -> int:
    return int(version.name)


def read_model_schema(version: AnyPath) -> Schema:
    """Return the columns that a model takes, without loading it.

    Raises:
        RecipeError: If there is no exported model.
    """
    path = version / "assets.extra" / "schema.pbtxt"
    try:
        return parse_schema(path.read_text(encoding="utf-8"), str(path))
    except OSError:
        raise RecipeError(
            f"model {version}: expected a run, a SavedModel that was exported by skewless, or a "
            "directory of numbered versions of one"
        ) from None


def load_predictor(model: str) -> PredictBatch:
    """Return the predictions of an exported model, as `Predict(load=...)` wants them.

    A row that the model cannot take is a ValueError; want of memory, say, is not.

    Args:
        model: A SavedModel, a folder of versions, or a run, on any Beam file system.

    Raises:
        RecipeError: If there is no exported model.
    """
    with local_copy(model_directory(path_of(model))) as local:
        predictor = Predictor(str(local))
    return functools.partial(_predict, predictor)


def _predict(predictor: Predictor, batch: pa.RecordBatch) -> Arrays:
    try:
        return predictor.predict(batch)
    except _BAD_VALUE as error:
        raise ValueError(reason_of(error)) from error


def needed_columns(schema: Schema) -> Schema:
    """Return what a row must have for a model to predict it: the columns that are required."""
    return make_schema(
        make_feature(f.name, arrow_type(f), required=True) for f in schema.feature if is_required(f)
    )


def predict_lines(model: AnyPath, lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield a JSON object for each JSON row: the model's outputs, or an `error`.

    Args:
        model: A SavedModel, a folder of versions, or a run.
        lines: One JSON object of raw fields each; a field that may be missing may be left out.
        name: What the lines are called in an error.
    """
    with local_copy(model_directory(model)) as local:
        predictor = Predictor(str(local))
    predict = functools.partial(_predict, predictor)
    needed = needed_columns(predictor.schema)
    rest = enumerate(lines, 1)
    while chunk := list(itertools.islice(rest, _BATCH_ROWS)):
        rows = [(n, line.removeprefix(_BOM)) for n, line in chunk if line.strip()]
        parsed = parse_json_rows(
            [line for _, line in rows], predictor.schema, name, [n for n, _ in rows]
        )
        kept, incomplete, _ = validate_rows(parsed.kept, needed)
        done, refused = single_out(predict, kept, ROW_ERRORS) if kept.num_rows else ([], [])
        bad = [*parsed.rejected, *incomplete, *itertools.starmap(_refused, refused)]
        failed = {row.offset: row for row in bad}
        answers = itertools.chain.from_iterable(_by_row(outputs) for _, outputs in done)
        for number, _ in rows:
            answer = _error(failed[number]) if number in failed else next(answers)
            yield json.dumps(answer)


def _refused(row: pa.RecordBatch, error: Exception) -> Rejected:
    (rejected,) = reject_rows(row, "Predict", "", f"the model cannot predict: {reason_of(error)}")
    return rejected


def _error(row: Rejected) -> dict[str, Any]:
    where = f'column "{row.column}": ' if row.column else ""
    return {"error": f"{where}{row.reason}", "value": row.value, "line": row.offset}


def _by_row(outputs: Any) -> Iterator[dict[str, Any]]:
    """Yield the outputs row by row as JSON values."""
    columns = {name: _plain(values.tolist()) for name, values in outputs.items()}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: bytes as text, in lists too."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
