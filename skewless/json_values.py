"""What a value of JSON is as a value of a raw column: the same in files, streams and requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.schema import Feature, arrow_type, is_list

__all__ = ["Unbounded", "converter"]


class Unbounded(str):
    """A number of JSON that no float can hold."""


def converter(feature: Feature) -> Callable[[Any], Any]:
    """Return the function that converts one JSON value, or raises for a bad one.

    A number must be written as a number; true and false are 1 and 0 for INT. A time is a
    whole number in the column's unit, or a text, which is returned as it is. Items of a
    list that are null are left out.

    Returns:
        A function that raises ValueError, TypeError or OverflowError for a bad value.

    >>> from skewless.schema import make_feature
    >>> converter(make_feature("n", pa.float32(), required=False))(0.1)
    0.10000000149011612
    """
    if is_list(feature):
        item = converter(Feature(type=feature.type))

        def convert_list(value: Any) -> list[Any]:
            if not isinstance(value, list):
                raise TypeError(value)
            return [item(one) for one in value if one is not None]

        return convert_list
    if pa.types.is_timestamp(arrow_type(feature)):
        return _time
    return {
        schema_pb2.INT: _to_int,
        schema_pb2.FLOAT: _to_float,
        schema_pb2.BYTES: _to_text,
    }[feature.type]


def _to_int(value: Any) -> int:
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ValueError(value)
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)
    with np.errstate(over="ignore"):
        single = float(np.float32(float(value)))
    if math.isinf(single) and not (isinstance(value, float) and math.isinf(value)):
        raise ValueError(value)
    return single


def _to_text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Unbounded):
        raise ValueError(value)
    value.encode()  # a lone surrogate is no text
    return value


def _time(value: Any) -> int | str:
    return _to_text(value) if isinstance(value, str) else _to_int(value)
