"""What a stream writes: files of examples by window of time, rejected rows, messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from skewless.storage import AnyPath
from skewless.transforms.aggregate.tiles import Time, times_of
from skewless.transforms.apply import apply_transform, load_transform
from skewless.transforms.live.released import Accepted, Released
from skewless.transforms.rows import data_columns
from skewless.transforms.sinks.files import whole_file
from skewless.transforms.sinks.rejected import rejected_to_json
from skewless.transforms.sinks.tfrecord_file import TFRecordFile, TFRecordOptions

__all__ = [
    "Graph",
    "Predictions",
    "as_messages",
    "short_version",
    "write_examples",
    "write_rejected",
]

_OPTIONS = TFRecordOptions()

# From a version and raw rows to named predictions.
Predictions = Callable[[str, pa.RecordBatch], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Graph:
    """The transform graph of the newest version, whatever that is at the moment.

    Args:
        newest: Returns the newest version.
        path_of: Returns the transform graph of a version.
    """

    newest: Callable[[], str]
    path_of: Callable[[str], str]

    def __call__(self, batch: pa.RecordBatch) -> Accepted:
        """Apply the graph; the rows that it cannot take are rejected."""
        version = self.newest()
        (rows, features), rejected = apply_transform(load_transform(self.path_of(version)), batch)
        return Accepted(rows, features, rejected, version)

    def features(self, released: Released) -> pa.RecordBatch:
        """Return the features of rows by the graph that took them, once more after a restart."""
        if released.features is not None:
            return released.features
        return load_transform(self.path_of(released.version))(released.rows)


def short_version(version: str) -> str:
    """Return what a version is called in outputs: the last part of its path.

    >>> short_version("runs/flights/4d954ce63afd")
    '4d954ce63afd'
    """
    return version.rpartition("/")[2]


def write_rejected(released: Released, folder: AnyPath) -> None:
    """Write the rejected rows of a transaction; done twice, it is the same file."""
    if released.rejected:
        lines = "".join(f"{rejected_to_json(row)}\n" for row in released.rejected)
        with whole_file(folder / f"part-{released.number:09d}.jsonl") as path:
            path.write_text(lines, encoding="utf-8")


def write_examples(
    released: Released, features: pa.RecordBatch, folder: AnyPath, at: Time | None, window: int
) -> None:
    """Write features as TFRecord, below the version and the window; done twice, it is the same.

    Args:
        released: The rows.
        features: Their features.
        folder: Where `<version>/<window>/part-*.tfrecord.gz` go.
        at: The rows' times; None for rows without.
        window: The length of a window in microseconds; 0 for one of all time.
    """
    name = f"part-{released.number:09d}{_OPTIONS.suffix}"
    for label, part in _by_window(released.rows, features, at, window):
        path_to = folder / short_version(released.version) / label / name
        with (
            whole_file(path_to) as path,
            path.open("wb") as file,
            TFRecordFile(file, _OPTIONS) as records,
        ):
            records.write(part)


def _by_window(rows: Any, features: pa.RecordBatch, at: Time | None, window: int) -> Any:
    """Yield the name of each window and its features."""
    if at is None or not window:
        yield "all", features
        return
    times = times_of(at, rows, "at=")
    starts = times.fill_null(0).to_numpy(zero_copy_only=False) // window * window
    for start in np.unique(starts).tolist():
        # NumPy also knows the years that Python's dates do not.
        moment = np.datetime64(start, "us") if start % 1_000_000 else _second(start)
        yield f"{str(moment).replace(':', '')}Z", features.filter(pa.array(starts == start))


def _second(start: int) -> np.datetime64:
    return np.datetime64(start // 1_000_000, "s")


def as_messages(
    released: Released, features: pa.RecordBatch, predictions: Mapping[str, Any]
) -> pa.RecordBatch:
    """Return rows to send: the raw columns, features, predictions, the version and an id.

    A message that is sent again has the id that it had: `_id` is the number of the
    transaction and of the row in it.
    """
    rows = released.rows
    assert rows is not None
    ids = [f"{released.number}-{row}" for row in range(rows.num_rows)]
    columns: dict[str, Any] = {name: rows.column(name) for name in data_columns(rows)}
    columns |= {
        f"features.{name}": column
        for name, column in zip(features.schema.names, features.columns, strict=True)
    }
    for name, values in predictions.items():
        columns[name] = pa.array(list(values)) if values.ndim > 1 else pa.array(values)
    columns["_version"] = pa.repeat(short_version(released.version), rows.num_rows)
    columns["_id"] = pa.array(ids)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
