"""Raw columns as few arrays: each tensor costs as much as a dozen rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.arrays import argument_names
from skewless.schema import Feature, Schema, is_list, missing_int

__all__ = ["KINDS", "Layout", "Packed", "concat"]

_DTYPES: dict[int, Any] = {
    schema_pb2.FLOAT: np.float32,
    schema_pb2.INT: np.int64,
    schema_pb2.BYTES: np.object_,
}
# The types of columns, in the order of a `Packed`.
KINDS = tuple(_DTYPES)


class Packed(NamedTuple):
    """Raw rows, missing values written out.

    Attributes:
        floats: All single FLOAT columns, float32 [columns, rows].
        ints: All single INT columns, int64 [columns, rows].
        texts: All single BYTES columns, object (bytes) [columns, rows].
        lists: Each list column, [rows, longest].
        rows: How many rows.
    """

    floats: npt.NDArray[np.float32]
    ints: npt.NDArray[np.int64]
    texts: npt.NDArray[np.object_]
    lists: tuple[npt.NDArray[Any], ...]
    rows: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which column is where in a `Packed`.

    Attributes:
        schema: The raw columns.
        singles: The single columns of FLOAT, INT and BYTES, in the order they are packed.
        lists: The list columns, likewise.
        arguments: The argument's name of each column.
    """

    schema: Schema
    singles: tuple[tuple[Feature, ...], ...]
    lists: tuple[Feature, ...]
    arguments: Mapping[str, str]

    @classmethod
    def of(cls, schema: Schema) -> Layout:
        """Return the layout of a schema's columns."""
        single = [feature for feature in schema.feature if not is_list(feature)]
        return cls(
            schema,
            tuple(tuple(f for f in single if f.type == kind) for kind in KINDS),
            tuple(feature for feature in schema.feature if is_list(feature)),
            argument_names(schema),
        )

    def pack(self, arrays: Mapping[str, npt.NDArray[Any]], rows: int) -> Packed:
        """Return columns, by their names, as a `Packed`; columns left out are missing.

        Args:
            arrays: [rows] of the column's dtype, or [rows, longest] for lists.
            rows: How many rows.
        """
        singles = []
        for kind, features in zip(KINDS, self.singles, strict=True):
            matrix = np.empty((len(features), rows), _DTYPES[kind])
            for i, feature in enumerate(features):
                given = arrays.get(feature.name)
                matrix[i] = written_missing(feature) if given is None else given
            singles.append(matrix)
        lists = [
            arrays[f.name] if f.name in arrays else np.empty((rows, 0), _DTYPES[f.type])
            for f in self.lists
        ]
        return Packed(singles[0], singles[1], singles[2], tuple(lists), rows)

    def unpack(self, packed: Packed) -> dict[str, npt.NDArray[Any]]:
        """Return the columns by name."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for features, matrix in self._matrices(packed):
            columns |= {f.name: matrix[i] for i, f in enumerate(features)}
        return columns | {f.name: v for f, v in zip(self.lists, packed.lists, strict=True)}

    def put(
        self, packed: Packed, name: str, values: npt.NDArray[Any], where: npt.NDArray[np.bool_]
    ) -> None:
        """Write a single column's values into some rows of a `Packed`."""
        for features, matrix in self._matrices(packed):
            for i, feature in enumerate(features):
                if feature.name == name:
                    matrix[i, where] = values[where]

    def _matrices(self, packed: Packed) -> Iterator[tuple[tuple[Feature, ...], npt.NDArray[Any]]]:
        return zip(self.singles, (packed.floats, packed.ints, packed.texts), strict=True)


def written_missing(feature: Feature) -> Any:
    """Return the written form of a missing value; see `skewless.arrays`."""
    if feature.type == schema_pb2.INT:
        return missing_int(feature)
    return np.float32(np.nan) if feature.type == schema_pb2.FLOAT else b""


def concat(parts: Sequence[Packed], layout: Layout) -> Packed:
    """Return the rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    lists = [
        _stacked([part.lists[i] for part in parts], feature)
        for i, feature in enumerate(layout.lists)
    ]
    return Packed(
        np.concatenate([part.floats for part in parts], axis=1),
        np.concatenate([part.ints for part in parts], axis=1),
        np.concatenate([part.texts for part in parts], axis=1),
        tuple(lists),
        sum(part.rows for part in parts),
    )


def _stacked(parts: Sequence[npt.NDArray[Any]], feature: Feature) -> npt.NDArray[Any]:
    """Return matrices below each other, short rows filled with the missing form."""
    longest = max(part.shape[1] for part in parts)
    rows = sum(len(part) for part in parts)
    whole = np.full((rows, longest), written_missing(feature), _DTYPES[feature.type])
    at = 0
    for part in parts:
        whole[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return whole
