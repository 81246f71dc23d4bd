"""The door to databases: addresses without secrets, connections, and errors on one line.

Everything goes through ADBC, so that rows are Arrow from the first byte on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from skewless.errors import DataError, RecipeError

__all__ = ["Address", "RefusedError", "Session", "check_uri", "connect", "resolve"]

_ENVIRONMENT = "env:"
_DRIVERS = {
    "postgresql": ("adbc_driver_postgresql", "adbc_driver_manager"),
    "sqlite": ("adbc_driver_sqlite", "adbc_driver_manager"),
    "duckdb": ("adbc_driver_duckdb", "adbc_driver_manager"),
}
_EXAMPLES = "postgresql://user@host/db, sqlite:///file.db or duckdb:///file.duckdb"
# A server that is gone without a word is noticed after a minute, not after hours.
_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}


class Address(NamedTuple):
    """Where a database is.

    Attributes:
        kind: `postgresql`, `sqlite` or `duckdb`.
        place: Where, for rows and messages: no user, no password.
        target: What the driver takes. May hold a password, so it is made where the
            connection is, and never kept.
        secrets: What must not be in any message.
    """

    kind: str
    place: str
    target: str
    secrets: tuple[str, ...] = ()

    def masked(self, text: object) -> str:
        """Return a text on one line, without secrets."""
        line = re.sub(r"\s+", " ", str(text)).strip()
        for secret in sorted(filter(None, self.secrets), key=len, reverse=True):
            line = line.replace(secret, "***")
        return line


class RefusedError(DataError):
    """What a database said no to; `state` is its SQLSTATE, where it has one."""

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__(message)
        self.state = state


def check_uri(uri: str, password: str | None, where: str) -> None:
    """Check what can be known of a URI without connecting.

    Raises:
        RecipeError: If it is none, or a password is written out.
    """
    if password is not None and not password.startswith(_ENVIRONMENT):
        raise RecipeError(
            f"{where}: the password would be written down; put it into the environment and "
            'write password="env:DATABASE_PASSWORD"'
        )
    if uri.startswith(_ENVIRONMENT):
        return
    parts, _ = _parse(uri, where)
    if parts.password or _query_secrets(parts):
        raise RecipeError(
            f"{where}: the URI holds a password, which would be written down; put the URI into "
            'the environment and write uri="env:DATABASE_URL", or leave the password out and '
            'write password="env:DATABASE_PASSWORD"'
        )


def resolve(uri: str, password: str | None, where: str) -> Address:
    """Return the address that a URI means in this process's environment.

    Raises:
        RecipeError: If a variable is not set, or holds no such URI.
    """
    secrets: list[str] = []
    if uri.startswith(_ENVIRONMENT):
        uri = _variable(uri, "uri", where)
        secrets.append(uri)
    parts, kind = _parse(uri, where)
    if kind != "postgresql":
        path = urllib.parse.unquote(parts.path).removeprefix("/")
        return Address(kind, f"{kind}:{path}", path)
    secrets += [parts.password or "", urllib.parse.unquote(parts.password or "")]
    secrets += _query_secrets(parts)
    netloc = parts.netloc
    if password is not None:
        found = _variable(password, "password", where)
        quoted = urllib.parse.quote(found, safe="")
        secrets += [found, quoted]
        user, at, host = netloc.rpartition("@")
        if not at:
            raise RecipeError(f"{where}: give the user, too, as in postgresql://user@host/db")
        netloc = f"{user.partition(':')[0]}:{quoted}@{host}"
    given = {name for name, _ in urllib.parse.parse_qsl(parts.query)}
    added = [f"{name}={value}" for name, value in _PATIENCE.items() if name not in given]
    query = "&".join(filter(None, [parts.query, *added]))
    target = urllib.parse.urlunsplit(parts._replace(netloc=netloc, query=query))
    host = parts.netloc.rpartition("@")[2] or "localhost"
    return Address(kind, f"{kind}:{host}{parts.path}", target, (*secrets, target))


def _variable(text: str, argument: str, where: str) -> str:
    name = text.removeprefix(_ENVIRONMENT)
    value = os.environ.get(name, "").strip()
    if not value:
        raise RecipeError(
            f'{where} {argument}="{_ENVIRONMENT}{name}": the environment variable {name} is not '
            "set here; set it, on the workers too"
        )
    return value


def _parse(uri: str, where: str) -> tuple[urllib.parse.SplitResult, str]:
    """Return the parts of a URI, and the kind of database."""
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        parts = urllib.parse.urlsplit("")
    kind = "postgresql" if parts.scheme == "postgres" else parts.scheme
    if kind not in _DRIVERS:
        raise RecipeError(
            f'{where}: the URI begins with "{parts.scheme}"; expected one like {_EXAMPLES}'
        )
    if kind != "postgresql" and (parts.netloc or len(parts.path) < 2):
        raise RecipeError(
            f"{where}: expected {kind}:///relative/path or {kind}:////absolute/path, with three "
            "or four slashes"
        )
    return parts, kind


def _query_secrets(parts: urllib.parse.SplitResult) -> list[str]:
    pairs = urllib.parse.parse_qsl(parts.query)
    return [value for name, value in pairs if name in ("password", "sslpassword")]


class Session:
    """A connection in one transaction that only reads."""

    def __init__(self, address: Address, connection: Any, statement: Mapping[str, str]) -> None:
        self._connection = connection
        self._statement = statement
        self.address = address

    def run(self, sql: str) -> None:
        """Run a statement that has no rows."""
        with self._said(), self._connection.cursor() as cursor:
            cursor.execute(sql)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Return the few rows of a query."""
        with self._said(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().to_pylist()  # type: ignore[no-any-return]

    def schema(self, sql: str) -> pa.Schema:
        """Return the types of the columns of a query that has no rows."""
        with self._said(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().schema

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query as they come."""
        with self._said(), self._connection.cursor(adbc_stmt_kwargs=self._statement) as cursor:
            cursor.execute(sql)
            yield from cursor.fetch_record_batch()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Raise what the driver says as one line; say so where the connection is lost."""
        try:
            with _one_line(self.address):
                yield
        except RefusedError as error:
            if error.state or not self._is_lost():
                raise
            raise RefusedError(
                f"{error}; the connection was lost: check the network and the server, and run again"
            ) from None

    def _is_lost(self) -> bool:
        """Say whether the server no longer answers; in a failed transaction, it still says no."""
        if self.address.kind != "postgresql":
            return False
        try:
            with _one_line(self.address), self._connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except RefusedError as error:
            return not error.state
        return False


@contextlib.contextmanager
def _one_line(address: Address) -> Iterator[None]:
    errors = importlib.import_module("adbc_driver_manager").Error
    try:
        yield
    except (errors, pa.ArrowException, OSError) as error:
        state = getattr(error, "sqlstate", None) or ""
        raise RefusedError(f"{address.place}: {address.masked(error)}", state) from None


@contextlib.contextmanager
def connect(address: Address) -> Iterator[Session]:
    """Connect, for the block, in a transaction that only reads.

    Raises:
        RecipeError: If the driver is not installed.
        DataError: If there is no such database, or it lets nobody in.
    """
    driver = _driver(address.kind)
    if address.kind == "postgresql":
        with _one_line(address):
            connection = driver.connect(address.target)
        statement: dict[str, str] = {}
    elif not pathlib.Path(address.target).is_file():
        raise DataError(f'{address.place}: there is no file "{address.target}"; check the path')
    elif address.kind == "sqlite":
        name = urllib.parse.quote(str(pathlib.Path(address.target).resolve()))
        with _one_line(address):
            # Read only, since closing a database in WAL mode would else change its file.
            connection = driver.connect(f"file:{name}?mode=ro")
        statement = {"adbc.sqlite.query.batch_rows": "65536"}
    else:
        with _one_line(address):
            connection = _connect_duckdb(address.target)
        statement = {}
    try:
        yield Session(address, connection, statement)
    finally:
        with contextlib.suppress(Exception):  # a lost connection cannot be closed
            connection.close()


def _driver(kind: str) -> Any:
    name = _DRIVERS[kind][0]
    try:
        return importlib.import_module(f"{name}.dbapi")
    except ImportError as error:
        raise RecipeError(
            f"ReadDatabase: {kind} needs drivers that are not installed ({error}); "
            "install them: pip install 'skewless[database]'"
        ) from None


def _connect_duckdb(path: str) -> Any:
    manager: Any = importlib.import_module("adbc_driver_manager")
    dbapi: Any = importlib.import_module("adbc_driver_manager.dbapi")
    duckdb: Any = importlib.import_module("adbc_driver_duckdb")
    database = manager.AdbcDatabase(
        driver=duckdb.driver_path(),
        entrypoint="duckdb_adbc_init",
        path=path,
        access_mode="READ_ONLY",
    )
    try:
        return dbapi.Connection(database, manager.AdbcConnection(database))
    except Exception:
        database.close()
        raise
