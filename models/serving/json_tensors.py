"""Tensors in the JSON of TensorFlow Serving: nested lists, and {"b64": ...} for bytes."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from tensorflow.core.framework import types_pb2

from skewless.models.serving.requests import Code, ServingError

__all__ = ["dumps", "is_bytes", "read_tensor", "shown", "writable"]

# TensorFlow Serving's table of what has a form in JSON.
_DTYPES: dict[int, Any] = {
    types_pb2.DT_BOOL: np.bool_,
    types_pb2.DT_DOUBLE: np.float64,
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_INT8: np.int8,
    types_pb2.DT_INT16: np.int16,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_STRING: np.object_,
    types_pb2.DT_UINT8: np.uint8,
    types_pb2.DT_UINT16: np.uint16,
    types_pb2.DT_UINT32: np.uint32,
    types_pb2.DT_UINT64: np.uint64,
}
_EXPECTED = {
    "b": "true or false",
    "f": "a number",
    "i": "a whole number",
    "u": "a whole number",
    "O": 'text, or {"b64": ...}',
}
_SHOWN = 60
_BYTES = "_bytes"


def is_bytes(value: Any) -> bool:
    """Say whether a value of JSON is `{"b64": ...}`."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def shown(value: Any) -> str:
    """Return a value of JSON for a line that refuses it."""
    # Never all of a large one, nor of what may be deep.
    if type(value) is dict:
        return f"an object of {len(value)} fields"
    if type(value) is list:
        return f"a list of {len(value)}"
    text = json.dumps(value[:_SHOWN] if type(value) is str else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_tensor(value: Any, dtype: int, name: str) -> npt.NDArray[Any]:
    """Return a value of JSON as an array.

    Args:
        value: A number, text, bytes, or lists of them, each as long as its neighbours.
        dtype: TensorFlow's type of the input, of `types_pb2.DataType`.
        name: The input's name, for errors.

    Raises:
        ServingError: If a value is not of the type, or lists are not alike.
    """
    if dtype not in _DTYPES:
        kind = types_pb2.DataType.Name(dtype)
        raise ServingError(Code.UNIMPLEMENTED, f'input "{name}" is {kind}: JSON has no form for it')
    wanted = np.dtype(_DTYPES[dtype])
    shape: list[int] = []
    items = [value]
    while items and type(items[0]) is list:
        length = len(items[0])
        for item in items:
            if type(item) is not list or len(item) != length:
                raise _invalid(
                    f'input "{name}": {shown(item)} stands where others are lists of {length}; '
                    "expected lists of one length"
                )
        shape.append(length)
        items = [one for item in items for one in item]
    array = np.empty(len(items), wanted)
    for i, item in enumerate(items):
        try:
            array[i] = _single(item, wanted)
        except (TypeError, ValueError, OverflowError):
            expected = f"{_EXPECTED[wanted.kind]} ({types_pb2.DataType.Name(dtype)[3:].lower()})"
            raise _invalid(f'input "{name}" is {shown(item)}; expected {expected}') from None
    return array.reshape(shape)


def _single(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a value as one of the type, or raise what a conversion raises."""
    if dtype.kind == "O":
        return decode(value)
    if dtype.kind == "f":
        if type(value) is not float and type(value) is not int:
            raise TypeError(value)
        if math.isfinite(value) and abs(value) > float(np.finfo(dtype).max):
            raise OverflowError(value)
    elif type(value) is not (bool if dtype.kind == "b" else int):
        raise TypeError(value)
    return value


def decode(value: Any) -> bytes:
    """Return text, or `{"b64": ...}`, as bytes.

    Raises:
        TypeError: If it is neither.
        ValueError: If what is there is not base64.
    """
    if type(value) is str:
        return value.encode()
    if not is_bytes(value):
        raise TypeError(value)
    text = value["b64"]
    # Padding may be left out, as TensorFlow Serving has it.
    return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)


def writable(name: str, array: npt.NDArray[Any]) -> Any:
    """Return an output as what `dumps` writes: an array of numbers, or nested lists.

    Raises:
        ServingError: If JSON has no form for its type.
    """
    kind = array.dtype.kind
    if kind in "OS":
        return _texts(array.tolist(), name.endswith(_BYTES))
    if kind not in "biuf":
        raise ServingError(
            Code.UNIMPLEMENTED, f'output "{name}" is {array.dtype}: JSON has no form for it'
        )
    if kind == "f" and not np.isfinite(array).all():
        return _with_words(array)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def dumps(value: Any) -> bytes:
    """Return JSON of what `writable` gives; floats have as few digits as tell them apart."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _texts(value: Any, as_bytes: bool) -> Any:
    if type(value) is list:
        return [_texts(one, as_bytes) for one in value]
    if not as_bytes:
        try:
            return value.decode() if type(value) is bytes else value
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _with_words(array: npt.NDArray[Any]) -> Any:
    if array.ndim:
        return [_with_words(one) for one in array]
    value = array[()]
    if np.isfinite(value):
        return value
    return orjson.Fragment("NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity")


def _invalid(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)
