"""TensorFlow's tensors on the wire as arrays, to the last bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import tensor_pb2, types_pb2

from skewless.models.serving.requests import Code, ServingError

__all__ = ["array_of", "tensor_of"]

# The types that a request may have: where their values are listed, and how.
_TYPES: dict[int, tuple[str, Any]] = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_BOOL: ("bool_val", np.bool_),
    types_pb2.DT_STRING: ("string_val", np.object_),
}
_OF_ARRAY = {np.dtype(dtype): (kind, field) for kind, (field, dtype) in _TYPES.items()}
_MOST_VALUES = 2**27


def array_of(name: str, tensor: tensor_pb2.TensorProto) -> npt.NDArray[Any]:
    """Return a tensor of a request as an array.

    Args:
        name: What the tensor is called, for the error.
        tensor: Its values are in `tensor_content`, or listed; where fewer are listed than
            the shape has, the last one stands for those that follow.

    Raises:
        ServingError: If it is of another type, or its values do not fill its shape.
    """
    if tensor.dtype not in _TYPES:
        known = ", ".join(types_pb2.DataType.Name(kind) for kind in _TYPES)
        raise _invalid(name, f"is of type {_type_name(tensor.dtype)}; expected one of {known}")
    field, dtype = _TYPES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise _invalid(name, f"is of shape {shape[:8]}; expected one that is known")
    count = math.prod(shape)
    if count > _MOST_VALUES:
        raise _invalid(name, f"is of shape {shape[:8]}: {count} values; expected fewer")
    if tensor.tensor_content:
        content = tensor.tensor_content
        if dtype is np.object_ or len(content) != count * np.dtype(dtype).itemsize:
            raise _invalid(
                name, f"has {len(content)} bytes, which do not fill the shape {shape[:8]}"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = getattr(tensor, field)
    if len(values) > count or (count and not len(values)):
        raise _invalid(name, f"lists {len(values)} values, but its shape {shape[:8]} has {count}")
    array = np.empty(count, dtype)
    array[: len(values)] = values
    if len(values) < count:
        array[len(values) :] = values[-1]
    return array.reshape(shape)


def tensor_of(array: npt.NDArray[Any]) -> tensor_pb2.TensorProto:
    """Return an array of an answer as a tensor."""
    kind, field = _OF_ARRAY[array.dtype]
    tensor = tensor_pb2.TensorProto(dtype=kind)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if field == "string_val":
        tensor.string_val.extend(array.ravel().tolist())
    elif array.size <= 16:
        # As clients in every language read it most easily, and as TensorFlow Serving writes.
        getattr(tensor, field).extend(array.ravel().tolist())
    else:
        tensor.tensor_content = np.ascontiguousarray(array).tobytes()
    return tensor


def _type_name(kind: int) -> str:
    known: bool = kind in types_pb2.DataType.values()
    return str(types_pb2.DataType.Name(kind)) if known else str(kind)


def _invalid(name: str, problem: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, f'input "{name[:80]}" {problem}')
