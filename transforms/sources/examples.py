"""Serialized tf.train.Examples as columns: a batch at once, and what spoils one singled out."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from skewless.schema import Feature, Schema, arrow_type, is_list
from skewless.transforms.cells import Cells, cast_column
from skewless.transforms.outcomes import STEP, assemble
from skewless.transforms.rows import Outcome, Rejected, as_text, python_rows
from skewless.transforms.sources.source import one_ahead
from skewless.transforms.sources.tfrecord_file import Records

__all__ = ["ExampleParser", "example_cells"]

_EXPECTED = "expected a tf.train.Example with one kind of value in each feature"
_DTYPES = {schema_pb2.INT: tf.int64, schema_pb2.FLOAT: tf.float32, schema_pb2.BYTES: tf.string}

# Records of whose features the kinds are found out, where they are not the schema's.
_LOOKED_AT = 100

_Decoded = tuple[range, pa.RecordBatch | None]


class ExampleParser:
    """Parses serialized Examples into rows of a schema.

    All are parsed at once by `tf.io.parse_example`, given what kind of values each feature
    has. Where one spoils that, tfx_bsl's decoder finds out the kinds, also of half as many.

    Args:
        schema: The raw columns.
        path: Where the records come from.
    """

    def __init__(self, schema: Schema, path: str) -> None:
        self._schema = schema
        self._path = path
        # Of the schema at first; then those of the first records, where these have any.
        self._kinds = {feature.name: _DTYPES[feature.type] for feature in schema.feature}
        self._looked = False

    def parse(self, parts: Iterable[Records]) -> Iterator[Outcome]:
        """Yield the rows of records, and the records that are none.

        While some become rows, the next are being decoded, which takes no turn of Python's.
        """
        for (offsets, records), decoded in one_ahead((p, self._decode(p.contents)) for p in parts):
            yield from self._outcomes(offsets, records, decoded)

    def _outcomes(
        self, offsets: Sequence[int], records: Sequence[bytes], decoded: Iterable[_Decoded]
    ) -> Iterator[Outcome]:
        for at, batch in decoded:
            places = np.asarray(offsets[at.start : at.stop])
            if batch is not None:
                yield _typed(batch, self._schema, self._path, places)
                continue
            row = Rejected(STEP, self._path, int(places[0]), "", "", _EXPECTED, records[at.start])
            nothing = pa.RecordBatch.from_pylist([], pa.schema([]))
            kept = _typed(nothing, self._schema, self._path, places[:0]).kept
            yield Outcome(kept, [row], {"read": 1})

    def _decode(self, records: Sequence[bytes]) -> list[_Decoded]:
        for look in (not self._looked, True):
            if look:
                self._find_out_kinds(records[:_LOOKED_AT])
            try:
                return [(range(len(records)), _parse(records, self._kinds))]
            except tf.errors.InvalidArgumentError:
                continue
        return list(_decode(records))

    def _find_out_kinds(self, records: Sequence[bytes]) -> None:
        """Learn what kinds of values the features of some records have."""
        self._looked = True
        for _, batch in _decode(records):
            if batch is not None:
                self._kinds.update(_kinds_of(batch, self._kinds))


def _parse(records: Sequence[bytes], kinds: Mapping[str, tf.DType]) -> pa.RecordBatch:
    """Parse records whose features are of these kinds."""
    spec = {
        name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64) for name, kind in kinds.items()
    }
    parsed = tf.io.parse_example(tf.constant(list(records), tf.string), spec)
    columns = []
    for value in parsed.values():
        flat = value.flat_values.numpy()
        items = pa.array(flat, pa.large_binary()) if flat.dtype == object else pa.array(flat)
        columns.append(pa.LargeListArray.from_arrays(value.row_splits.numpy(), items))
    return pa.RecordBatch.from_arrays(columns, names=list(parsed))


def _decode(records: Sequence[bytes]) -> Iterator[_Decoded]:
    """Decode records of any kinds; where one of them spoils a batch, the halves of it.

    Yields:
        Which records they are, and their features as lists; None for one that is bad.
    """
    waiting = [range(len(records))]
    while waiting:
        at = waiting.pop()
        try:
            yield at, _decoder().DecodeBatch(list(records[at.start : at.stop]))
        except (RuntimeError, ValueError):
            if len(at) == 1:
                yield at, None
                continue
            half = at.start + len(at) // 2
            waiting += [range(half, at.stop), range(at.start, half)]


@functools.cache
def _decoder() -> ExamplesToRecordBatchDecoder:
    return ExamplesToRecordBatchDecoder()


def _kinds_of(batch: pa.RecordBatch, names: Mapping[str, Any]) -> dict[str, tf.DType]:
    """Return the kinds of those features that have values."""
    found = {}
    for name in set(batch.schema.names) & set(names):
        type_ = batch.schema.field(name).type
        if not pa.types.is_null(type_):
            item = type_.value_type
            integer, floating = pa.types.is_integer(item), pa.types.is_floating(item)
            found[name] = tf.int64 if integer else tf.float32 if floating else tf.string
    return found


def example_cells(records: Sequence[bytes]) -> Iterator[pa.RecordBatch]:
    """Yield records in the types of tf.train.Example, features of one value as cells."""
    for _, batch in _decode(records):
        if batch is not None:
            columns = [_plain(column) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _typed(
    batch: pa.RecordBatch, schema: Schema, path: str, offsets: npt.NDArray[np.int64]
) -> Outcome:
    """Return decoded features as rows of the schema's types."""
    names = set(batch.schema.names)
    found = {
        feature.name: batch.column(feature.name)
        if feature.name in names
        else pa.nulls(len(offsets), pa.large_list(pa.null()))
        for feature in schema.feature
    }

    def row(at: int) -> dict[str, Any]:
        one = pa.RecordBatch.from_arrays([c.slice(at, 1) for c in found.values()], list(found))
        return {name: _unlisted(value) for name, value in python_rows(one)[0].items()}

    return assemble(
        {feature.name: _cells(found[feature.name], feature, path) for feature in schema.feature},
        schema,
        path,
        offsets,
        lambda i: json.dumps(row(i), default=as_text).encode(),
        lambda name, i: as_text(row(i)[name]),
    )


def _unlisted(value: Any) -> Any:
    if isinstance(value, list) and len(value) <= 1:
        return value[0] if value else None
    return value


def _cells(column: pa.Array, feature: Feature, path: str) -> Cells:
    """Return a feature as a column; bad is more than one value where one is expected."""
    if pa.types.is_null(column.type):
        column = column.cast(pa.large_list(pa.null()))
    column = _with_text(column, feature)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if not _is_of_kind(column.type.value_type, feature):
        return Cells(pa.nulls(len(column), arrow_type(feature)), lengths > 0)
    if is_list(feature):
        return cast_column(column, feature, path)
    many = lengths > 1
    if not len(lengths) or (lengths == 1).all():
        values = column.flatten()
    else:
        firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        at = pa.array(firsts, pa.int64(), mask=lengths == 0)
        values = column.flatten().take(at)
    cells = cast_column(values, feature, path)
    return Cells(cells.values, cells.bad | many)


def _is_of_kind(given: pa.DataType, feature: Feature) -> bool:
    """Say whether a kind of value can be the feature's: records are written one by one."""
    type_ = arrow_type(Feature(type=feature.type, time_domain=feature.time_domain))
    if pa.types.is_null(given):
        return True
    if pa.types.is_timestamp(type_):
        return not pa.types.is_floating(given)
    number = pa.types.is_integer(given) or pa.types.is_floating(given)
    return bool(number != (feature.type == schema_pb2.BYTES))


def _with_text(column: pa.Array, feature: Feature) -> pa.Array:
    """Return bytes as text where they may be times or numbers; what is not UTF-8 as missing."""
    item = column.type.value_type
    binary = pa.types.is_large_binary(item) or pa.types.is_binary(item)
    if feature.type == schema_pb2.BYTES or not binary:
        return column
    values = column.values
    try:
        values = values.cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = [value and value.decode("utf-8", "replace") for value in values.to_pylist()]
        values = pa.array(texts, pa.large_string())
    return type(column).from_arrays(column.offsets, values)


def _plain(column: pa.Array) -> pa.Array:
    """Return a feature of at most one value a row as cells."""
    if pa.types.is_null(column.type):
        return column
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if lengths.max(initial=0) > 1:
        return column
    at = itertools.accumulate(lengths.tolist(), initial=0)
    places = [place if length else None for place, length in zip(at, lengths, strict=False)]
    return column.flatten().take(pa.array(places, pa.int64()))
