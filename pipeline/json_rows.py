"""Raw rows as JSON, the way a client of the model writes them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from skewless.schema import Schema, arrow_type

__all__ = ["json_rows"]


def json_rows(batch: pa.RecordBatch, schema: Schema, nulls: Collection[str] = ()) -> list[bytes]:
    """Return each row as a JSON object with the columns of `schema`; what is missing is left out.

    Timestamps are written as ISO 8601 in UTC.

    Args:
        batch: Rows with at least the schema's columns.
        schema: The raw columns wanted.
        nulls: The columns of which what is missing is written too, as null.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("a", pa.int64(), required=False)])
    >>> json_rows(pa.RecordBatch.from_pydict({"a": [1, None], "b": [0, 0]}), schema)
    [b'{"a": 1}', b'{}']
    """
    columns = {f.name: _values(batch.column(f.name), arrow_type(f)) for f in schema.feature}
    rows = zip(*columns.values(), strict=True)
    return [json.dumps(_present(columns, row, nulls)).encode() for row in rows]


def _values(column: pa.Array, type_: pa.DataType) -> list[Any]:
    if pa.types.is_timestamp(type_):
        times = [time and time.isoformat() for time in column.to_pylist()]
        return [time and time.replace("+00:00", "Z") for time in times]
    values: list[Any] = column.to_pylist()
    return values


def _present(names: Any, row: tuple[Any, ...], nulls: Collection[str]) -> dict[str, Any]:
    named = zip(names, row, strict=True)
    return {name: value for name, value in named if value is not None or name in nulls}
