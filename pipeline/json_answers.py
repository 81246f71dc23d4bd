"""A model's answers in JSON as arrays, to the last bit."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless.errors import RunError

__all__ = ["Arrays", "UnlikeError", "read_answer", "read_rows"]

Arrays = Mapping[str, npt.NDArray[Any]]

_VALUES, _LENGTHS = "/values", "/row_lengths"


class UnlikeError(RunError):
    """An answer has not the outputs that were expected, or not of their types."""


def read_answer(body: bytes) -> list[Any]:
    """Return the rows of an answer.

    Numbers with a point stay text, until it is known which type they are.

    Raises:
        UnlikeError: If the body is no answer to `instances`.

    >>> read_answer(b'{"predictions": [{"x": 0.5, "n": 2}]}')
    [{'x': '0.5', 'n': 2}]
    """
    try:
        rows = json.loads(body, parse_float=str)["predictions"]
    except (ValueError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list):
        raise UnlikeError("answers with something else than predictions in JSON")
    return rows


def read_rows(rows: Sequence[Any], like: Arrays) -> Arrays:
    """Return rows of outputs as arrays.

    Args:
        rows: The rows, see `read_answer`: objects of several outputs, or the only one.
        like: Arrays of the names and types that are expected. An output of any number of values
            is one list a row, but two arrays here, `<name>/values` and `<name>/row_lengths`.

    Returns:
        The outputs by the names in `like`; others are left out. JSON has one NaN: where `like`
        has another one, it is taken.

    Raises:
        UnlikeError: If an output is missing, or is of another type.

    >>> read_rows(["0.1", "nan"], {"x": np.zeros(2, np.float32)})
    {'x': array([0.1, nan], dtype=float32)}
    """
    names = sorted({_base(name, like) for name in like})
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        try:
            # Where there is one output, it stands alone.
            values = list(rows) if len(names) == 1 else [row[name] for row in rows]
            arrays.update(_read_output(name, values, like))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error)[:100]}"
            raise UnlikeError(
                f'answers without the "{name}" that was expected, or with one of another type '
                f"({reason})"
            ) from None
    return arrays


def _base(name: str, like: Arrays) -> str:
    """Return the name of the feature that an array holds all or a half of."""
    for one, other in ((_VALUES, _LENGTHS), (_LENGTHS, _VALUES)):
        base = name.removesuffix(one)
        if base != name and base + other in like:
            return base
    return name


def _read_output(name: str, values: list[Any], like: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return an output as arrays, of the types that they have in `like`."""
    if name in like:
        return {name: _read_values(values, like[name])}
    lengths = np.array([len(one) for one in values], np.int64)
    flat = [value for one in values for value in one]
    return {
        name + _VALUES: _read_values(flat, like[name + _VALUES]),
        name + _LENGTHS: lengths,
    }


def _read_values(values: list[Any], like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array: npt.NDArray[Any]
    if like.dtype == object:
        return np.array(_read_bytes(values), object)
    if like.dtype.kind != "f":
        return np.array(values, like.dtype)
    texts = np.array(values, str)
    # Rounded once, from decimals to the very type; NumPy and Python make float64 of them first.
    numbers = pa.array(texts.ravel()).cast(pa.from_numpy_dtype(like.dtype))
    array = numbers.to_numpy(zero_copy_only=False).reshape(texts.shape)
    if array.shape == like.shape and np.isnan(array).any():
        # In JSON, one NaN is as any other.
        array = np.where(np.isnan(array) & np.isnan(like), like, array)
    return array


def _read_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_read_bytes(one) for one in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()
