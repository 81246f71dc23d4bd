"""Raw rows as JSON, the way a client of the model writes them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from skewless.schema import Schema, arrow_type

__all__ = ["json_rows"]


def json_rows(batch: pa.RecordBatch, schema: Schema) -> list[bytes]:
    """Return each row as a JSON object with the columns of `schema`; what is missing is left out.

    Timestamps are written as ISO 8601 in UTC.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("a", pa.int64(), required=False)])
    >>> json_rows(pa.RecordBatch.from_pydict({"a": [1, None], "b": [0, 0]}), schema)
    [b'{"a": 1}', b'{}']
    """
    columns = {f.name: _values(batch.column(f.name), arrow_type(f)) for f in schema.feature}
    rows = zip(*columns.values(), strict=True)
    return [json.dumps(_present(columns, row)).encode() for row in rows]


def _values(column: pa.Array, type_: pa.DataType) -> list[Any]:
    if pa.types.is_timestamp(type_):
        times = [time and time.isoformat() for time in column.to_pylist()]
        return [time and time.replace("+00:00", "Z") for time in times]
    values: list[Any] = column.to_pylist()
    return values


def _present(names: Any, row: tuple[Any, ...]) -> dict[str, Any]:
    return {name: value for name, value in zip(names, row, strict=True) if value is not None}
