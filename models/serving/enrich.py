"""What reads the windowed features that a request leaves out; the server is given it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import pyarrow as pa

from skewless.schema import Schema

__all__ = ["Enrich", "Enriched"]


class Enriched(NamedTuple):
    """What was read.

    Attributes:
        columns: The columns of the aggregates that were wanted, one row for each row of keys.
        failed: Whether the store did not answer, and the columns are empty instead.
        seconds: How long it took.
    """

    columns: pa.RecordBatch
    failed: bool
    seconds: float


class Enrich(Protocol):
    """Reads windowed features from an online store, as of now.

    Attributes:
        columns: For each `Aggregate`, by its name, the columns that the model needs.
        keys: The key columns.
    """

    columns: Mapping[str, tuple[str, ...]]
    keys: Schema

    def __call__(self, keys: pa.RecordBatch, wanted: Collection[str]) -> Enriched:
        """Return the columns of aggregates for rows of keys; a null key has none.

        Args:
            keys: The key columns, null where a request had none.
            wanted: The names of the aggregates.

        Raises:
            ServingError: If the store does not answer, and the recipe does not take empty
                aggregates instead.
        """

    def close(self) -> None:
        """Close the connections to the store."""
