"""Answered requests as rows of a table."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.models.serving.logged import ABOUT, EXAMPLES, Entry, LoggedModel
from skewless.models.serving.requests import Arrays
from skewless.schema import Feature, Schema, arrow_type, is_list, is_required, missing_int
from skewless.timestamps import null_where, outside_years

__all__ = ["logged_rows"]

_DTYPES = {schema_pb2.INT: tf.int64, schema_pb2.FLOAT: tf.float32, schema_pb2.BYTES: tf.string}

_Values: TypeAlias = npt.NDArray[Any]


def logged_rows(entries: Sequence[Entry], model: LoggedModel) -> list[pa.RecordBatch]:
    """Return requests of one version as rows of a table, one for each row asked about.

    A request that was refused is a row without columns and outputs.

    Args:
        entries: The requests.
        model: The version.

    Returns:
        Batches of `model.columns`: of requests of raw rows, of Examples, and of the others.

    Raises:
        tf.errors.InvalidArgumentError: If Examples are not as the schema says.
    """
    fed, examples, others = [], [], []
    for entry in entries:
        if entry.answer is not None and entry.answer.fed is not None:
            fed.append(entry)
        elif entry.answer is not None and EXAMPLES in (entry.request.arrays or {}):
            examples.append(entry)
        else:
            others.append(entry)
    batches = []
    if fed:
        rows = [entry.answer.fed for entry in fed if entry.answer and entry.answer.fed]
        batches.append(_batch(fed, {f.name: _fed(rows, f) for f in model.schema.feature}, model))
    if examples:
        batches.append(_batch(examples, _parsed(examples, model.schema), model))
    if others:
        batches.append(_batch(others, {}, model))
    return batches


def _batch(
    entries: Sequence[Entry], raw: Mapping[str, pa.Array], model: LoggedModel
) -> pa.RecordBatch:
    counts = np.array([entry.answer.rows if entry.answer else 1 for entry in entries])
    about = {
        "serving_time": [entry.time for entry in entries],
        "serving_version": [entry.answer.version if entry.answer else None for entry in entries],
        "serving_signature": [
            entry.answer.signature if entry.answer else entry.request.signature for entry in entries
        ],
        "serving_protocol": [entry.request.protocol for entry in entries],
        "serving_method": [entry.request.method for entry in entries],
        "serving_code": [entry.code.name if entry.code else "OK" for entry in entries],
        "serving_seconds": [entry.seconds for entry in entries],
        "serving_request": [uuid.uuid4().hex for _ in entries],
    }
    each = pa.array(np.repeat(np.arange(len(entries)), counts))
    columns = {
        model.names[name]: pa.array(values, ABOUT[name]).take(each)
        for name, values in about.items()
    }
    numbers = np.concatenate([np.arange(count) for count in counts])
    columns[model.names["serving_row"]] = pa.array(numbers, pa.int64())
    columns |= raw
    for output in ("prediction", "classes"):
        if output in model.names:
            name = model.names[output]
            columns[name] = _outputs(entries, output, model.columns.field(name).type)
    total = int(counts.sum())
    arrays = [
        columns[f.name] if f.name in columns else pa.nulls(total, f.type) for f in model.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=model.columns)


def _outputs(entries: Sequence[Entry], name: str, type_: pa.DataType) -> pa.Array:
    """Return an output of all requests; null where there is none."""
    parts = []
    for entry in entries:
        rows = entry.answer.rows if entry.answer else 1
        values = entry.answer.outputs.get(name) if entry.answer else None
        if values is None or (values.ndim == 2) != pa.types.is_list(type_):
            parts.append(pa.nulls(rows, type_))
        elif values.ndim == 1:
            parts.append(pa.array(values, type_))
        else:
            flat = values.ravel()
            items = _texts(flat) if type_.value_type == pa.string() else pa.array(flat)
            offsets = np.arange(rows + 1, dtype=np.int32) * values.shape[1]
            parts.append(pa.ListArray.from_arrays(pa.array(offsets), items))
    return pa.concat_arrays(parts)


def _fed(rows: Sequence[Arrays], feature: Feature) -> pa.Array:
    """Return a column of all requests, as the graph was fed it."""
    arrays = [one[feature.name] for one in rows]
    if not is_list(feature):
        return _single(np.concatenate(arrays), feature)
    counts = [len(array) for array in arrays]
    widths = np.repeat([array.shape[1] for array in arrays], counts)
    flat = np.concatenate([array.ravel() for array in arrays])
    return _lists(flat, np.repeat(np.arange(sum(counts)), widths), sum(counts), feature)


def _parsed(entries: Iterable[Entry], schema: Schema) -> dict[str, pa.Array]:
    """Return the columns of serialized Examples."""
    examples = [one for e in entries for one in (e.request.arrays or {})[EXAMPLES].tolist()]
    spec = {
        f.name: tf.io.RaggedFeature(_DTYPES[f.type], row_splits_dtype=tf.int64)
        for f in schema.feature
    }
    if not spec:
        return {}
    parsed = tf.io.parse_example(tf.constant(examples, tf.string), spec)
    columns = {}
    for feature in schema.feature:
        ragged = parsed[feature.name]
        flat, splits = ragged.flat_values.numpy(), ragged.row_splits.numpy()
        lengths = np.diff(splits)
        if is_list(feature):
            at = np.repeat(np.arange(len(lengths)), lengths)
            columns[feature.name] = _lists(flat, at, len(lengths), feature)
        else:
            first = pa.array(splits[:-1], mask=lengths == 0)
            columns[feature.name] = _single(flat, feature).take(first)
    return columns


def _single(values: _Values, feature: Feature) -> pa.Array:
    """Return single values as a column, null where they are missing."""
    missing = _missing(values, feature)
    if feature.type == schema_pb2.BYTES:
        return null_where(_texts(values), pa.array(missing))
    if feature.type == schema_pb2.FLOAT:
        return pa.array(values, pa.float32(), mask=missing)
    column = pa.array(values, pa.int64(), mask=missing)
    type_ = arrow_type(feature)
    if not pa.types.is_timestamp(type_):
        return column
    # What is no time of the calendar cannot be written.
    times = column.view(type_)
    return null_where(times, outside_years(times))


def _lists(values: _Values, at: npt.NDArray[np.int64], rows: int, feature: Feature) -> pa.Array:
    """Return values, each of the row `at` it, as a column of lists without missing ones."""
    kept = ~_missing(values, feature)
    values = values[kept]
    lengths = np.bincount(at[kept], minlength=rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    type_ = arrow_type(feature)
    items = _texts(values) if feature.type == schema_pb2.BYTES else pa.array(values)
    lists = pa.ListArray.from_arrays(offsets, items.cast(type_.value_type))
    # No list and an empty one are fed alike; only one of them may be in a required column.
    return lists if is_required(feature) else null_where(lists, pa.array(lengths == 0))


def _missing(values: _Values, feature: Feature) -> npt.NDArray[np.bool_]:
    if feature.type == schema_pb2.FLOAT:
        return np.isnan(values)
    written: Any = b"" if feature.type == schema_pb2.BYTES else missing_int(feature)
    found: npt.NDArray[np.bool_] = np.asarray(values == written, bool)
    return found


def _texts(values: _Values) -> pa.Array:
    """Return bytes as strings; what is no UTF-8 is replaced."""
    column = pa.array(values.tolist(), pa.binary())
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode("utf-8", "replace") for value in values.tolist()])
