"""Records of Avro, in files and in messages, as the objects of JSON that rows are parsed from."""

from __future__ import annotations

import decimal
import json
from collections.abc import Mapping, Sequence
from typing import Any

from skewless.transforms.rows import as_text

__all__ = ["record_as_json"]


def record_as_json(record: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Return some fields of a record as a JSON object; null is left out.

    Raises:
        ValueError: If a field of bytes is not UTF-8.

    >>> record_as_json({"n": decimal.Decimal("2.50"), "s": b"x", "z": None}, ["n", "s", "z"])
    b'{"n": 2.5, "s": "x"}'
    """
    row = {name: record[name] for name in names if record.get(name) is not None}
    return json.dumps(row, default=_json_value).encode()


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return as_text(value)
