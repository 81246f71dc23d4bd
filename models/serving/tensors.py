"""TensorFlow's tensors on the wire as arrays, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import tensor_pb2, types_pb2

from skewless.models.serving.requests import Arrays, Code, ServingError

__all__ = ["array_of", "arrays_of", "fill_tensor", "tensor_of"]


class _Kind(NamedTuple):
    """A type of tensors: where values are listed, as what, and what they are in memory."""

    field: str
    listed: Any
    dtype: npt.DTypeLike
    size: int


def _kind(field: str, listed: Any, dtype: Any = None) -> _Kind:
    return _Kind(field, listed, dtype or listed, np.dtype(dtype or listed).itemsize)


_KINDS: dict[int, _Kind] = {
    types_pb2.DT_FLOAT: _kind("float_val", np.float32),
    types_pb2.DT_DOUBLE: _kind("double_val", np.float64),
    types_pb2.DT_INT64: _kind("int64_val", np.int64),
    types_pb2.DT_INT32: _kind("int_val", np.int32),
    types_pb2.DT_INT16: _kind("int_val", np.int32, np.int16),
    types_pb2.DT_INT8: _kind("int_val", np.int32, np.int8),
    types_pb2.DT_UINT64: _kind("uint64_val", np.uint64),
    types_pb2.DT_UINT32: _kind("uint32_val", np.uint32),
    types_pb2.DT_UINT16: _kind("int_val", np.int32, np.uint16),
    types_pb2.DT_UINT8: _kind("int_val", np.int32, np.uint8),
    types_pb2.DT_BOOL: _kind("bool_val", np.bool_),
    types_pb2.DT_STRING: _kind("string_val", np.object_),
}
_OF_ARRAY = {np.dtype(kind.dtype): (number, kind.field) for number, kind in _KINDS.items()}
_MOST_BYTES = 16 * 2**20
_MOST_DIMENSIONS = 8


def arrays_of(
    tensors: Mapping[str, tensor_pb2.TensorProto], most_bytes: int = _MOST_BYTES
) -> Arrays:
    """Return the tensors of a request as arrays.

    Args:
        tensors: The tensors by name.
        most_bytes: How many bytes all may have together; see `array_of`.

    Raises:
        ServingError: If they have more, or one is not as `array_of` reads it.
    """
    arrays: Arrays = {}
    for name, tensor in tensors.items():
        arrays[name] = array = array_of(name, tensor, most_bytes)
        most_bytes -= array.nbytes
    return arrays


def array_of(
    name: str, tensor: tensor_pb2.TensorProto, most_bytes: int = _MOST_BYTES
) -> npt.NDArray[Any]:
    """Return a tensor of a request as an array.

    Args:
        name: What the tensor is called, for the error.
        tensor: Its values are in `tensor_content`, or listed; where fewer are listed than
            the shape has, the last one stands for those that follow.
        most_bytes: How many bytes the array may have, since a few bytes of shape can ask
            for any number; a string counts as a reference.

    Raises:
        ServingError: If it has more, is of another type, or its values do not fill its shape.
    """
    kind = _KINDS.get(tensor.dtype)
    if kind is None:
        known = ", ".join(types_pb2.DataType.Name(number) for number in _KINDS)
        raise _invalid(name, f"is of type {_type_name(tensor.dtype)}; expected one of {known}")
    shape = _shape(name, tensor, kind, most_bytes)
    count = shape[0] if len(shape) == 1 else math.prod(shape)
    if content := tensor.tensor_content:
        if kind.dtype is np.object_ or len(content) != count * kind.size:
            raise _invalid(name, f"has {len(content)} bytes, which do not fill the shape {shape}")
        return np.frombuffer(content, kind.dtype).reshape(shape)
    values = getattr(tensor, kind.field)
    listed = len(values)
    if listed > count or (count and not listed):
        raise _invalid(name, f"lists {listed} values, but its shape {shape} has {count}")
    array: npt.NDArray[Any]
    if kind.dtype is np.object_:
        array = np.empty(listed, np.object_)
        array[:] = list(values)
    else:
        array = np.fromiter(values, kind.listed, listed)
        if kind.dtype is not kind.listed:
            array = array.astype(kind.dtype)
    if listed < count:
        whole = np.empty(count, kind.dtype)
        whole[:listed] = array
        whole[listed:] = array[-1]
        array = whole
    return array if len(shape) == 1 else array.reshape(shape)


def _shape(name: str, tensor: tensor_pb2.TensorProto, kind: _Kind, most_bytes: int) -> list[int]:
    """Return a tensor's shape, which an array of so many bytes can have."""
    given = tensor.tensor_shape
    dims = given.dim
    if len(dims) > _MOST_DIMENSIONS:
        raise _invalid(name, f"has {len(dims)} dimensions; expected at most {_MOST_DIMENSIONS}")
    shape = [dim.size for dim in dims]
    # NumPy multiplies all sizes but those that are 0.
    size = kind.size
    for each in shape:
        size *= each or 1
    if given.unknown_rank or (shape and min(shape) < 0):
        found = "unknown rank" if given.unknown_rank else f"shape {shape}"
        raise _invalid(name, f"is of {found}; expected a shape without unknown sizes")
    if size > most_bytes:
        raise _invalid(
            name,
            f"is of shape {shape}, of {kind.size} bytes a value; expected all inputs of a "
            "request to have fewer values: send fewer rows at a time",
        )
    return shape


def tensor_of(array: npt.NDArray[Any]) -> tensor_pb2.TensorProto:
    """Return an array of an answer as a tensor."""
    tensor = tensor_pb2.TensorProto()
    fill_tensor(tensor, array)
    return tensor


def fill_tensor(tensor: tensor_pb2.TensorProto, array: npt.NDArray[Any]) -> None:
    """Write an array of an answer to an empty tensor.

    Values are listed as TensorFlow Serving lists them: clients of other languages read
    `float_val`, and nothing else.
    """
    tensor.dtype, field = _OF_ARRAY[array.dtype]
    dims = tensor.tensor_shape.dim
    for size in array.shape:
        dims.add(size=size)
    getattr(tensor, field).extend(array.ravel().tolist())


def _type_name(number: int) -> str:
    known: bool = number in types_pb2.DataType.values()
    return str(types_pb2.DataType.Name(number)) if known else str(number)


def _invalid(name: str, problem: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, f'input "{name[:80]}" {problem}')
