"""What an online store holds, and what every one of them can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

__all__ = ["OnlineStore", "Reader", "Tile", "Transaction", "Wanted"]


class Tile(NamedTuple):
    """One mergeable partial of an aggregate: an entity's events of a span of time.

    Attributes:
        group: The aggregate's name.
        entity: The entity's key, as canonical bytes.
        start: Where the tile begins, in microseconds since 1970.
        value: The partial, as bytes.
    """

    group: str
    entity: bytes
    start: int
    value: bytes


class Wanted(NamedTuple):
    """The tiles of an entity with `first <= start < stop`."""

    group: str
    entity: bytes
    first: int
    stop: int


class Reader(Protocol):
    """What reads tiles and notes."""

    def read(self, wanted: Sequence[Wanted]) -> list[list[tuple[int, bytes]]]:
        """Return tiles as of one moment, in one round trip.

        Args:
            wanted: Which ones.

        Returns:
            For each of `wanted` the starts and values, sorted by start.

        Raises:
            RunError: If the store does not answer.
        """

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """Return the notes whose names begin with `prefix`.

        Raises:
            RunError: If the store does not answer.
        """


class Transaction(Reader, Protocol):
    """Changes that are made all together, or not at all. It sees its own. Not thread-safe."""

    def unseen(self, ids: Sequence[bytes], until: Sequence[int]) -> list[bool]:
        """Say which ids are new, and remember those.

        Args:
            ids: The ids of events. Of equal ones, only the first can be new.
            until: The event times until which to remember them, in microseconds since 1970.
        """

    def tiles(self, keys: Sequence[tuple[str, bytes, int]]) -> list[bytes | None]:
        """Return the present values of exactly these tiles, None for those that are not there.

        Args:
            keys: Group, entity and start of each.
        """

    def put(self, tiles: Iterable[Tile]) -> None:
        """Write tiles, over those that are there."""

    def set_note(self, name: str, value: bytes | None) -> None:
        """Write a note, or delete it where the value is None."""

    def expire(self, starts: Mapping[str, int], ids: int) -> None:
        """Forget what is too old. Time is that of the events, never a clock's.

        Args:
            starts: Groups, and the time before which a tile of the group starts that is
                forgotten.
            ids: The time before which an id's `until` is that is forgotten.
        """


class OnlineStore(Reader, Protocol):
    """The durable state of a stream: one process writes, many read. Thread-safe.

    A micro-batch is one transaction of new ids, tiles and notes, so a process that dies
    loses nothing of those that were committed, and counts nothing twice.
    """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Give a transaction; it is committed at the end of the block, and not if that raises.

        Raises:
            RunError: If another writer writes to the store, or it does not answer.
        """

    def close(self) -> None:
        """Close the connections."""
