"""What is asked of a database, in the words of each kind: pure functions that make SQL."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
from collections.abc import Sequence

import pyarrow as pa

from skewless.errors import RecipeError

__all__ = [
    "KeyRange",
    "Literal",
    "Selection",
    "cut_points",
    "key_unit",
    "literal",
    "quote",
    "ranges",
    "tables_sql",
    "text",
    "unique_sql",
]

Literal = int | float | str | datetime.date

_PART = re.compile(r'"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^".]+)')
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# The times that a datetime can hold, in microseconds since 1970.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


def quote(name: str) -> str:
    """Return an identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def literal(value: Literal) -> str:
    """Return a value as an SQL literal; times as ISO 8601 texts, which databases convert."""
    if isinstance(value, datetime.datetime):
        return text(value.isoformat(" "))
    if isinstance(value, datetime.date):
        return text(value.isoformat())
    return repr(value) if isinstance(value, (int, float)) else text(value)


@dataclasses.dataclass(frozen=True)
class KeyRange:
    """The rows whose key is from `low` up to but not `high`, both SQL; or whose key is null."""

    low: str | None = None
    high: str | None = None
    nulls: bool = False

    def condition(self, key: str) -> str | None:
        """Return the condition, or None for every row."""
        column = f"q.{quote(key)}"
        if self.nulls:
            return f"{column} IS NULL"
        parts = [f"{column} >= {self.low}"] if self.low is not None else []
        parts += [f"{column} < {self.high}"] if self.high is not None else []
        return " AND ".join(parts) or f"{column} IS NOT NULL"


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which rows are read: those of a table or query that fulfil all conditions."""

    table: str | None = None
    query: str | None = None
    restriction: str | None = None
    cursor: str | None = None
    after: Literal | None = None

    @property
    def name(self) -> str:
        """The table's name, or `query`."""
        return self.parts()[-1] if self.table else "query"

    def parts(self) -> list[str]:
        """Return the parts of the table's name, schema first.

        Raises:
            RecipeError: If it is no name.
        """
        names, at = [], 0
        table = self.table or ""
        while match := _PART.match(table, at):
            names.append(match["plain"] or match["quoted"].replace('""', '"'))
            at = match.end() + 1
            if table[match.end() : at] != ".":
                break
        if not names or at <= len(table):
            raise RecipeError(
                f'ReadDatabase(table="{table}"): expected a table\'s name, as in flights or '
                "public.flights; one with dots goes in quotes: '\"a.b\"'"
            )
        return names

    def table_sql(self) -> str:
        """Return the table's name, quoted."""
        return ".".join(map(quote, self.parts()))

    def source(self) -> str:
        """Return what follows FROM, which the rest calls q."""
        if self.table is not None:
            return f"{self.table_sql()} AS q"
        return f"(\n{(self.query or '').strip().rstrip(';')}\n) AS q"

    @property
    def is_whole_table(self) -> bool:
        """Whether all rows of a table are read."""
        return self.table is not None and self.restriction is None and self.after is None

    def select(self, columns: str, more: str | None = None, order: str = "") -> str:
        """Return the query for `columns` of the rows that also fulfil `more`."""
        conditions = [f"({self.restriction}\n)"] if self.restriction else []
        if self.cursor is not None and self.after is not None:
            conditions.append(f"q.{quote(self.cursor)} > {literal(self.after)}")
        conditions += [more] if more else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {columns} FROM {self.source()}{where}{order}"

    def nothing(self, columns: str = "q.*") -> str:
        """Return a query for the columns that gives no row."""
        return f"{self.select(columns)} LIMIT 0"


def tables_sql(kind: str) -> str:
    """Return the query for the names of all tables."""
    if kind == "sqlite":
        return "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    return (
        "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    )


def unique_sql(kind: str, selection: Selection, key: str) -> str:
    """Return a query that has a row if no two rows of a table can have the same integer key."""
    table, column = text(selection.parts()[-1]), text(key)
    if kind == "postgresql":
        return (
            "SELECT 1 AS yes FROM pg_catalog.pg_index i "
            "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid "
            "AND a.attnum = i.indkey[0] "
            "JOIN pg_catalog.pg_class c ON c.oid = i.indrelid "
            f"WHERE i.indrelid = CAST({text(selection.table_sql())} AS regclass) "
            "AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1 "
            f"AND (c.relkind = 'p' OR NOT c.relhassubclass) AND a.attname = {column} LIMIT 1"
        )
    if kind == "sqlite":
        return (
            f"SELECT 1 AS yes FROM pragma_table_info({table}) WHERE pk = 1 AND name = {column} "
            "AND upper(type) = 'INTEGER' "
            f"AND (SELECT count(*) FROM pragma_table_info({table}) WHERE pk > 0) = 1"
        )
    schema = f" AND schema_name = {text(selection.parts()[-2])}" if selection.parts()[1:] else ""
    return (
        f"SELECT 1 AS yes FROM duckdb_constraints() WHERE table_name = {table}{schema} "
        "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') "
        f"AND list_contains(constraint_column_names, {column}) "
        "AND len(constraint_column_names) = 1 LIMIT 1"
    )


def key_unit(type_: pa.DataType) -> str | None:
    """Return what a column counts, by which its rows can be divided; None if they cannot.

    >>> key_unit(pa.int32()), key_unit(pa.timestamp("us", tz="UTC")), key_unit(pa.string())
    ('number', 'instant', None)
    """
    if pa.types.is_integer(type_):
        return "number"
    if pa.types.is_timestamp(type_):
        return "time" if type_.tz is None else "instant"
    return "date" if pa.types.is_date(type_) else None


def cut_points(low: int, high: int, parts: int, unit: str) -> list[str]:
    """Return literals that divide keys into ranges of one width, fewer where they coincide.

    Args:
        low: The smallest key; times in microseconds since 1970.
        high: The largest.
        parts: How many ranges.
        unit: As `key_unit` says.

    >>> cut_points(0, 9, 2, "number"), cut_points(0, 2 * 86_400_000_000, 2, "date")
    (['5'], ["DATE '1970-01-02'"])
    """
    if unit != "number":
        low, high = max(low, _FIRST), min(high, _LAST)
    span = high - low + 1
    cuts = dict.fromkeys(low + span * part // parts for part in range(1, parts))
    return list(dict.fromkeys(_cut(cut, unit) for cut in cuts if cut > low))


def _cut(value: int, unit: str) -> str:
    if unit == "number":
        return str(value)
    time = _EPOCH + datetime.timedelta(microseconds=value)
    if unit == "date":
        return f"DATE '{time.date().isoformat()}'"
    naive = time.replace(tzinfo=None).isoformat(" ", "microseconds")
    return f"TIMESTAMP '{naive}'" if unit == "time" else f"TIMESTAMPTZ '{naive}+00:00'"


def ranges(cuts: Sequence[str]) -> list[KeyRange]:
    """Return the ranges between cut points, open at both ends, and that of null keys."""
    edges = [None, *cuts, None]
    found = [KeyRange(low, high) for low, high in itertools.pairwise(edges)]
    return [*found, KeyRange(nulls=True)]
