"""What all pieces of a database are read from: one snapshot, or one state of its file."""

from __future__ import annotations

import atexit
import contextlib
import pathlib
import threading
from collections.abc import Iterator

from skewless.errors import DataError
from skewless.transforms.sources.database_client import Address, RefusedError, Session
from skewless.transforms.sources.database_sql import text

__all__ = ["files", "held", "join_snapshot", "take_snapshot"]


def take_snapshot(session: Session, pieces: int, connection: contextlib.ExitStack) -> str:
    """Return the snapshot of a session, of which so many pieces will be read.

    Args:
        session: One that has read something, so that it sees what others will have to.
        pieces: How many.
        connection: What closes the session. It is emptied where the snapshot needs that to
            stay open: PostgreSQL keeps one no longer.
    """
    if session.address.kind != "postgresql":
        return _state(session.address)
    session.run("SET LOCAL idle_in_transaction_session_timeout = 0")
    snapshot = str(session.rows("SELECT pg_export_snapshot() AS id")[0]["id"])
    held.hold(snapshot, pieces, connection.pop_all())
    return snapshot


def join_snapshot(session: Session, snapshot: str) -> None:
    """Let a session that was just begun see a snapshot's rows.

    Raises:
        DataError: If it is gone.
    """
    if session.address.kind == "postgresql":
        try:
            session.run(f"SET TRANSACTION SNAPSHOT {text(snapshot)}")
        except RefusedError as error:
            raise DataError(
                f"{error}; the process that planned the pieces has ended, and its snapshot with "
                "it: run again, or read without one: consistent=False"
            ) from None
        return
    if session.address.kind == "sqlite":
        session.rows("SELECT count(*) AS n FROM sqlite_master")  # what others write is not seen now
    if _state(session.address) != snapshot:
        raise DataError(
            f"{session.address.place}: the file has changed since its pieces were planned; run "
            "again, or read each as it is then: consistent=False"
        )


def files(address: Address) -> Iterator[pathlib.Path]:
    """Yield the file of a database, and the log of what is not in it yet."""
    path = pathlib.Path(address.target)
    yield path
    log = path.with_name(path.name + ("-wal" if address.kind == "sqlite" else ".wal"))
    if log.is_file() and log.stat().st_size:
        yield log


def _state(address: Address) -> str:
    found = [part.stat() for part in files(address)]
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in found)


class _Held:
    """Snapshots that this process keeps, by their connections, until their pieces are read.

    What other processes read is not seen here: then they are kept as long as the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[set[int], contextlib.ExitStack]] = {}

    def hold(self, snapshot: str, pieces: int, connection: contextlib.ExitStack) -> None:
        """Keep a snapshot until so many pieces are done."""
        with self._lock:
            self._kept[snapshot] = set(range(pieces)), connection

    def done(self, snapshot: str, number: int) -> None:
        """Note that a piece was read, and let go of the snapshot after the last."""
        with self._lock:
            left, connection = self._kept.get(snapshot, (set(), None))
            left.discard(number)
            if connection is None or left:
                return
            del self._kept[snapshot]
        connection.close()

    def close(self) -> None:
        """Let go of all, as at the end of the process."""
        with self._lock:
            kept, self._kept = list(self._kept.values()), {}
        for _, connection in kept:
            connection.close()


held = _Held()
atexit.register(held.close)
