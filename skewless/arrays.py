"""Raw rows as plain NumPy arrays: what every signature and every apply is called with."""

from __future__ import annotations

import itertools
import keyword
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError, no_such_column
from skewless.schema import Feature, Schema, arrow_type, column_names, is_list, missing_int

__all__ = ["argument_names", "raw_array", "raw_arrays"]

# What TensorFlow takes for the name of an argument, and keeps as it is.
_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def argument_names(schema: Schema) -> dict[str, str]:
    """Return what each raw column is called as an argument of a SavedModel's signature.

    A column whose name is an identifier of ASCII characters keeps it. Elsewhere `_` stands
    for every other character, after `arg_` where the name does not begin with a letter or
    is a word of Python. Names that are alike, upper and lower case taken as one as
    TensorFlow does, get a number.

    Args:
        schema: The raw columns; their order does not matter.

    Returns:
        The name of the argument for each column's name.

    >>> from skewless.schema import make_feature, make_schema
    >>> names = ["trip miles", "a-b", "a_b", "1st"]
    >>> argument_names(make_schema(make_feature(n, pa.int64(), required=True) for n in names))
    {'a_b': 'a_b', '1st': 'arg_1st', 'a-b': 'a_b_2', 'trip miles': 'trip_miles'}
    """
    names = sorted(column_names(schema))
    kept: dict[str, str] = {}
    for name in names:
        if _is_argument(name):
            kept.setdefault(name.lower(), name)
    arguments, taken = {name: name for name in kept.values()}, set(kept)
    for name in names:
        if name not in arguments:
            plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
            plain = plain if _is_argument(plain) else f"arg_{plain}"
            numbered = (f"{plain}_{number}" for number in itertools.count(2))
            tried = itertools.chain([plain], numbered)
            arguments[name] = next(one for one in tried if one.lower() not in taken)
            taken.add(arguments[name].lower())
    return arguments


def _is_argument(name: str) -> bool:
    return bool(_ARGUMENT.fullmatch(name)) and name != "self" and not keyword.iskeyword(name)


def raw_arrays(batch: pa.RecordBatch, schema: Schema) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `schema` as arrays in which missing values are written out.

    Args:
        batch: Rows with at least the schema's columns.
        schema: The raw columns wanted.

    Returns:
        For each column an array of shape [rows], or [rows, longest list] for lists, with
        dtype float32, int64 or object (bytes).

    Raises:
        RecipeError: If the batch lacks a column.
    """
    arrays = {}
    names = set(batch.schema.names)
    for feature in schema.feature:
        if feature.name not in names:
            raise no_such_column(feature.name, batch.schema.names, "rows")
        arrays[feature.name] = raw_array(batch.column(feature.name), feature)
    return arrays


def raw_array(column: pa.Array, feature: Feature) -> npt.NDArray[Any]:
    """Return one raw column as an array, missing values in their written form.

    >>> from skewless.schema import make_feature
    >>> raw_array(pa.array([1, None]), make_feature("n", pa.float32(), required=False))
    array([ 1., nan], dtype=float32)
    """
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _padded_lists(column, feature)
    if feature.type == schema_pb2.BYTES:
        filled = column.cast(pa.binary()).fill_null(b"")
    elif feature.type == schema_pb2.INT:
        # Parquet has no timestamps in seconds, so a column may come in another unit.
        typed = column if is_list(feature) else _in_unit(column, feature)
        filled = typed.cast(pa.int64()).fill_null(missing_int(feature))
    else:
        filled = column.cast(pa.float32()).fill_null(np.nan)
    array: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return array


def _in_unit(column: pa.Array, feature: Feature) -> pa.Array:
    try:
        return column.cast(arrow_type(feature))
    except pa.ArrowInvalid as error:
        raise RecipeError(
            f'column "{feature.name}" of type {column.type} does not fit the schema\'s '
            f"{arrow_type(feature)}: {error}"
        ) from None


def _padded_lists(column: pa.Array, feature: Feature) -> npt.NDArray[Any]:
    """Return a list column as a matrix, short rows filled with the missing form."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    values = raw_array(column.flatten(), feature)
    fill: Any = {
        schema_pb2.INT: missing_int(feature),
        schema_pb2.FLOAT: np.nan,
        schema_pb2.BYTES: b"",
    }[feature.type]
    matrix = np.full((len(column), int(lengths.max(initial=0))), fill, dtype=values.dtype)
    if matrix.size:
        matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = values
    return matrix
