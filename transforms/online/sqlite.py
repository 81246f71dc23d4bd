"""An online store in one file on this machine: SQLite."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from skewless.errors import RunError
from skewless.transforms.online.store import Tile, Wanted

__all__ = ["SqliteStore"]

_VERSION = 1
_SCHEMA = (
    "CREATE TABLE tiles (grp TEXT NOT NULL, entity BLOB NOT NULL, start INTEGER NOT NULL, "
    "value BLOB NOT NULL, PRIMARY KEY (grp, entity, start)) WITHOUT ROWID",
    "CREATE INDEX tiles_by_start ON tiles (grp, start)",
    "CREATE TABLE seen (id BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX seen_by_until ON seen (until)",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {_VERSION}",
)
_RANGE = (
    "SELECT start, value FROM tiles WHERE grp = ? AND entity = ? AND start >= ? AND start < ? "
    "ORDER BY start"
)
_TILE = "SELECT value FROM tiles WHERE grp = ? AND entity = ? AND start = ?"
_PUT = "INSERT INTO tiles VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_SEE = "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING"
_NOTE = "INSERT INTO notes VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"


class SqliteStore:
    """An online store in a SQLite file.

    A transaction is on the disk when it is committed (`synchronous=FULL`, one fsync), since
    the stream acknowledges its messages next, and nobody sends those again. Readers go on
    reading while one writes: the file is in WAL mode, so it must not be on a network's disk.

    Args:
        path: The file, made with its folders where there is none.
        timeout: How many seconds to wait for another writer to end its transaction.

    Raises:
        RunError: If the file cannot be opened, or is something else.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = 30.0) -> None:
        self._path = pathlib.Path(path).absolute()
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error) from None
        self._create()

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    def read(self, wanted: Sequence[Wanted]) -> list[list[tuple[int, bytes]]]:
        """Return tiles as of one moment: see `Reader`."""
        with self._session("BEGIN") as connection:
            return SqliteTransaction(connection).read(wanted)

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """Return the notes whose names begin with `prefix`."""
        with self._session("BEGIN") as connection:
            return SqliteTransaction(connection).notes(prefix)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Give a transaction: see `OnlineStore`. It waits for another writer's to end.

        Raises:
            RunError: If that takes longer than the timeout.
        """
        with self._session("BEGIN IMMEDIATE") as connection:
            yield SqliteTransaction(connection)

    def close(self) -> None:
        """Close the connections, those in use when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _create(self) -> None:
        with self._session("BEGIN") as connection:
            if self._is_made(connection):
                return  # without waiting for one who writes
        with self._session("BEGIN IMMEDIATE") as connection:
            if not self._is_made(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)

    def _is_made(self, connection: sqlite3.Connection) -> bool:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise RunError(
                f"{self._path}: the file is of version {version}, expected {_VERSION}; give "
                "another path, or delete the file"
            )
        return bool(version)

    @contextlib.contextmanager
    def _session(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Give a connection that no other thread uses, in a transaction."""
        try:
            connection = self._take()
            try:
                connection.execute(begin)
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            finally:
                self._give_back(connection)
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise RunError(f"{self._path}: the store is closed; open it again")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._begin_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _begin_wal(self, connection: sqlite3.Connection) -> None:
        """Wait for others that do so, too, at the file's beginning: SQLite itself does not."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def _refused(self, error: Exception) -> RunError:
        if _is_busy(error):
            return RunError(
                f"{self._path}: another writer has held the store for {self._timeout:g} s; "
                "expected one writer; stop the other one"
            )
        return RunError(
            f"{self._path}: the store cannot be used ({error}); check the path, the disk and "
            "that the file is an online store"
        )


def _is_busy(error: Exception) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _has_prefix(prefix: str, note: tuple[str, bytes]) -> bool:
    return note[0].startswith(prefix)


class SqliteTransaction:
    """A transaction on a SQLite file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, wanted: Sequence[Wanted]) -> list[list[tuple[int, bytes]]]:
        """Return tiles: see `Reader`."""
        return [self._connection.execute(_RANGE, one).fetchall() for one in wanted]

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """Return the notes whose names begin with `prefix`."""
        # Of a prefix, the names stand together.
        rows = self._connection.execute(
            "SELECT name, value FROM notes WHERE name >= ? ORDER BY name", (prefix,)
        )
        return dict(itertools.takewhile(functools.partial(_has_prefix, prefix), rows))

    def unseen(self, ids: Sequence[bytes], until: Sequence[int]) -> list[bool]:
        """Say which ids are new, and remember those: see `Transaction`."""
        cursor = self._connection.cursor()
        return [cursor.execute(_SEE, one).rowcount == 1 for one in zip(ids, until, strict=True)]

    def tiles(self, keys: Sequence[tuple[str, bytes, int]]) -> list[bytes | None]:
        """Return the present values of exactly these tiles: see `Transaction`."""
        found = [self._connection.execute(_TILE, key).fetchone() for key in keys]
        return [row[0] if row else None for row in found]

    def put(self, tiles: Iterable[Tile]) -> None:
        """Write tiles, over those that are there."""
        self._connection.executemany(_PUT, tiles)

    def set_note(self, name: str, value: bytes | None) -> None:
        """Write a note, or delete it where the value is None."""
        if value is None:
            self._connection.execute("DELETE FROM notes WHERE name = ?", (name,))
        else:
            self._connection.execute(_NOTE, (name, value))

    def expire(self, starts: Mapping[str, int], ids: int) -> None:
        """Forget what is too old: see `Transaction`."""
        self._connection.executemany(
            "DELETE FROM tiles WHERE grp = ? AND start < ?", starts.items()
        )
        self._connection.execute("DELETE FROM seen WHERE until < ?", (ids,))
