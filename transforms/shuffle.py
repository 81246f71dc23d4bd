"""Keys, order and partitions of rows: what steps that bring rows together are made of.

Rows meet by their key through Beam as whole sub-batches, one for each of a few partitions,
never one by one. The hash only says which partition; whether two keys are equal is decided
there on their true values. Everything here gives the same result on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError, no_such_column
from skewless.schema import Schema, arrow_type, column_names, find_feature, is_list
from skewless.transforms.rows import ORIGIN

__all__ = [
    "PARTITIONS",
    "check_columns",
    "check_keys",
    "check_times",
    "concat",
    "gather",
    "hash_rows",
    "key_codes",
    "key_values",
    "partition_batch",
    "partitions_for",
    "row_order",
    "take_batches",
    "time_values",
]

PARTITIONS = 16
_BATCH_ROWS = 65_536
# A part may be held three times while it is sorted: less than a GB.
_PART_BYTES = 256 << 20
# With more, a batch is cut into pieces so small that the shuffle is a few times the rows.
_MOST_PARTITIONS = 4_096

Array = npt.NDArray[Any]

_NULL_HASH = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(0x100000001B3)


def check_columns(columns: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise the error that names the first of `columns` which is not `known`.

    Raises:
        RecipeError: If a column does not exist.
    """
    names = set(known)
    for name in columns:
        if name not in names:
            raise no_such_column(name, names, where)


def check_keys(by: Sequence[str], schema: Schema, where: str) -> None:
    """Check that the columns `by` exist in `schema` and can be keys.

    Raises:
        RecipeError: If a column does not exist, or holds lists.
    """
    check_columns(by, column_names(schema), where)
    for name in by:
        feature = find_feature(schema, name)
        if feature is not None and is_list(feature):
            raise RecipeError(f'{where}: column "{name}" holds lists and cannot be a key; drop it')


def key_values(column: pa.Array) -> pa.Array:
    """Return a column in the one form in which its values are compared and hashed.

    Whatever file a value came from: whole numbers and booleans are int64, times int64
    microseconds since 1970, other numbers float64 (-0.0 is 0.0, NaN is null), text string.

    Raises:
        RecipeError: If values of this type cannot be keys.

    >>> key_values(pa.array([5, None], pa.int8())).type
    DataType(int64)
    """
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.int64())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column if pa.types.is_int64(kind) else column.cast(pa.int64())
    if pa.types.is_floating(kind):
        numbers = pc.add(column.cast(pa.float64()), 0.0)
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return column if pa.types.is_string(kind) else column.cast(pa.string())
    raise RecipeError(f"a column of type {kind} cannot be a key; name one that holds single values")


def hash_rows(batch: pa.RecordBatch, by: Sequence[str], salt: str = "") -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of the values of the columns `by` for each row.

    It is pandas' `hash_array` (SipHash-2-4 of UTF-8 for text, splitmix64 for the bits of
    int64 and float64), folded over the salt and then the columns in their order, and mixed
    once more: the same on every machine, in every run, for every size of batch.

    Args:
        batch: Rows.
        by: Columns with single values; their order matters.
        salt: Another salt gives an independent hash.

    Returns:
        An array of shape [rows], uint64.

    Raises:
        RecipeError: If a column does not exist or holds lists.
    """
    check_columns(by, batch.schema.names, "the key")
    start = pd.util.hash_array(np.array([salt], dtype=object), categorize=False)[0]
    hashes = np.full(batch.num_rows, start, dtype=np.uint64)
    for name in by:
        hashes = hashes * _FOLD + _hash_column(key_values(batch.column(name)))
    return np.asarray(pd.util.hash_array(hashes, categorize=False), dtype=np.uint64)


def _hash_column(values: pa.Array) -> npt.NDArray[np.uint64]:
    encoded = values.dictionary_encode()
    distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
    hashes = np.append(pd.util.hash_array(distinct, categorize=False), _NULL_HASH)
    return np.asarray(hashes[_codes(encoded)], dtype=np.uint64)


def _codes(encoded: pa.DictionaryArray) -> Array:
    """Return the indices of a dictionary array, -1 for null."""
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False))


def key_codes(columns: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """Number the rows by their key: equal values have equal numbers, null equals null.

    Args:
        columns: Key columns of equal length, as `key_values` gives them.

    Returns:
        An array of shape [rows], int64.
    """
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        encoded = column.dictionary_encode()
        # Numbers are made dense again each time, so the product always fits.
        codes = codes * (len(encoded.dictionary) + 1) + _codes(encoded) + 1
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return codes


def partition_batch(
    batch: pa.RecordBatch, by: Sequence[str], partitions: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Split a batch by the hash of its key, so that equal keys meet in one partition.

    Args:
        batch: Rows; those of one partition keep their order.
        by: Key columns.
        partitions: How many partitions there are.

    Yields:
        The partition's number and its rows, for every partition that has any.
    """
    numbers = hash_rows(batch, by) % np.uint64(partitions)
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    # Taken, not sliced: a slice would hold the whole batch.
    for number, rows in zip(found.tolist(), np.split(order, starts)[1:], strict=True):
        yield number, batch.take(pa.array(rows))


def partitions_for(size: int | None, least: int = PARTITIONS) -> int:
    """Return in how many parts to bring rows together, so that workers bear a part.

    Args:
        size: Bytes of all rows in memory, see `Source.estimate_size`; None for not known.
        least: For few rows, or if nobody knows how many.

    >>> partitions_for(100 << 30)
    400
    """
    return min(max(least, -(-(size or 0) // _PART_BYTES)), _MOST_PARTITIONS)


def concat(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    """Return all rows as one batch; there must be at least one batch."""
    return pa.concat_batches(list(batches))


def gather(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Yield all rows in few batches, of about `size` bytes each, holding one at a time."""
    held: list[pa.RecordBatch] = []
    held_bytes = 0
    for batch in batches:
        held.append(batch)
        held_bytes += batch.nbytes
        if held_bytes >= size:
            yield concat(held)
            held, held_bytes = [], 0
    if held:
        yield concat(held)


def row_order(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Return the indices that put rows in their order of origin: by file, then offset.

    Rows without origin columns are ordered by what they hold. Either way the order does not
    depend on how a runner happened to bring the rows together.
    """
    if set(ORIGIN) <= set(batch.schema.names):
        names: Sequence[str] = ORIGIN
    else:
        names = batch.schema.names
    columns = {str(n): _sortable(batch.column(name)) for n, name in enumerate(names)}
    order = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])
    return np.asarray(order.to_numpy(), dtype=np.int64)


def _sortable(column: pa.Array) -> pa.Array:
    """Return a column that sorts as `column` does; text by rank, lists by their text."""
    if pa.types.is_nested(column.type):
        column = pa.array([None if value is None else repr(value) for value in column.to_pylist()])
    if not isinstance(column, pa.DictionaryArray):
        if not pa.types.is_string(column.type):
            return column
        column = column.dictionary_encode()
    ranks = np.append(pc.rank(column.dictionary, tiebreaker="dense").to_numpy(), 0)
    return pa.array(ranks[_codes(column)])


def take_batches(batch: pa.RecordBatch, order: Array) -> Iterator[pa.RecordBatch]:
    """Yield the rows `order` of a batch, at most 65,536 at a time, each in its own memory."""
    for start in range(0, len(order), _BATCH_ROWS):
        yield batch.take(pa.array(order[start : start + _BATCH_ROWS]))


def check_times(name: str, schema: Schema, where: str) -> None:
    """Check that the column `name` exists in `schema` and holds times.

    Raises:
        RecipeError: If it does not.
    """
    check_columns([name], column_names(schema), where)
    feature = find_feature(schema, name)
    if feature is not None:
        _check_time_type(arrow_type(feature), name, where)


def time_values(batch: pa.RecordBatch, name: str, where: str) -> pa.Array:
    """Return a column of times as int64 microseconds since 1970 UTC, nulls kept.

    Raises:
        RecipeError: If the column does not exist or holds no times.
    """
    check_columns([name], batch.schema.names, where)
    column = batch.column(name)
    _check_time_type(column.type, name, where)
    return key_values(column)


def _check_time_type(type_: pa.DataType, name: str, where: str) -> None:
    if not (pa.types.is_timestamp(type_) or pa.types.is_date(type_)):
        raise RecipeError(
            f'{where}: column "{name}" holds {type_}, not times; name a column of times, or '
            "give this one a time_domain in the schema"
        )
