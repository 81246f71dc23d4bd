"""Encode whole batches of features as tf.train.Examples, to the last bit of every value.

The wire format is https://protobuf.dev/programming-guides/encoding; the messages are
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skewless.errors import RecipeError
from skewless.transforms.sinks.pieces import (
    Bytes,
    Piece,
    Sizes,
    binary_array,
    buffer_of,
    by_size,
    edges_of,
    join_pieces,
    lengths_of,
    one_for_all,
    size_of,
)

__all__ = ["each_example_chunk", "encode_examples"]

# Measured: more rows leave the processor's caches, fewer pay Python's cost for each column.
_CHUNK_ROWS = 8_192
_CHUNK_BYTES = 32 << 20
# What a feature takes beside its name and values, at most: tags, lengths.
_FEATURE_BYTES = 24

_ABSENT = -1


class _Column(NamedTuple):
    """The values of a feature as its message holds them, row after row without a gap.

    Attributes:
        field: The field of `Feature` that holds such values.
        packed: Whether all values of a row share one tag and length, as numbers do.
        data: The bytes of all rows.
        sizes: The bytes of each row; -1 where the row has no such feature.
    """

    field: int
    packed: bool
    data: Bytes
    sizes: Sizes


def each_example_chunk(batch: pa.RecordBatch) -> Iterator[pa.LargeBinaryArray]:
    """Yield the records of `encode_examples`, a bounded number of bytes at a time."""
    if not batch.num_rows:
        return
    names = sum(len(name) + _FEATURE_BYTES for name in batch.schema.names)
    row_bytes = names + batch.nbytes // batch.num_rows
    rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // row_bytes))
    for start in range(0, batch.num_rows, rows):
        yield encode_examples(batch.slice(start, rows))


def encode_examples(batch: pa.RecordBatch) -> pa.LargeBinaryArray:
    """Return the rows of a batch as serialized tf.train.Examples.

    Features stand in the order of their names in every record: the same rows are the same
    bytes, and files compress better. A null is a feature without a value of any kind; an
    empty list is one without values, of its kind.

    Args:
        batch: Columns of float32, int64, bytes or text, or lists of them.

    Returns:
        One record for each row.

    Raises:
        RecipeError: If a column has another type or a list with a null in it, or two
            columns have the same name.

    >>> encode_examples(pa.record_batch({"n": pa.array([[300]])}))[0].as_py()
    b'\\n\\r\\n\\x0b\\n\\x01n\\x12\\x06\\x1a\\x04\\n\\x02\\xac\\x02'
    """
    names = {name.encode(): index for index, name in enumerate(batch.schema.names)}
    if len(names) < batch.num_columns:
        raise RecipeError(
            f"tf.Example: two of the columns {', '.join(batch.schema.names)} have the same "
            "name; rename one"
        )
    pieces: list[Piece] = []
    total: Sizes = 0
    for name in sorted(names):
        column = _column(batch.column(names[name]), name.decode())
        head = functools.partial(_feature_head, name, column.field, column.packed)
        heads, values = by_size(column.sizes, head), _values(column, batch.num_rows)
        pieces += [heads, values]
        total = total + size_of(heads) + size_of(values)
    return join_pieces([by_size(total, _tagged), *pieces], batch.num_rows)


def _tagged(size: int) -> bytes:
    """Return what comes before `size` bytes of the first field of a message."""
    return b"\x0a" + _varint(size)


def _feature_head(name: bytes, field: int, packed: bool, size: int) -> bytes:
    """Return all of the map's entry that comes before its `size` bytes of values."""
    rest = max(size, 0)
    value = _tagged(size) if packed and size > 0 else b""
    if size != _ABSENT:
        value = bytes([field << 3 | 2]) + _varint(len(value) + rest) + value
    entry = _tagged(len(name)) + name + b"\x12" + _varint(len(value) + rest) + value
    return _tagged(len(entry) + rest) + entry


def _varint(value: int) -> bytes:
    """Return an unsigned number in groups of 7 bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _values(column: _Column, rows: int) -> Piece:
    """Return the values of a column: a matrix where all rows have as many bytes."""
    if isinstance(column.sizes, int):
        return column.data.reshape(rows, max(column.sizes, 0))
    return binary_array(column.data, edges_of(np.maximum(column.sizes, 0)))


def _column(array: pa.Array, name: str) -> _Column:
    """Return the values of a column as they are written."""
    values, counts = _flat(array)
    if values.null_count:
        raise RecipeError(
            f'tf.Example: column "{name}" has a list with a null in it; leave that value out'
        )
    field, packed, data, widths = _value_bytes(values, name)
    if isinstance(widths, int):
        sizes = counts * widths
    elif isinstance(counts, int) and counts == 1:
        sizes = widths
    else:
        counts = np.full(len(array), counts) if isinstance(counts, int) else counts
        sizes = one_for_all(np.diff(edges_of(widths)[edges_of(counts)]))
    if array.null_count:
        present = array.is_valid().to_numpy(zero_copy_only=False)
        sizes = one_for_all(np.where(present, sizes, _ABSENT))
    return _Column(field, packed, data, sizes)


def _flat(array: pa.Array) -> tuple[pa.Array, Sizes]:
    """Return the values of a column without those of null rows, and how many a row has."""
    kind = array.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        present = array.is_valid().cast(pa.int64()).to_numpy() if array.null_count else 1
        return array.drop_null(), present
    if array.null_count:
        lengths = pc.list_value_length(array).fill_null(0).cast(pa.int64())
        return array.flatten(), one_for_all(lengths.to_numpy())
    # The same as above in a third of the time, which a table of 2,000 columns notices.
    edges = array.offsets.to_numpy().astype(np.int64, copy=False)
    first, last = int(edges[0]), int(edges[-1])
    return array.values.slice(first, last - first), one_for_all(np.diff(edges))


def _value_bytes(values: pa.Array, name: str) -> tuple[int, bool, Bytes, Sizes]:
    """Return field, packed, the bytes of all values, and how many bytes each has."""
    kind = values.type
    if kind == pa.float32():
        return 2, True, values.to_numpy().astype("<f4", copy=False).view(np.uint8), 4
    if kind == pa.int64():
        return 3, True, *_varints(values.to_numpy())
    if any(is_kind(kind) for is_kind in _BYTES):
        strings = values.cast(pa.large_binary())
        lengths = one_for_all(lengths_of(strings))
        # Each one with its own tag: of bytes, protobuf packs none.
        pieces = [by_size(lengths, _tagged), strings]
        tagged = join_pieces(pieces, len(strings))
        return 1, False, buffer_of(tagged), one_for_all(lengths_of(tagged))
    raise RecipeError(
        f'tf.Example: column "{name}" has values of type {kind}; expected float32, int64, '
        "bytes or text; cast it"
    )


_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_string,
    pa.types.is_large_string,
)


def _varints(values: npt.NDArray[np.int64]) -> tuple[Bytes, Sizes]:
    """Return numbers as varints, a negative one as 10 bytes of its two's complement."""
    unsigned = values.view(np.uint64)
    # The widest decides how many groups of 7 bits are looked at: mostly one or two.
    most = max(1, -(-int(np.bitwise_or.reduce(unsigned)).bit_length() // 7))
    widths = np.ones(len(values), np.int64)
    for group in range(1, most):
        widths += unsigned >= np.uint64(1 << 7 * group)
    matrix = np.empty((len(values), most), np.uint8)
    for group in range(most):
        bits = (unsigned >> np.uint64(7 * group)).astype(np.uint8) & 0x7F
        matrix[:, group] = bits | (widths > group + 1).astype(np.uint8) << 7
    if (widths == most).all():
        return matrix.reshape(-1), most
    return matrix[np.arange(most) < widths[:, np.newaxis]], widths
