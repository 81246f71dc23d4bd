"""Which windowed features a request leaves out, and putting those of a store in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.arrays import raw_array
from skewless.models.serving.enrich import Enrich, Enriched
from skewless.models.serving.json_rows import RowReader
from skewless.models.serving.packing import Layout, Packed, concat
from skewless.models.serving.requests import Arrays, Code, ServingError
from skewless.schema import arrow_type, find_feature, is_required, missing_int

__all__ = ["Lacking", "Lookup", "example_rows"]

Rows = Sequence[Mapping[str, Any]]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Lacking:
    """What a request leaves out.

    Attributes:
        masks: For each `Aggregate` of which a row has no column: which rows, [rows].
        keys: The key columns of all rows.
    """

    masks: Mapping[str, Mask]
    keys: Packed


class Lookup:
    """Looks for what requests lack, and reads it from the store.

    An `Aggregate` none of whose columns a row brings is read as of now; one of which it
    brings some is taken as it is sent.

    Args:
        enrich: What reads.
        layout: How the model's columns are packed.

    Attributes:
        columns: The columns that a request may leave out.
    """

    def __init__(self, enrich: Enrich, layout: Layout) -> None:
        self._enrich = enrich
        self._layout = layout
        self._keys = RowReader(enrich.keys)
        arguments = layout.arguments
        self._names = {
            plan: tuple({n for c in columns for n in (c, arguments[c])})
            for plan, columns in enrich.columns.items()
        }
        required = {f.name for f in layout.schema.feature if is_required(f)}
        self._required = {
            plan: [(c, arguments[c]) for c in columns if c in required]
            for plan, columns in enrich.columns.items()
        }
        self.columns = frozenset(c for columns in enrich.columns.values() for c in columns)

    def of_rows(self, rows: Rows) -> Lacking | None:
        """Return what raw rows lack; None if nothing.

        Raises:
            ServingError: If a key is not of its column's type, or a row brings only some of the
                columns of an `Aggregate` that are required.
        """
        masks = {}
        for plan, names in self._names.items():
            mask = [not any(name in row for name in names) for row in rows]
            if any(mask):
                masks[plan] = np.array(mask)
            for i, (row, lacks) in enumerate(zip(rows, mask, strict=True)):
                if not lacks:
                    self._check_whole(plan, row, f"instance {i}")
        return Lacking(masks, self._keys.read(rows)) if masks else None

    def of_arrays(self, arrays: Arrays, rows: int) -> Lacking | None:
        """Return what columns lack, those of keys that are no columns of the model among them.

        Raises:
            ServingError: If a key's column is not of its type.
        """
        masks = {
            plan: np.ones(rows, np.bool_)
            for plan, names in self._names.items()
            if not any(name in arrays for name in names)
        }
        for plan in self._names.keys() - masks.keys():
            self._check_whole(plan, arrays, "inputs")
        if not masks:
            return None
        keys = {}
        for feature in self._enrich.keys.feature:
            given = arrays.get(feature.name)
            if given is not None:
                kind = {schema_pb2.INT: "i", schema_pb2.FLOAT: "f"}.get(feature.type, "OS")
                if given.dtype.kind not in kind or given.shape != (rows,):
                    raise ServingError(
                        Code.INVALID_ARGUMENT,
                        f'input "{feature.name}" is {given.dtype} of shape {list(given.shape)}; '
                        f"expected {arrow_type(feature)} [{rows}]",
                    )
                keys[feature.name] = given
        return Lacking(masks, self._keys.layout.pack(keys, rows))

    def _check_whole(self, plan: str, row: Mapping[str, Any], where: str) -> None:
        for name, other in self._required[plan]:
            if row.get(name) is None and row.get(other) is None:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f'{where}: "{name}" is missing, but other columns of Aggregate "{plan}" are '
                    "there; send all of them, or none",
                )

    @property
    def key_columns(self) -> frozenset[str]:
        """The names of the key columns."""
        return frozenset(feature.name for feature in self._enrich.keys.feature)

    def fill(
        self, whole: Packed, lacking: Sequence[Lacking | None], rows: Sequence[int]
    ) -> Enriched:
        """Write what a batch's requests lack into their rows.

        Args:
            whole: The rows of all requests; written into.
            lacking: What each request lacks.
            rows: How many rows each has.

        Raises:
            ServingError: If the store does not answer.
        """
        masks = _masks(lacking, rows)
        layout = self._keys.layout
        counted = zip(lacking, rows, strict=True)
        parts = [layout.pack({}, n) if one is None else one.keys for one, n in counted]
        keys = concat(parts, layout)
        found = self._enrich(self._key_batch(keys), masks.keys())
        for plan, mask in masks.items():
            for name in self._enrich.columns[plan]:
                feature = find_feature(self._layout.schema, name)
                values = raw_array(found.columns.column(name), feature)
                self._layout.put(whole, name, values, mask)
        return found

    def close(self) -> None:
        """Close what reads."""
        self._enrich.close()

    def _key_batch(self, keys: Packed) -> pa.RecordBatch:
        columns = self._keys.layout.unpack(keys)
        arrays = []
        for feature in self._enrich.keys.feature:
            values = columns[feature.name]
            if feature.type == schema_pb2.FLOAT:
                arrays.append(pa.array(values, pa.float32(), mask=np.isnan(values)))
            elif feature.type == schema_pb2.INT:
                missing = values == missing_int(feature)
                arrays.append(pa.array(values, pa.int64(), mask=missing).cast(arrow_type(feature)))
            else:
                texts = [value or None for value in values.tolist()]
                arrays.append(pa.array(texts, pa.binary()).cast(pa.string()))
        names = [feature.name for feature in self._enrich.keys.feature]
        if not names:
            # Aggregates of all events have no key, and a batch of no columns no rows.
            arrays, names = [pa.nulls(keys.rows)], [""]
        return pa.RecordBatch.from_arrays(arrays, names=names)


def _masks(lacking: Sequence[Lacking | None], rows: Sequence[int]) -> dict[str, Mask]:
    masks: dict[str, Mask] = {}
    ends = np.cumsum(rows)
    for one, end, count in zip(lacking, ends, rows, strict=True):
        for plan, mask in (one.masks if one is not None else {}).items():
            whole = masks.setdefault(plan, np.zeros(int(ends[-1]), np.bool_))
            whole[end - count : end] = mask
    return masks


def example_rows(examples: Sequence[bytes], layout: Layout) -> list[dict[str, Any]]:
    """Return serialized Examples as raw rows: a value for each single column, a list for others.

    Raises:
        ServingError: If one is no Example, or a text of it no UTF-8.
    """
    lists = {feature.name for feature in layout.lists}
    rows = []
    for i, serialized in enumerate(examples):
        try:
            example = example_pb2.Example.FromString(serialized)
            row = {
                name: _values(feature, name in lists)
                for name, feature in example.features.feature.items()
            }
        except (DecodeError, UnicodeDecodeError):
            raise ServingError(
                Code.INVALID_ARGUMENT, f"example {i}: expected a serialized tf.Example of UTF-8"
            ) from None
        rows.append(row)
    return rows


def _values(feature: feature_pb2.Feature, listed: bool) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [value.decode() for value in values]
    if listed or len(values) > 1:
        return values
    return values[0] if values else None
