"""The rows of a database in pieces: how they are planned, and how each is read."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from skewless.errors import DataError, RecipeError, no_such_column
from skewless.schema import Schema, column_names
from skewless.transforms.outcomes import assemble
from skewless.transforms.parse import replay_json
from skewless.transforms.rows import Outcome, Rejected, as_text
from skewless.transforms.sources.database_cells import (
    DatabaseColumns,
    SqliteColumns,
    TypedColumns,
)
from skewless.transforms.sources.database_client import RefusedError, Session, connect, resolve
from skewless.transforms.sources.database_snapshot import held, join_snapshot, take_snapshot
from skewless.transforms.sources.database_sql import (
    KeyRange,
    Selection,
    cut_points,
    key_unit,
    quote,
    ranges,
    tables_sql,
    text,
    unique_sql,
)
from skewless.transforms.sources.source import require_columns

__all__ = ["DatabaseReader", "RowRange"]

_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 << 20
_KEY = "key of the row "  # what the key is called beside the columns
_PIECE_ROWS = 1 << 40  # rows of one piece are numbered from its number times this


class RowRange(NamedTuple):
    """Some rows that one worker reads.

    Attributes:
        file: Where they are, as their origin.
        number: Which of the pieces this is.
        pieces: How many there are.
        keys: Which keys they have; None for all rows.
        by_key: Whether a row's offset is its key.
        order: What sorts the rows, where their order would else be the database's whim.
        snapshot: What all pieces are read from; see `take_snapshot`.
    """

    file: str
    number: int = 0
    pieces: int = 1
    keys: KeyRange | None = None
    by_key: bool = False
    order: str = ""
    snapshot: str | None = None


@dataclasses.dataclass(frozen=True)
class DatabaseReader:
    """How a selection of rows is planned and read. Holds no password: see `resolve`."""

    where: str
    uri: str
    password: str | None
    selection: Selection
    key: str | None = None
    partitions: int = 1
    consistent: bool = True

    @contextlib.contextmanager
    def session(self, snapshot: str | None = None) -> Iterator[Session]:
        """Connect, for the block, in a transaction of which every query sees the same rows.

        Raises:
            DataError: If that is refused.
        """
        with connect(resolve(self.uri, self.password, self.where)) as session:
            if session.address.kind == "postgresql":
                session.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if snapshot is not None:
                    join_snapshot(session, snapshot)
                # Rows without ORDER BY come in the order of the table, and times as UTC.
                for setting in (
                    "synchronize_seqscans = off",
                    "max_parallel_workers_per_gather = 0",
                    "TimeZone = 'UTC'",
                    "DateStyle = 'ISO'",
                ):
                    session.run(f"SET LOCAL {setting}")
            elif snapshot is not None:
                join_snapshot(session, snapshot)
            if session.address.kind == "duckdb":
                session.run("SET TimeZone = 'UTC'")
            yield session

    def origin(self, session: Session) -> str:
        """Return where the rows are: `postgresql:host/db.table`."""
        return f"{session.address.place}.{self.selection.name}"

    def types(self) -> pa.Schema:
        """Return the columns that there are; see `schema_of` for the errors."""
        with self.session() as session:
            return self.schema_of(session)

    def schema_of(self, session: Session) -> pa.Schema:
        """Return the columns that there are, with the types of the driver.

        Raises:
            DataError: If there is no such table, or the query is wrong.
        """
        try:
            return session.schema(self.selection.nothing())
        except RefusedError as error:
            if self.selection.table is not None:
                self._check_table(error)
            raise DataError(f"{self.where}: {error}; check the query") from None

    def _check_table(self, error: RefusedError) -> None:
        """Raise the error for a table that does not exist."""
        with self.session() as session:
            names = [row["name"] for row in session.rows(tables_sql(session.address.kind))]
            place = session.address.place
        wanted = self.selection.parts()
        if any(name.split(".")[-len(wanted) :] == wanted for name in names):
            raise DataError(f"{self.where}: {error}") from None
        short = {name.removeprefix("public.").removeprefix("main.") for name in names}
        near = difflib.get_close_matches(".".join(wanted), sorted(short), n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {len(names)} others"
        raise DataError(
            f'{self.where}: {place} has no table "{".".join(wanted)}"; {hint}'
        ) from None

    def columns(self, session: Session, wanted: Sequence[str] = ()) -> DatabaseColumns:
        """Return how the columns are read.

        Raises:
            RecipeError: If there is none of a wanted name.
        """
        types = self.schema_of(session)
        require_columns(wanted, types.names, self.where)
        return SqliteColumns() if session.address.kind == "sqlite" else TypedColumns(types)

    # --- Planning ---------------------------------------------------------------------

    def plan(self) -> Iterator[RowRange]:
        """Yield the pieces, which have every row once; all are of one snapshot if `consistent`."""
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(self.session())
            file = self.origin(session)
            if self.key is None:
                yield RowRange(file)
                return
            unit = self._unit(session)
            kind = session.address.kind
            by_key = (
                unit == "number"
                and self.selection.table is not None
                and not pa.types.is_uint64(self.schema_of(session).field(self.key).type)
                and bool(session.rows(unique_sql(kind, self.selection, self.key)))
            )
            order = "" if by_key or kind != "postgresql" else self._order(session)
            keys = ranges(self._cuts(session, unit, by_key))
            snapshot = None
            if self.consistent:
                snapshot = take_snapshot(session, len(keys), stack)
        for number, part in enumerate(keys):
            yield RowRange(file, number, len(keys), part, by_key, order, snapshot)

    def _unit(self, session: Session) -> str:
        """Return what the key counts.

        Raises:
            RecipeError: If there is no such column, or its rows cannot be divided.
        """
        key, types = self.key or "", self.schema_of(session)
        argument = f'{self.where} partition_by="{key}"'
        if key not in types.names:
            raise no_such_column(key, types.names, argument)
        found, unit = str(types.field(key).type), key_unit(types.field(key).type)
        if session.address.kind == "sqlite":
            column = f"q.{quote(key)}"
            whole = f"count(CASE typeof({column}) WHEN 'integer' THEN 1 END) AS whole"
            count = session.rows(self.selection.select(f"{whole}, count({column}) AS given"))[0]
            unit = None if count["given"] and not count["whole"] else "number"
            found = "text or real"
        if unit is None:
            raise RecipeError(
                f"{argument}: the column has type {found}; expected integers, dates or timestamps"
            )
        return unit

    def _order(self, session: Session) -> str:
        """Return what makes the order of rows with equal keys the same for every reader."""
        ties = ""
        if self.selection.table is not None:
            kinds = session.rows(
                "SELECT CAST(relkind AS TEXT) AS kind FROM pg_catalog.pg_class "
                f"WHERE oid = CAST({text(self.selection.table_sql())} AS regclass)"
            )
            ties = ", q.tableoid, q.ctid" if kinds[0]["kind"] in ("r", "m", "p") else ""
        return f" ORDER BY q.{quote(self.key or '')}{ties}"

    def _cuts(self, session: Session, unit: str, by_key: bool) -> list[str]:
        """Return the literals that divide the keys: by quantiles where these cost nothing."""
        key = f"q.{quote(self.key or '')}"
        kind = session.address.kind
        # Row numbers must be the same at every reading, so their pieces are of one width.
        if kind == "postgresql" and by_key and self.selection.is_whole_table:
            bounds = session.rows(
                "SELECT CAST(b AS TEXT) AS bound FROM pg_catalog.pg_stats s "
                "JOIN pg_catalog.pg_class c ON c.relname = s.tablename "
                "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                "AND n.nspname = s.schemaname, "
                "unnest(CAST(CAST(s.histogram_bounds AS TEXT) AS BIGINT[])) b "
                f"WHERE c.oid = CAST({text(self.selection.table_sql())} AS regclass) "
                f"AND s.attname = {text(self.key or '')} AND NOT s.inherited"
            )
            if len(bounds) > self.partitions:
                found = sorted(int(row["bound"]) for row in bounds)
                marks = (len(found) * i // self.partitions for i in range(1, self.partitions))
                return [str(cut) for cut in dict.fromkeys(found[mark] for mark in marks)]
        if kind == "duckdb" and unit == "number":
            shares = ", ".join(str(i / self.partitions) for i in range(1, self.partitions))
            if not shares:
                return []
            cut = session.rows(self.selection.select(f"quantile_disc({key}, [{shares}]) AS cuts"))
            return [str(value) for value in dict.fromkeys(cut[0]["cuts"] or ())]
        real = f"typeof({key}) = 'integer'" if kind == "sqlite" else None
        found_ends = session.batches(
            self.selection.select(f"min({key}) AS low, max({key}) AS high", real)
        )
        ends = pa.Table.from_batches(list(found_ends))
        low, high = (_as_int(ends[name].combine_chunks()) for name in ("low", "high"))
        if low is None or high is None:
            return []
        return cut_points(low, high, self.partitions, unit)

    # --- Reading ----------------------------------------------------------------------

    def _batches(
        self, session: Session, piece: RowRange, columns: DatabaseColumns, names: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a piece, up to 65,536 at once."""
        chosen = columns.select(names)
        more = None
        if self.key is not None and piece.keys is not None:
            more = piece.keys.condition(self.key)
            if piece.by_key:
                chosen += f", q.{quote(self.key)} AS {quote(_KEY)}"
        sql = self.selection.select(chosen, more, piece.order)
        if isinstance(columns, SqliteColumns):
            typed = columns.first_row(names) + (f", 0 AS {quote(_KEY)}" if piece.by_key else "")
            batches = session.batches(f"SELECT {typed} UNION ALL {sql}")
            yield from _blocks(_without_first_row(batches))
        else:
            yield from _blocks(session.batches(sql))

    def read(self, piece: RowRange, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece."""
        names = column_names(schema)
        with self.session(piece.snapshot) as session:
            # Whatever was checked before, the table may be another by now.
            columns = self.columns(session, names)
            at = piece.number * _PIECE_ROWS
            nulls = piece.by_key and piece.keys is not None and piece.keys.nulls
            file = f"{piece.file} without {self.key}" if nulls else piece.file
            for batch in self._batches(session, piece, columns, names):
                if piece.by_key and not nulls:
                    offsets = batch[_KEY].cast(pa.int64()).to_numpy(zero_copy_only=False)
                else:
                    offsets = np.arange(at, at + batch.num_rows)
                at += batch.num_rows
                row = functools.partial(columns.values, batch, names)
                yield assemble(
                    {f.name: columns.cells(batch, f, self.where) for f in schema.feature},
                    schema,
                    file,
                    offsets,
                    functools.partial(_payload, row),
                    functools.partial(_cell, row),
                )
        if piece.snapshot is not None:
            held.done(piece.snapshot, piece.number)

    def untyped(self, piece: RowRange) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the database's own types."""
        with self.session(piece.snapshot) as session:
            columns = self.columns(session)
            names = columns.readable(self.schema_of(session))
            nothing = [pa.nulls(0)] * len(names)
            yield pa.RecordBatch.from_arrays(nothing, names=names)
            for batch in self._batches(session, piece, columns, names):
                yield columns.untyped(batch, names)
        if piece.snapshot is not None:
            held.done(piece.snapshot, piece.number)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)


def _payload(row: Callable[[int], dict[str, Any]], at: int) -> bytes:
    return json.dumps(row(at), default=as_text).encode()


def _cell(row: Callable[[int], dict[str, Any]], name: str, at: int) -> str:
    return as_text(row(at)[name])


def _without_first_row(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    first = next(batches, None)
    if first is not None:
        yield first.slice(1)
        yield from batches


def _blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches of up to 65,536 rows or about 16 MB; the drivers' are of 2,048 or 16 MB."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for whole in batches:
        for start in range(0, whole.num_rows, _BATCH_ROWS):
            batch = whole.slice(start, _BATCH_ROWS)
            if rows and (rows + batch.num_rows > _BATCH_ROWS or size + batch.nbytes > _BATCH_BYTES):
                yield pa.concat_batches(waiting)
                waiting, rows, size = [], 0, 0
            waiting.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
    if rows:
        yield pa.concat_batches(waiting)


def _as_int(value: pa.Array) -> int | None:
    """Return the only value as a number; a time as microseconds since 1970."""
    if pa.types.is_date(value.type):
        value = value.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(value.type):
        value = value.cast(pa.timestamp("us", value.type.tz), safe=False)
    found = value.cast(pa.int64()).to_pylist()[0]
    return None if found is None else int(found)
