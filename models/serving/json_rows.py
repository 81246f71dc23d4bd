"""Raw rows of JSON as packed columns, as `skewless predict` reads them."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.json_values import converter
from skewless.models.serving.packing import Layout, Packed, written_missing
from skewless.models.serving.requests import Code, ServingError
from skewless.schema import Feature, Schema, arrow_type, is_list, is_required, missing_int
from skewless.timestamps import parse_timestamps

__all__ = ["RowReader"]

Rows = Sequence[Mapping[str, Any]]

# What is beyond this is infinite as float32.
_LARGEST = float(np.finfo(np.float32).max) * (1 + 2.0**-25)
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d:\d\d(?:\.\d{3}(?:\d{3})?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_WORDS = {
    schema_pb2.INT: "a whole number (int64)",
    schema_pb2.FLOAT: "a number (float32)",
    schema_pb2.BYTES: 'text, or {"b64": ...}',
}


class RowReader:
    """Reads raw rows as JSON has them.

    A field left out, null, NaN or "" is missing; fields that the schema does not have are
    ignored. A column may go by the name of its argument too.

    Args:
        schema: The raw columns.
        optional: Columns that may be left out even where the schema requires them.
    """

    def __init__(self, schema: Schema, optional: Collection[str] = ()) -> None:
        self.layout = layout = Layout.of(schema)
        self._singles = [[_Column(f, layout, optional) for f in kind] for kind in layout.singles]
        self._lists = [_Column(f, layout, optional) for f in layout.lists]

    def read(self, rows: Rows) -> Packed:
        """Return the rows, packed.

        Raises:
            ServingError: If a value is not of its column's type, or a required one is missing.
        """
        floats, ints, texts = ([column.values(rows) for column in kind] for kind in self._singles)
        return Packed(
            np.array(floats, np.float32).reshape(len(floats), len(rows)),
            np.array(ints, np.int64).reshape(len(ints), len(rows)),
            _objects(texts, len(rows)),
            tuple(column.matrix(rows) for column in self._lists),
            len(rows),
        )


class _Column:
    """One column, and how its values are read."""

    def __init__(self, feature: Feature, layout: Layout, optional: Collection[str]) -> None:
        self._name = feature.name
        self._other = layout.arguments[feature.name]
        self._type = feature.type
        self._missing = written_missing(feature)
        self._required = is_required(feature) and feature.name not in optional
        self._expected = _expected(feature)
        self._read = _reader(feature)

    def values(self, rows: Rows) -> list[Any]:
        """Return the column's value in each row, missing ones written out.

        Raises:
            ServingError: If one is not of the column's type.
        """
        name, read, missing, found = self._name, self._read, self._missing, []
        for i, row in enumerate(rows):
            value = row.get(name)
            if value is None:
                value = row.get(self._other)
            if value is None:
                if self._required:
                    raise self._refusal(i, "missing")
                found.append(missing)
                continue
            try:
                value = read(value)
            except (ValueError, TypeError, OverflowError):
                raise self._refusal(i, _shown(value)) from None
            if self._required and (value == missing or value != value):
                raise self._refusal(i, "missing")
            found.append(value)
        return found

    def matrix(self, rows: Rows) -> npt.NDArray[Any]:
        """Return a list column, short rows filled with the missing form.

        Raises:
            ServingError: As `values`.
        """
        read, lists = self._read, []
        for i, row in enumerate(rows):
            value = row.get(self._name)
            value = row.get(self._other) if value is None else value
            if value is None and self._required:
                raise self._refusal(i, "missing")
            try:
                lists.append([] if value is None else read(value))
            except (ValueError, TypeError, OverflowError):
                raise self._refusal(i, _shown(value)) from None
        longest = max(map(len, lists), default=0)
        dtype = {schema_pb2.FLOAT: np.float32, schema_pb2.INT: np.int64}.get(self._type, object)
        matrix = np.full((len(rows), longest), self._missing, dtype)
        for i, items in enumerate(lists):
            matrix[i, : len(items)] = items
        return matrix

    def _refusal(self, row: int, found: str) -> ServingError:
        return ServingError(
            Code.INVALID_ARGUMENT,
            f'instance {row}: "{self._name}" is {found}; expected {self._expected}',
        )


def _expected(feature: Feature) -> str:
    what = _WORDS[feature.type]
    if pa.types.is_timestamp(arrow_type(feature)):
        unit = "seconds" if arrow_type(feature).unit == "s" else "microseconds"
        what = f"an ISO 8601 time from year 1 to 9999, or {unit} since 1970"
    return f"a list, each item {what}" if is_list(feature) else what


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _reader(feature: Feature) -> Callable[[Any], Any]:
    if is_list(feature):
        # Items that are as missing as null leave no hole.
        item, missing = _single(Feature(type=feature.type)), written_missing(feature)

        def read_list(value: Any) -> list[Any]:
            if not isinstance(value, list):
                raise TypeError(value)
            items = [item(one) for one in value if one is not None]
            return [one for one in items if one == one and one != missing]

        return read_list
    return _single(feature)


def _single(feature: Feature) -> Callable[[Any], Any]:
    if pa.types.is_timestamp(arrow_type(feature)):
        return _time_reader(feature)
    if feature.type == schema_pb2.BYTES:
        return _bytes
    if feature.type == schema_pb2.FLOAT:
        return _float
    return converter(feature)


_convert_float = converter(Feature(type=schema_pb2.FLOAT))


def _float(value: Any) -> float:
    # Rounded with all others of its matrix; only what may overflow is looked at.
    if type(value) is float and -_LARGEST < value < _LARGEST:
        return value
    return float(_convert_float(value))


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str):
        try:
            # Columns are text, as in every source.
            return base64.b64decode(value["b64"], validate=True).decode().encode()
        except binascii.Error as error:
            raise ValueError(str(error)) from None
    raise TypeError(value)


def _time_reader(feature: Feature) -> Callable[[Any], int]:
    unit = arrow_type(feature).unit
    convert, missing = converter(feature), missing_int(feature)
    scale = 1_000_000 if unit == "s" else 1
    first, end = (-62_135_596_800 * 1_000_000 // scale, 253_402_300_800 * 1_000_000 // scale)

    def read_time(value: Any) -> int:
        value = convert(value)
        if isinstance(value, str):
            return _text_time(value, unit, scale, missing)
        if value != missing and not first <= value < end:
            raise ValueError(value)
        return int(value)

    return read_time


def _text_time(text: str, unit: str, scale: int, missing: int) -> int:
    if not text:
        return missing
    if _ISO.fullmatch(text):
        # The forms that everybody writes, without Arrow's cost for a single value.
        time = datetime.datetime.fromisoformat(text)
        if time.tzinfo is None:
            time = time.replace(tzinfo=datetime.UTC)
        count, rest = divmod((time - _EPOCH) // _MICROSECOND, scale)
        if rest or not -62_135_596_800 <= count * scale // 1_000_000 < 253_402_300_800:
            raise ValueError(text)
        return count
    parsed = parse_timestamps(pa.array([text]), unit).cast(pa.int64())[0].as_py()
    if parsed is None:
        raise ValueError(text)
    return int(parsed)


def _objects(columns: list[list[bytes]], rows: int) -> npt.NDArray[np.object_]:
    matrix = np.empty((len(columns), rows), np.object_)
    for i, column in enumerate(columns):
        matrix[i] = column
    return matrix
