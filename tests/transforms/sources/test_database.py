"""SQLite and DuckDB files; what needs a server is in test_database_postgresql.py."""

from __future__ import annotations

import datetime
import json
import pathlib
import sqlite3
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, arrow_schema, make_feature, make_schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET, Rejected
from skewless.transforms.sources.database import ReadDatabase
from skewless.transforms.sources.database_sql import Selection, quote


def schema(**types: pa.DataType) -> Schema:
    return make_schema([make_feature(n, t, required=False) for n, t in types.items()])


SCHEMA = schema(
    id=pa.int64(), x=pa.float32(), s=pa.string(), t=pa.timestamp("us", tz="UTC"), n=pa.int64()
)
ROWS = [
    (1, 1.5, "a", "2013-01-01 10:00:00", 10),
    (2, None, "", "2013-01-01T10:00:00.5Z", None),
    (5, 2.0, 'it\'s "b"', None, -1),
    (9, 0.25, None, "2013-01-02 00:00:00", 2**62),
]
VALUES = [
    (1, 1.5, "a", 0, 10),
    (2, None, None, 500_000, None),
    (5, 2.0, 'it\'s "b"', None, -1),
    (9, 0.25, None, 50_400_000_000, 2**62),
]
_START = datetime.datetime(2013, 1, 1, 10, tzinfo=datetime.UTC)


def sqlite(path: pathlib.Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def duck(path: pathlib.Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def fill(kind: str, folder: pathlib.Path) -> str:
    """Make a database with ROWS in the table flights; return its URI."""
    path = folder / f"data.{kind}"
    text = "TEXT" if kind == "sqlite" else "TIMESTAMPTZ"
    table = f"CREATE TABLE flights (id INTEGER PRIMARY KEY, x DOUBLE, s TEXT, t {text}, n BIGINT)"
    if kind == "sqlite":
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(table)
            connection.executemany("INSERT INTO flights VALUES (?, ?, ?, ?, ?)", ROWS)
        connection.close()
    else:
        with duckdb.connect(str(path)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(table)
            connection.executemany("INSERT INTO flights VALUES (?, ?, ?, ?, ?)", ROWS)
    return f"{kind}:///{path}"


@pytest.fixture(params=["sqlite", "duckdb"])
def uri(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return fill(request.param, tmp_path)


def read(source: ReadDatabase) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Read all pieces of a source, in order."""
    reader = source.reader()
    outcomes = [o for piece in reader.plan() for o in reader.read(piece, source.raw_schema())]
    for outcome in outcomes:
        assert outcome.kept.num_rows + len(outcome.rejected) == outcome.counts["read"]
        assert outcome.kept.num_rows <= 65_536
    rows = [row for outcome in outcomes for row in outcome.kept.to_pylist()]
    return rows, [row for outcome in outcomes for row in outcome.rejected]


def values(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime.datetime):
            return (value - _START) // datetime.timedelta(microseconds=1)
        return value

    return [tuple(plain(v) for n, v in row.items() if n not in (FILE, OFFSET)) for row in rows]


def test_rows_are_typed_and_partitioned_in_a_pipeline(uri: str) -> None:
    def check(batches: list[pa.RecordBatch]) -> None:
        rows = sorted((r for b in batches for r in b.to_pylist()), key=lambda r: r["id"])
        assert values(rows) == VALUES
        assert [row[OFFSET] for row in rows] == [1, 2, 5, 9]
        assert {row[FILE] for row in rows} == {f"{uri.replace(':///', ':', 1)}.flights"}

    def check_counts(counts: list[Any]) -> None:
        assert sum(count.n for count in counts) == 4

    with beam.Pipeline("FnApiRunner") as pipeline:
        source = ReadDatabase(
            uri, schema=SCHEMA, table="flights", partition_by="id", partitions=3, event_time="t"
        )
        result = pipeline | source
        assert_that(result.rows, check, label="rows")
        assert_that(result.counts[0], check_counts, label="counts")


def test_tables_queries_and_restrictions(uri: str) -> None:
    rows, _ = read(ReadDatabase(uri, schema=SCHEMA, table="main.flights"))
    assert values(rows) == VALUES
    assert [row[OFFSET] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["t"] == _START
    source = ReadDatabase(
        uri,
        schema=SCHEMA,
        columns=["s", "id"],
        query="SELECT * FROM flights ORDER BY id -- all of them\n;",
        row_restriction="x > 1 -- only large ones",
        partition_by="n",
        partitions=2,
    )
    assert source.input_name == "query"
    assert sorted(values(read(source)[0])) == [(1, "a"), (5, 'it\'s "b"')]


def test_incremental_reading(uri: str) -> None:
    source = ReadDatabase(uri, schema=SCHEMA, table="flights", cursor="id")
    assert source.fingerprint()[0]["largest"] == "9"
    later = ReadDatabase(uri, schema=SCHEMA, table="flights", cursor="id", after=2)
    assert [row["id"] for row in read(later)[0]] == [5, 9]
    assert later.fingerprint()[0]["rows"] == 2
    given = {"schema": SCHEMA, "table": "flights", "cursor": "t"}
    times = ReadDatabase(uri, after="2013-01-02" if uri[0] == "s" else "2013-01-01 12:00", **given)
    assert [row["id"] for row in read(times)[0]] == [9]
    at_noon = ReadDatabase(uri, after=datetime.datetime(2013, 1, 1, 12), **given)
    if uri.startswith("sqlite"):  # whose texts are compared as texts
        with pytest.raises(RecipeError, match="SQLite compares texts, not times"):
            at_noon.check_columns(SCHEMA)
    else:
        assert [row["id"] for row in read(at_noon)[0]] == [9]


def test_the_fingerprint_tells_changes(uri: str) -> None:
    source = ReadDatabase(uri, schema=SCHEMA, table="flights")
    before = source.fingerprint()
    read(source)
    assert source.fingerprint() == before
    kind, _, path = uri.partition(":///")
    change = "UPDATE flights SET x = 3 WHERE id = 1"
    (sqlite if kind == "sqlite" else duck)(pathlib.Path(path), change)
    assert source.fingerprint() != before


def test_the_log_of_a_database_is_part_of_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "wal.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (id INTEGER)")
    source = ReadDatabase(f"sqlite:///{path}", table="t", schema=schema(id=pa.int64()))
    before = source.fingerprint()
    connection.execute("INSERT INTO t VALUES (7)")
    after = source.fingerprint()
    assert before != after
    assert values(read(source)[0]) == [(7,)]
    assert source.fingerprint() == after
    connection.close()


def test_all_pieces_are_of_one_state_of_the_file(uri: str) -> None:
    kind, _, path = uri.partition(":///")
    given = {"schema": SCHEMA, "table": "flights", "partition_by": "id", "partitions": 3}
    whole, loose = ReadDatabase(uri, **given), ReadDatabase(uri, consistent=False, **given)
    first, *others = whole.reader().plan()
    pieces = list(loose.reader().plan())
    assert list(whole.reader().read(first, SCHEMA))
    change = sqlite if kind == "sqlite" else duck
    change(pathlib.Path(path), "DELETE FROM flights")
    with pytest.raises(DataError, match=r"has changed since .* run again, or .*consistent=False"):
        list(whole.reader().read(others[-1], SCHEMA))
    outcomes = [o for piece in pieces for o in loose.reader().read(piece, SCHEMA)]
    assert sum(outcome.kept.num_rows for outcome in outcomes) == 0


def test_each_row_is_in_one_piece(uri: str, tmp_path: pathlib.Path) -> None:
    kind, _, path = uri.partition(":///")
    (sqlite if kind == "sqlite" else duck)(
        pathlib.Path(path),
        "CREATE TABLE keys (k BIGINT, v INTEGER)",
        "INSERT INTO keys VALUES (NULL, 0), (NULL, 1), (3, 2), (3, 3), (-9223372036854775807, 4),"
        " (9223372036854775807, 5), (4, 6)",
    )
    source = ReadDatabase(
        uri, schema=schema(v=pa.int64()), table="keys", partition_by="k", partitions=5
    )
    rows, _ = read(source)
    assert sorted(row["v"] for row in rows) == list(range(7))
    assert len({row[OFFSET] for row in rows}) == 7


def test_cells_of_sqlite_are_what_they_are(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mixed.db"
    sqlite(
        path,
        "CREATE TABLE t (n, x, s, t)",
        "INSERT INTO t VALUES (NULL, NULL, NULL, NULL)",
        "INSERT INTO t VALUES (1, 2, 'a', 1356998400)",
        "INSERT INTO t VALUES (2.0, 0.5, x'62', '2013-01-01')",
        "INSERT INTO t VALUES ('3', '1.5', '', '')",
        "INSERT INTO t VALUES ('three', 1, 'a', NULL)",
        "INSERT INTO t VALUES (2.5, 1, 'a', NULL)",
        "INSERT INTO t VALUES (1, 1e300, 'a', NULL)",
        "INSERT INTO t VALUES (1, 1, 7, NULL)",
        "INSERT INTO t VALUES (1, 1, x'ff', NULL)",
        "INSERT INTO t VALUES (1, 1, 'a', 2456293.5)",
        "INSERT INTO t VALUES (1, 1, 'a', 'yesterday')",
    )
    wanted = schema(n=pa.int64(), x=pa.float32(), s=pa.string(), t=pa.timestamp("s", tz="UTC"))
    rows, rejected = read(ReadDatabase(f"sqlite:///{path}", schema=wanted, table="t"))
    day = datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)
    assert [tuple(row.values())[:4] for row in rows] == [
        (None, None, None, None),
        (1, 2.0, "a", day),
        (2, 0.5, "b", day),
        (3, 1.5, None, None),
    ]
    assert [(row.offset, row.column, row.value) for row in rejected] == [
        (4, "n", "three"),
        (5, "n", "2.5"),
        (6, "x", "1e+300"),
        (7, "s", "7"),
        (8, "s", "\\xff"),
        (9, "t", "2456293.5"),
        (10, "t", "yesterday"),
    ]
    assert json.loads(rejected[0].payload) == {"n": "three", "x": 1, "s": "a", "t": None}


def test_types_may_change_late_in_a_table_of_sqlite(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "late.db"
    sqlite(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x, s)",
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 70000) "
        "INSERT INTO t SELECT i, CASE WHEN i > 69999 THEN 0.5 END, "
        "CASE WHEN i > 69999 THEN 'late' END FROM r",
    )
    wanted = schema(id=pa.int64(), x=pa.float32(), s=pa.string())
    source = ReadDatabase(
        f"sqlite:///{path}", schema=wanted, table="t", partition_by="id", partitions=1
    )
    rows, rejected = read(source)
    assert not rejected
    assert len(rows) == 70_000
    assert rows[-1] == {
        "id": 70_000,
        "x": 0.5,
        "s": "late",
        FILE: f"sqlite:{path}.t",
        OFFSET: 70_000,
    }


def test_types_of_duckdb(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "types.duckdb"
    duck(
        path,
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE t (d DATE, p DECIMAL(9, 2), u UUID, e mood, l INTEGER[], h HUGEINT, "
        "b BOOLEAN, w TIME, o BLOB, r STRUCT(a INTEGER), ns TIMESTAMP_NS, f DOUBLE)",
        "INSERT INTO t VALUES ('2013-01-01', 1.25, 'eeccb8c5-9943-b2bb-bb5e-222f4e14b687', 'ok', "
        "[1, NULL, 2], 7, true, '10:00:00', 'ab', {'a': 1}, '2013-01-01 00:00:00.000001', 1e300)",
    )
    wanted = schema(
        d=pa.timestamp("s", tz="UTC"),
        p=pa.float32(),
        u=pa.string(),
        e=pa.string(),
        l=pa.list_(pa.int64()),
        h=pa.int64(),
        b=pa.int64(),
        w=pa.string(),
        o=pa.string(),
        ns=pa.timestamp("us", tz="UTC"),
    )
    uri = f"duckdb:///{path}"
    (row,), _ = read(ReadDatabase(uri, schema=wanted, table="t"))
    assert row["d"] == datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)
    assert [row[name] for name in "puelhbwo"] == [
        1.25,
        "eeccb8c5-9943-b2bb-bb5e-222f4e14b687",
        "ok",
        [1, 2],
        7,
        1,
        "10:00:00",
        "ab",
    ]
    assert row["ns"].microsecond == 1
    inferred = arrow_schema(infer_schema(ReadDatabase(uri, table="t")))
    assert inferred.names == ["d", "p", "u", "e", "l", "h", "b", "w", "o", "ns", "f"]
    assert inferred.field("u").type == pa.string()
    poison = ReadDatabase(uri, schema=schema(f=pa.float32()), table="t")
    assert [(r.column, r.value) for r in read(poison)[1]] == [("f", "1e+300")]
    repaired = read(poison)[1][0]._replace(payload=b'{"f": 2.5}')
    assert poison.read_rejected([repaired], poison.raw_schema()).kept["f"].to_pylist() == [2.5]


def test_the_schema_is_inferred(uri: str) -> None:
    found = arrow_schema(infer_schema(ReadDatabase(uri, table="flights", partition_by="id")))
    assert found.names == ["id", "x", "s", "t", "n"]
    assert found.field("id").type == pa.int64()
    assert found.field("s").type == pa.string()
    assert found.field("t").type == pa.timestamp("us", tz="UTC")


def test_numbers_written_as_text_stay_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "zip.db"
    sqlite(path, "CREATE TABLE t (zip TEXT)", "INSERT INTO t VALUES ('00501'), ('10001')")
    source = ReadDatabase(f"sqlite:///{path}", table="t")
    assert arrow_schema(infer_schema(source)).field("zip").type == pa.string()


def test_what_cannot_be_read(uri: str, tmp_path: pathlib.Path) -> None:
    def build(**arguments: Any) -> None:
        given = {"schema": SCHEMA, "table": "flights", **arguments}
        _ = beam.Pipeline("FnApiRunner") | ReadDatabase(uri, **given)

    with pytest.raises(DataError, match='has no table "flihgts"; did you mean "flights"'):
        build(table="flihgts")
    with pytest.raises(RecipeError, match='no column "idd"; did you mean "id"'):
        build(schema=schema(idd=pa.int64()))
    with pytest.raises(RecipeError, match=r'partition_by=: there is no column "idd"'):
        build(partition_by="idd")
    with pytest.raises(DataError, match=r'ReadDatabase\(query="SELECT nothing"\): .*; check'):
        build(table=None, query="SELECT nothing")
    with pytest.raises(RecipeError, match=r'partition_by="s": the column has type'):
        list(ReadDatabase(uri, table="flights", partition_by="s").reader().plan())
    kind = uri.partition(":")[0]
    with pytest.raises(DataError, match=r'there is no file ".*nowhere"; check the path'):
        ReadDatabase(f"{kind}:///{tmp_path}/nowhere", table="t").available_columns()
    other = tmp_path / "other"
    other.write_bytes(b"a,b\n1,2\n" * 100)
    with pytest.raises(DataError) as raised:
        ReadDatabase(f"{kind}:///{other}", table="t").available_columns()
    assert "\n" not in str(raised.value)


def test_a_retyped_column_is_named(tmp_path: pathlib.Path) -> None:
    source = ReadDatabase(fill("duckdb", tmp_path), schema=SCHEMA, table="flights")
    source.check_columns(source.raw_schema())
    path = tmp_path / "data.duckdb"
    duck(path, "ALTER TABLE flights ALTER n TYPE VARCHAR")
    for check in (lambda: source.check_columns(SCHEMA), lambda: read(source)):
        with pytest.raises(DataError, match=r'"n" has type .*string, which cannot become int64'):
            check()


def test_columns_may_come_and_go(uri: str) -> None:
    kind, _, path = uri.partition(":///")
    change = sqlite if kind == "sqlite" else duck
    source = ReadDatabase(uri, schema=SCHEMA, table="flights")
    source.check_columns(source.raw_schema())
    change(pathlib.Path(path), "ALTER TABLE flights ADD COLUMN more INTEGER")
    assert values(read(source)[0]) == VALUES
    change(pathlib.Path(path), "ALTER TABLE flights DROP COLUMN n")
    # Also after the columns were checked.
    for check in (lambda: source.check_columns(SCHEMA), lambda: read(source)):
        with pytest.raises(RecipeError, match=r'\(table="flights"\): there is no column "n"; '):
            check()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReadDatabase("sqlite:///a"), "either table= or query="),
        (lambda: ReadDatabase("sqlite:///a", table="t", query="q"), "either table= or query="),
        (lambda: ReadDatabase("mysql://h/d", table="t"), 'begins with "mysql"; expected one'),
        (lambda: ReadDatabase("sqlite://a", table="t"), "three or four slashes"),
        (lambda: ReadDatabase("duckdb:///", table="t"), "three or four slashes"),
        (lambda: ReadDatabase("postgresql://u:pw123@h/d", table="t"), "holds a password"),
        (lambda: ReadDatabase("postgresql://h/d?password=pw123", table="t"), "holds a password"),
        (lambda: ReadDatabase("postgresql://h/d", table="t", password="pw123"), "password would"),
        (lambda: ReadDatabase("sqlite:///a", table="t", partitions=0), "partitions=0"),
        (lambda: ReadDatabase("sqlite:///a", table="t", after=1), "give cursor="),
        (lambda: ReadDatabase("sqlite:///a", table="a.", schema=SCHEMA), "expected a table's name"),
        (lambda: ReadDatabase("sqlite:///a", table='"a', schema=SCHEMA), "expected a table's name"),
    ],
)
def test_wrong_arguments(build: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        build()
    assert "pw123" not in str(raised.value)


def test_names_are_quoted(uri: str) -> None:
    kind, _, path = uri.partition(":///")
    name = 'or"der; by.'
    (sqlite if kind == "sqlite" else duck)(
        pathlib.Path(path),
        f"CREATE TABLE {quote(name)} ({quote(name)} INTEGER)",
        f"INSERT INTO {quote(name)} VALUES (1), (2)",
    )
    source = ReadDatabase(
        uri,
        schema=schema(**{name: pa.int64()}),
        table=quote(name),
        partition_by=name,
        cursor=name,
        after=1,
    )
    assert values(read(source)[0]) == [(2,)]
    assert Selection(table=f"main.{quote(name)}").parts() == ["main", name]
