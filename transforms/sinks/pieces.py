"""Records of bytes, all rows at once: put together from pieces that stand side by side.

What differs between two records of a table is mostly the values, not where they stand. So
pieces that take the same room in every row are copied into one matrix of bytes, one strided
copy each, and only what varies in length is joined row by row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "Bytes",
    "Edges",
    "Piece",
    "Sizes",
    "binary_array",
    "buffer_of",
    "by_size",
    "edges_of",
    "join_pieces",
    "lengths_of",
    "one_for_all",
    "size_of",
]

Bytes = npt.NDArray[np.uint8]
Edges = npt.NDArray[np.int64]
# A number for each row, shape [rows], or one for all of them.
Sizes = Edges | int
# A part of every record: the same bytes in all, a matrix [rows, bytes], or any bytes.
Piece: TypeAlias = bytes | Bytes | pa.LargeBinaryArray

_NOTHING = pa.scalar(b"", pa.large_binary())


def by_size(sizes: Sizes, head: Callable[[int], bytes]) -> Piece:
    """Return `head(size)` for every row, calling it once for each distinct size."""
    if isinstance(sizes, int):
        return head(sizes)
    coded = pa.array(sizes).dictionary_encode()
    heads = pa.array([head(size) for size in coded.dictionary.to_pylist()], pa.large_binary())
    return heads.take(coded.indices)


def join_pieces(pieces: Iterable[Piece], rows: int) -> pa.LargeBinaryArray:
    """Return the pieces of each row as one string of bytes, all rows in one buffer."""
    joined: list[pa.LargeBinaryArray] = []
    for varies, group in itertools.groupby(pieces, _varies):
        neighbours = list(group)
        joined += neighbours if varies else [_matrix(neighbours, rows)]
    return joined[0] if len(joined) == 1 else pc.binary_join_element_wise(*joined, _NOTHING)


def _varies(piece: Piece) -> bool:
    return isinstance(piece, pa.LargeBinaryArray)


def _matrix(pieces: list[bytes | Bytes], rows: int) -> pa.LargeBinaryArray:
    """Return pieces that take the same room in every row."""
    sizes = [len(piece) if isinstance(piece, bytes) else piece.shape[1] for piece in pieces]
    constants = [
        piece if isinstance(piece, bytes) else bytes(size)
        for piece, size in zip(pieces, sizes, strict=True)
    ]
    template = np.frombuffer(b"".join(constants), np.uint8)
    matrix = np.empty((rows, len(template)), np.uint8)
    matrix[:] = template
    at = 0
    for piece, size in zip(pieces, sizes, strict=True):
        if size and rows and not isinstance(piece, bytes):
            # As one item of `size` bytes a row: NumPy's loop over single bytes is slow.
            item = np.dtype((np.void, size))
            target = np.ndarray((rows,), item, matrix, offset=at, strides=(len(template),))
            target[:] = np.ascontiguousarray(piece).reshape(-1).view(item)
        at += size
    return binary_array(matrix.reshape(-1), np.arange(rows + 1, dtype=np.int64) * len(template))


def binary_array(data: Bytes, edges: Edges) -> pa.LargeBinaryArray:
    """Return the strings of bytes between neighbouring edges, without a copy."""
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(edges) - 1, buffers)


def buffer_of(strings: pa.LargeBinaryArray) -> Bytes:
    """Return all strings, one after another, without a copy."""
    _, edges, data = strings.buffers()
    if data is None or not len(strings):
        return np.empty(0, np.uint8)
    at = np.frombuffer(edges, np.int64)[strings.offset : strings.offset + len(strings) + 1]
    return np.frombuffer(data, np.uint8)[at[0] : at[-1]]


def size_of(piece: Piece) -> Sizes:
    """Return how many bytes a piece takes."""
    if isinstance(piece, bytes):
        return len(piece)
    return piece.shape[1] if isinstance(piece, np.ndarray) else lengths_of(piece)


def lengths_of(strings: pa.LargeBinaryArray) -> Edges:
    """Return the length of each string in bytes."""
    lengths: Edges = pc.binary_length(strings).to_numpy()
    return lengths


def edges_of(sizes: Edges) -> Edges:
    """Return where each row begins and the last one ends, shape [rows + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def one_for_all(sizes: Edges) -> Sizes:
    """Return one number where all rows have the same."""
    return int(sizes[0]) if len(sizes) and (sizes == sizes[0]).all() else sizes
