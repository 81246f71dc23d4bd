"""Predictions for raw JSON rows, by an exported model alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from skewless.models.predict import Predictor
from skewless.pipeline.artifacts import RunPaths
from skewless.schema import arrow_type, is_required, make_feature, make_schema
from skewless.storage import AnyPath, local_copy
from skewless.transforms.parse import parse_json_rows
from skewless.transforms.rows import Rejected
from skewless.transforms.validate import validate_rows

__all__ = ["model_directory", "predict_lines"]

_BATCH_ROWS = 1024
_BOM = b"\xef\xbb\xbf"


def model_directory(path: AnyPath) -> AnyPath:
    """Return the model at `path`: a SavedModel, a folder of versions, or a run."""
    run = RunPaths(path)
    return run.newest_model() if run.manifest.exists() else path


def predict_lines(model: AnyPath, lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield a JSON object for each JSON row: the model's outputs, or an `error`.

    Args:
        model: A SavedModel, a folder of versions, or a run.
        lines: One JSON object of raw fields each; a field that may be missing may be left out.
        name: What the lines are called in an error.
    """
    with local_copy(model_directory(model)) as local:
        predictor = Predictor(str(local))
    needed = make_schema(
        make_feature(f.name, arrow_type(f), required=True)
        for f in predictor.schema.feature
        if is_required(f)
    )
    rest = enumerate(lines, 1)
    while chunk := list(islice(rest, _BATCH_ROWS)):
        rows = [(n, line.removeprefix(_BOM)) for n, line in chunk if line.strip()]
        parsed = parse_json_rows(
            [line for _, line in rows], predictor.schema, name, [n for n, _ in rows]
        )
        kept, incomplete, _ = validate_rows(parsed.kept, needed)
        failed = {row.offset: row for row in [*parsed.rejected, *incomplete]}
        answers = _by_row(predictor.predict(kept) if kept.num_rows else {})
        for number, _ in rows:
            answer = _error(failed[number]) if number in failed else next(answers)
            yield json.dumps(answer)


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
