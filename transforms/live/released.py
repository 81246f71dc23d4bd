"""What a micro-batch lets go, and what the transform graph made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from skewless.transforms.rows import Rejected, from_ipc, to_ipc
from skewless.transforms.sinks.rejected import rejected_from_json, rejected_to_json

__all__ = ["Accept", "Accepted", "Released"]


class Released(NamedTuple):
    """Rows that were let go, with all columns, and rows that were rejected.

    Attributes:
        number: Of the transaction; what is written for it is written under this number.
        rows: The rows, or None.
        rejected: The rejected rows.
        version: Of the graph that took them.
        features: What that made of them; not kept in the store, and None after a restart.
    """

    number: int
    rows: pa.RecordBatch | None
    rejected: tuple[Rejected, ...]
    version: str = ""
    features: pa.RecordBatch | None = None

    def to_bytes(self) -> bytes:
        """Return it as bytes."""
        lines = json.dumps([self.version, *map(rejected_to_json, self.rejected)]).encode()
        rows = b"" if self.rows is None else to_ipc(self.rows)
        return len(lines).to_bytes(8, "little") + lines + rows

    @classmethod
    def from_bytes(cls, number: int, data: bytes) -> Released:
        """Return what `to_bytes` was called on."""
        end = 8 + int.from_bytes(data[:8], "little")
        version, *lines = json.loads(data[8:end])
        rows = from_ipc(data[end:]) if len(data) > end else None
        return cls(number, rows, tuple(map(rejected_from_json, lines)), version)


class Accepted(NamedTuple):
    """What the transform graph made of rows.

    Attributes:
        rows: The rows that it takes.
        features: What it made of them, row by row.
        rejected: The others.
        version: What tells which graph it was.
    """

    rows: pa.RecordBatch
    features: pa.RecordBatch
    rejected: list[Rejected]
    version: str


Accept = Callable[[pa.RecordBatch], Accepted]
