"""Tables and queries of PostgreSQL, SQLite and DuckDB as batches of typed rows."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from typing import Any

import apache_beam as beam
import pyarrow as pa

from skewless.errors import RecipeError
from skewless.schema import Schema, column_names, is_list
from skewless.transforms.rows import as_text
from skewless.transforms.sources.database_cells import SqliteColumns
from skewless.transforms.sources.database_client import Session, check_uri
from skewless.transforms.sources.database_reader import DatabaseReader, RowRange
from skewless.transforms.sources.database_snapshot import files
from skewless.transforms.sources.database_sql import Literal, Selection, quote
from skewless.transforms.sources.source import BatchSource, require_columns

__all__ = ["ReadDatabase"]


@dataclasses.dataclass(eq=False)
class ReadDatabase(BatchSource):
    """Read a table or a query of PostgreSQL, SQLite or DuckDB, as Arrow from the driver on.

    With `partition_by` the rows are divided by ranges of a key, which workers read beside
    each other, all from one snapshot. The offset of a row is its key where that is a whole
    number and unique by the table's constraints, else the row's number in its piece, pieces
    being 2**40 apart. Numbers are the same at every reading if the rows are; of a query only
    if it sorts them.

    Passwords are read from the environment where the connection is made, and written nowhere.

    Args:
        uri: `postgresql://user@host/db`, `sqlite:///file.db`, `duckdb:///file.duckdb` (four
            slashes for an absolute path), or `env:NAME` for what that variable holds.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the table's name.
        table: The table, e.g. `flights` or `public.flights`; case matters.
        query: A query instead of a table.
        password: `env:NAME`: the variable that holds the password.
        row_restriction: Which rows to read, in the database's SQL: `origin = 'JFK'`.
        partition_by: A column of integers, dates or timestamps to divide the rows by.
        partitions: Into how many ranges.
        cursor: A column that grows with every insert and update: then the input counts as
            changed when the column's largest value or the number of rows has.
        after: Read only rows whose `cursor` is greater. SQLite, which has no times, compares
            texts: give one that is written as the column's values are.
        consistent: Whether all ranges are read from one snapshot. With PostgreSQL, the
            process that plans them must live until they are read; a file of SQLite or DuckDB
            must not change until then, or the read fails.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong, or the rows lack a column of the schema.
        DataError: If the database, table or query cannot be used.

    >>> ReadDatabase("postgresql://reader@db/prod", table="public.flights").input_name
    'flights'
    """

    uri: str
    table: str | None = None
    query: str | None = None
    password: str | None = None
    row_restriction: str | None = None
    partition_by: str | None = None
    partitions: int = 8
    cursor: str | None = None
    after: Literal | None = None
    consistent: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.table) == bool(self.query):
            raise RecipeError("ReadDatabase: give either table= or query=, not both")
        if self.partitions < 1:
            raise RecipeError(f"{self.where} partitions={self.partitions}: expected at least 1")
        if self.after is not None and self.cursor is None:
            raise RecipeError(
                f"{self.where} after={self.after!r}: give cursor=, the column it is a value of"
            )
        check_uri(self.uri, self.password, self.where)
        self._selection = Selection(
            self.table, self.query, self.row_restriction, self.cursor, self.after
        )
        if self.table:
            self._selection.parts()

    @property
    def input_name(self) -> str:
        """The input's name in the ledger: the table's, or `query`."""
        return self.name or self._selection.name

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages: `ReadDatabase(table="flights")`."""
        if self.table:
            return f'ReadDatabase(table="{self.table}")'
        query = " ".join((self.query or "").split())
        return f'ReadDatabase(query="{query[:60]}{"..." if query[60:] else ""}")'

    def reader(self) -> DatabaseReader:
        """Return how the pieces are planned and read."""
        return DatabaseReader(
            self.where,
            self.uri,
            self.password,
            self._selection,
            self.partition_by,
            self.partitions,
            self.consistent,
        )

    def available_columns(self) -> tuple[str, ...]:
        """Return the columns of the table or query."""
        return tuple(self.reader().types().names)

    def check_columns(self, schema: Schema) -> None:
        """Check that there are the columns of `schema`, in types that can become its types."""
        reader = self.reader()
        with reader.session() as session:
            types = reader.schema_of(session)
            require_columns(column_names(schema), types.names, self.where)
            for argument in ("partition_by", "cursor"):
                if (name := getattr(self, argument)) is not None:
                    require_columns([name], types.names, f"{self.where} {argument}=")
            columns = reader.columns(session)
            if isinstance(columns, SqliteColumns) and isinstance(self.after, datetime.date):
                raise RecipeError(
                    f"{self.where} after={self.after!r}: SQLite compares texts, not times; give "
                    'one that is written as the values of the column are: "2013-01-31 10:00:00"'
                )
            lists = [feature.name for feature in schema.feature if is_list(feature)]
            if isinstance(columns, SqliteColumns) and lists:
                raise RecipeError(
                    f'{self.where}: column "{lists[0]}" is a list, which SQLite cannot hold; '
                    "correct the schema"
                )
            if not isinstance(columns, SqliteColumns):
                chosen = columns.select(column_names(schema))
                found = session.schema(self._selection.nothing(chosen))
                nothing = [pa.nulls(0, field.type) for field in found]
                empty = pa.RecordBatch.from_arrays(nothing, schema=found)
                for feature in schema.feature:
                    columns.cells(empty, feature, self.where)

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[RowRange]:  # noqa: ARG002
        """Return the ranges of rows, spread over the workers."""
        return (
            pbegin
            | "Selection" >> beam.Create([self.reader()])
            | "PlanRanges" >> beam.FlatMap(DatabaseReader.plan)
            | "Spread" >> beam.Reshuffle()
        )

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return what is asked, and what tells the rows from others.

        That is the digest of the file for SQLite and DuckDB; for PostgreSQL the number of
        rows with a digest of what they hold, or with `cursor` its largest value.
        """
        reader = self.reader()
        with reader.session() as session:
            reader.schema_of(session)
            state: dict[str, Any] = {
                "path": reader.origin(session),
                "table": self.table,
                "query": self.query,
                "row_restriction": self.row_restriction,
                "after": None if self.after is None else as_text(self.after),
            }
            if self.cursor is not None:
                largest = self._selection.select(
                    f"count(*) AS rows, CAST(max(q.{quote(self.cursor)}) AS VARCHAR) AS largest"
                )
                state.update(session.rows(largest)[0])
            if session.address.kind != "postgresql":
                state.update(_file_state(session))
            elif self.cursor is None:
                state.update(self._content(session))
        return [state]

    def _content(self, session: Session) -> dict[str, Any]:
        """Return the number of rows and a digest of them that does not depend on their order."""
        names = self.columns
        row = f"ROW({', '.join(f'q.{quote(name)}' for name in names)})" if names else "q"
        digest = f"sum(CAST(hashtextextended(CAST({row} AS TEXT), 0) AS NUMERIC))"
        sql = self._selection.select(f"count(*) AS rows, CAST({digest} AS TEXT) AS digest")
        return session.rows(sql)[0]


def _file_state(session: Session) -> dict[str, Any]:
    """Return size and digest of a database's file, and of the log of what is not in it yet."""
    digest = hashlib.sha256()
    size = 0
    for part in files(session.address):
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        size += part.stat().st_size
    return {"size": size, "digest": digest.hexdigest()}
