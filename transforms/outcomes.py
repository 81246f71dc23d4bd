"""What becomes of parsed or cast columns: rows with their origin, and rows that are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless.schema import Schema
from skewless.transforms.cells import Cells, cast_column, expected
from skewless.transforms.rows import (
    FILE,
    OFFSET,
    Outcome,
    Rejected,
    as_text,
    python_rows,
    with_origin,
)

__all__ = ["STEP", "assemble", "cast_rows", "restore_origin"]

STEP = "Parse"


def assemble(
    columns: Mapping[str, Cells],
    schema: Schema,
    file: str,
    offsets: npt.NDArray[np.int64],
    payload: Callable[[int], bytes],
    cell: Callable[[str, int], str],
) -> Outcome:
    """Make the outcome of parsed columns: good rows are kept, the others rejected.

    Args:
        columns: The parsed columns of the schema.
        schema: The raw columns; a row is rejected for its first bad one.
        file: Where the rows come from.
        offsets: The offset of each row, shape [rows].
        payload: What to keep of a rejected row, by its number.
        cell: The text of a column's cell, by the row's number.

    Returns:
        The rows with their origin columns.
    """
    features = {f.name: f for f in schema.feature}
    names = list(features)
    batch = pa.RecordBatch.from_arrays(
        [columns[name].values for name in names],
        schema=pa.schema([(name, columns[name].values.type) for name in names]),
    )
    batch = with_origin(batch, file, pa.array(offsets, pa.int64()))
    bad = np.zeros(len(offsets), dtype=np.bool_)
    for name in names:
        bad |= columns[name].bad
    if not bad.any():
        return Outcome(batch, [], {"read": len(offsets)})
    rejected = []
    for i in np.flatnonzero(bad).tolist():
        name = next(name for name in names if columns[name].bad[i])
        feature = features[name]
        rejected.append(
            Rejected(
                STEP, file, int(offsets[i]), name, cell(name, i), expected(feature), payload(i)
            )
        )
    return Outcome(batch.filter(pa.array(~bad)), rejected, {"read": len(offsets)})


def cast_rows(
    batch: pa.RecordBatch, schema: Schema, file: str, offsets: npt.NDArray[np.int64]
) -> Outcome:
    """Cast columns of foreign Arrow types; a row with a value that does not fit is rejected.

    Args:
        batch: The rows, with at least the schema's columns.
        schema: The raw columns.
        file: Where the rows come from.
        offsets: The offset of each row, shape [rows].

    Raises:
        DataError: If the type of a column can never be the schema's.
    """

    def row(at: int) -> dict[str, Any]:
        return python_rows(batch.slice(at, 1))[0]

    return assemble(
        {f.name: cast_column(batch.column(f.name), f, file) for f in schema.feature},
        schema,
        file,
        offsets,
        lambda at: json.dumps(row(at), default=as_text).encode(),
        lambda name, at: as_text(row(at)[name]),
    )


def restore_origin(outcome: Outcome, rejected: Sequence[Rejected]) -> Outcome:
    """Give replayed rows the place they first came from.

    Args:
        outcome: Of parsing the payloads of `rejected`, offsets being positions in it.
        rejected: The rows as they were rejected.

    Returns:
        The outcome with files and offsets of old; what is still bad keeps its payload.
    """
    at = outcome.kept.column(OFFSET).to_pylist()
    files = pa.array([rejected[i].file for i in at], pa.string()).dictionary_encode()
    offsets = pa.array([rejected[i].offset for i in at], pa.int64())
    kept = outcome.kept
    kept = kept.set_column(kept.schema.get_field_index(FILE), FILE, files)
    kept = kept.set_column(kept.schema.get_field_index(OFFSET), OFFSET, offsets)
    again = []
    for row in outcome.rejected:
        old = rejected[row.offset]
        again.append(
            row._replace(file=old.file, offset=old.offset, payload=old.payload, input=old.input)
        )
    return Outcome(kept, again, outcome.counts)
