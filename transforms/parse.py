"""Rows of JSON as typed batches, and what becomes of rows that do not parse.

Pure functions, shared by every source and by `skewless predict`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from skewless.json_values import Unbounded, converter
from skewless.schema import Feature, Schema, arrow_type
from skewless.timestamps import null_where, parse_timestamps
from skewless.transforms.cells import (
    Cells,
    canonical,
    cast_column,
    true_where,
)
from skewless.transforms.outcomes import STEP, assemble
from skewless.transforms.rows import Outcome, Rejected

__all__ = [
    "STEP",
    "is_too_deep",
    "json_object",
    "json_text",
    "parse_json_rows",
    "replay_json",
    "typed_json_is_safe",
]

# Of arrays and objects in each other. A stack overflow is no error that can be caught.
_MOST_LEVELS = 100
_JSON_TEXT = re.compile(rb'(?s)"(?:[^"\\]|\\.)*(?:"|\\?\Z)')

# --- JSON -----------------------------------------------------------------------------


def parse_json_rows(
    lines: Sequence[bytes],
    schema: Schema,
    file: str = "",
    offsets: Sequence[int] | None = None,
) -> Outcome:
    """Parse lines that hold one JSON object each.

    Numbers are written as numbers, timestamps as ISO 8601 text or as integers in the
    schema's unit; true and false are 1 and 0 for INT. A field left out, null, NaN or ""
    is missing; fields that the schema does not have are ignored, and so are blank lines.

    Args:
        lines: The lines, without or with their line ends.
        schema: The raw columns.
        file: Where the lines come from.
        offsets: The byte offset of each line; by default its number, from 0.

    Returns:
        The rows with their origin columns, and the lines that are no such rows.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("n", pa.int64(), required=False)])
    >>> outcome = parse_json_rows([b'{"n": 1}', b'{"n": "x"}', b'{}'], schema)
    >>> outcome.kept["n"].to_pylist(), outcome.rejected[0].reason
    ([1, None], 'expected a whole number (int64)')
    """
    places = np.arange(len(lines)) if offsets is None else np.asarray(offsets, np.int64)
    stripped = [line.strip() for line in lines]
    full = np.array([bool(line) for line in stripped], dtype=np.bool_)
    if not full.all():
        stripped = [line for line in stripped if line]
        places = places[full]
    columns = _typed_json(stripped, schema)
    if columns is not None:
        return assemble(columns, schema, file, places, stripped.__getitem__, lambda *_: "")
    rows: list[dict[str, Any]] = []
    kept_lines, kept_places, rejected = [], [], []
    for line, place in zip(stripped, places.tolist(), strict=True):
        try:
            rows.append(json_object(line))
            kept_lines.append(line)
            kept_places.append(place)
        except ValueError as error:
            reason = f"expected a JSON object on one line ({error})"
            rejected.append(Rejected(STEP, file, place, "", "", reason, line))
    outcome = assemble(
        {f.name: _json_column([row.get(f.name) for row in rows], f) for f in schema.feature},
        schema,
        file,
        np.asarray(kept_places, np.int64),
        kept_lines.__getitem__,
        lambda name, i: json_text(rows[i].get(name)),
    )
    return Outcome(outcome.kept, rejected + outcome.rejected, {"read": len(stripped)})


def replay_json(rejected: Sequence[Rejected], schema: Schema) -> Outcome:
    """Parse repaired payloads, one JSON object each; `restore_origin` takes the outcome.

    Args:
        rejected: The rows. A person may have broken an object over several lines.
        schema: The raw columns.

    Returns:
        The rows and those still bad; the offset of a row is its position in `rejected`.
    """
    # Even an empty payload is a row, and must not pass for a blank line.
    lines = [b" ".join(row.payload.split(b"\n")).strip() or b"?" for row in rejected]
    return parse_json_rows(lines, schema)


def _json_float(text: str) -> float | Unbounded:
    value = float(text)
    return Unbounded(text) if math.isinf(value) else value


def _json_int(text: str) -> int | float | Unbounded:
    return int(text) if len(text) < 1000 else _json_float(text)


def json_object(line: bytes) -> dict[str, Any]:
    """Return the object that a line holds.

    Raises:
        ValueError: If it holds none.
    """
    if is_too_deep(line):
        raise ValueError(f"nested deeper than {_MOST_LEVELS} levels")
    row = json.loads(line.decode(), parse_float=_json_float, parse_int=_json_int)
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}")
    return row


def is_too_deep(line: bytes) -> bool:
    """Say whether JSON is nested deeper than parsers may be trusted with.

    >>> is_too_deep(b"[" * 101), is_too_deep(b'["' + b"[" * 101 + b'"]')
    (True, False)
    """
    if line.count(b"[") + line.count(b"{") <= _MOST_LEVELS:
        return False
    brackets = np.frombuffer(_JSON_TEXT.sub(b"", line), np.uint8)
    opened = np.isin(brackets, list(b"[{")).astype(np.int64)
    closed = np.isin(brackets, list(b"]}")).astype(np.int64)
    return bool(np.cumsum(opened - closed).max(initial=0) > _MOST_LEVELS)


def json_text(value: Any) -> str:
    """Return a JSON value as the text that a person wrote."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is no text


def _json_column(values: list[Any], feature: Feature) -> Cells:
    """Convert a column of JSON values, one by one."""
    convert = converter(feature)
    bad = np.zeros(len(values), dtype=np.bool_)
    converted: list[Any] = []
    for i, value in enumerate(values):
        try:
            converted.append(None if value is None else convert(value))
        except (ValueError, TypeError, OverflowError):
            bad[i] = True
            converted.append(None)
    type_ = arrow_type(feature)
    if not pa.types.is_timestamp(type_):
        return Cells(canonical(pa.array(converted, type_), feature), bad)
    texts = pa.array([v if isinstance(v, str) else None for v in converted], pa.string())
    numbers = pa.array([None if isinstance(v, str) else v for v in converted], pa.int64())
    texts = null_where(texts, pc.equal(texts, ""))
    times = parse_timestamps(texts, type_.unit)
    bad |= true_where(pc.and_(pc.is_valid(texts), pc.is_null(times)))
    counted = cast_column(numbers, feature)
    times = canonical(pc.coalesce(counted.values, times), feature)
    return Cells(times, bad | counted.bad)


def typed_json_is_safe(lines: Sequence[bytes]) -> bool:
    """Say whether Arrow's JSON reader takes these lines for what they are.

    It crashes on a bare `null`, may crash on deep nesting, and spells infinity in ways
    that JSON readers do not.
    """
    text = b"\n".join(lines)
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return False
    if re.search(rb"\}\s*n", text) or any(map(is_too_deep, lines)):
        return False
    if (b"NaN" in text or b"Inf" in text) and re.search(rb"[:,\[\s]-?(NaN|Inf)", text):
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _typed_json(lines: list[bytes], schema: Schema) -> dict[str, Cells] | None:
    """Parse all columns at once; None where a line needs to be looked at by itself."""
    if not lines or not typed_json_is_safe(lines):
        return None
    try:
        first = json_object(lines[0])
    except ValueError:
        return None
    fields = [(f.name, _json_type(f, first.get(f.name))) for f in schema.feature]
    block = b"\n".join(lines)
    try:
        table = pa_json.read_json(
            pa.BufferReader(block),
            pa_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pa_json.ParseOptions(
                explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(lines):
        return None
    columns = {}
    for feature in schema.feature:
        column = table[feature.name].combine_chunks()
        if pa.types.is_string(column.type):
            column = null_where(column, pc.equal(column, ""))
        columns[feature.name] = cast_column(column, feature)
        if columns[feature.name].bad.any():
            return None
    return columns


def _json_type(feature: Feature, example: Any) -> pa.DataType:
    """Return the type to read a field as, given how the first row writes it."""
    type_ = arrow_type(feature)
    if pa.types.is_timestamp(type_):
        return pa.int64() if isinstance(example, int) else pa.string()
    if pa.types.is_list(type_):
        return pa.list_(_json_type(Feature(type=feature.type), None))
    if pa.types.is_integer(type_) and isinstance(example, bool):
        return pa.bool_()
    return pa.float64() if pa.types.is_floating(type_) else type_
