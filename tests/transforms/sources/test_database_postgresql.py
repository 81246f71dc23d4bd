"""A real PostgreSQL: snapshots, faults, and a planted password that must be nowhere."""

from __future__ import annotations

import concurrent.futures
import datetime
import functools
import logging
import pickle
import traceback
import urllib.parse
from collections.abc import Iterator
from typing import Any

import adbc_driver_postgresql.dbapi as driver
import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, arrow_schema, make_feature, make_schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET, Rejected
from skewless.transforms.sources.database import ReadDatabase
from skewless.transforms.sources.database_snapshot import held
from tests.servers.postgresql import PASSWORD, PostgreSql, postgresql
from tests.transforms.sources.sent_pipeline import sent

pytestmark = pytest.mark.integration

ROWS = 50_000
SCHEMA = make_schema(
    [
        make_feature("id", pa.int64(), required=True),
        make_feature("origin", pa.string(), required=False),
        make_feature("delay", pa.float32(), required=False),
        make_feature("at", pa.timestamp("us", tz="UTC"), required=False),
    ]
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSql]:
    with postgresql() as running:
        execute(
            running,
            "CREATE TABLE flights (id BIGINT PRIMARY KEY, origin TEXT, delay DOUBLE PRECISION, "
            "at TIMESTAMPTZ, changed BIGINT)",
            "INSERT INTO flights SELECT i * 3, 'o' || i % 7, CASE WHEN i % 5 > 0 THEN i / 4.0 END, "
            f"'2013-01-01 UTC'::timestamptz + i * interval '1 minute', i "
            f"FROM generate_series(1, {ROWS}) i",
            "ANALYZE flights",
        )
        yield running


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)


def execute(server: PostgreSql, *statements: str) -> list[Any]:
    with driver.connect(server.whole_uri, autocommit=True) as connection:
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                found = cursor.fetchall() if statement.startswith("SELECT") else []
    return found


def flights(server: PostgreSql, **arguments: Any) -> ReadDatabase:
    given = {"schema": SCHEMA, "table": "flights", "password": "env:DATABASE_PASSWORD"}
    return ReadDatabase(server.uri, **{**given, **arguments})


def read(source: ReadDatabase) -> tuple[list[dict[str, Any]], list[Rejected]]:
    reader = source.reader()
    outcomes = [o for piece in reader.plan() for o in reader.read(piece, source.raw_schema())]
    for outcome in outcomes:
        assert outcome.kept.num_rows + len(outcome.rejected) == outcome.counts["read"]
    rows = [row for outcome in outcomes for row in outcome.kept.to_pylist()]
    return rows, [row for outcome in outcomes for row in outcome.rejected]


def test_partitions_have_each_row_once_in_a_pipeline(server: PostgreSql) -> None:
    source = flights(server, partition_by="id", partitions=4)
    pieces = list(source.reader().plan())
    assert len(pieces) == 5
    assert all(piece.by_key for piece in pieces)

    def check(batches: list[pa.RecordBatch]) -> None:
        rows = sorted((r for b in batches for r in b.to_pylist()), key=lambda r: r["id"])
        assert [row["id"] for row in rows] == [i * 3 for i in range(1, ROWS + 1)]
        assert [row[OFFSET] for row in rows] == [row["id"] for row in rows]
        assert {row[FILE] for row in rows} == {f"{server.place}.flights"}
        assert rows[4]["delay"] is None
        assert rows[5]["delay"] == 1.5
        first = datetime.datetime(2013, 1, 1, 0, 1, tzinfo=datetime.UTC)
        assert rows[0]["at"] == first

    def check_counts(counts: list[Any]) -> None:
        assert sum(count.n for count in counts) == ROWS

    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | source
        assert_that(result.rows, check, label="rows")
        assert_that(result.counts[0], check_counts, label="counts")
    assert not leftover(server)


def leftover(server: PostgreSql) -> list[Any]:
    """Return the sessions that stand in a transaction, but for those the test planned."""
    held.close()
    return execute(
        server,
        "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'",
    )


@pytest.mark.parametrize("key", ["at", "changed", "id"])
def test_rows_have_the_same_numbers_at_every_reading(server: PostgreSql, key: str) -> None:
    source = flights(server, partition_by=key, partitions=3)
    once, again = read(source)[0], read(source)[0]
    assert once == again
    assert len({row[OFFSET] for row in once}) == ROWS
    assert sorted(row["id"] for row in once) == [i * 3 for i in range(1, ROWS + 1)]


def count_rows(reader: Any, schema: Schema, piece: Any) -> int:
    return sum(outcome.kept.num_rows for outcome in reader.read(piece, schema))


def test_all_pieces_are_of_one_snapshot(server: PostgreSql) -> None:
    execute(server, "CREATE TABLE moving (id INT PRIMARY KEY)")
    execute(server, "INSERT INTO moving SELECT generate_series(1, 1000)")
    schema = make_schema([make_feature("id", pa.int64(), required=True)])
    for consistent, expected in ((True, 1000), (False, 0)):
        source = flights(
            server, schema=schema, table="moving", partition_by="id", consistent=consistent
        )
        reader = source.reader()
        pieces = list(reader.plan())
        execute(server, "DELETE FROM moving")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            counts = pool.map(functools.partial(count_rows, reader, schema), pieces)
            assert sum(counts) == expected
        execute(server, "INSERT INTO moving SELECT generate_series(1, 1000)")
    pieces = list(flights(server, schema=schema, table="moving", partition_by="id").reader().plan())
    held.close()
    with pytest.raises(DataError, match=r"snapshot.*consistent=False"):
        list(reader.read(pieces[0], schema))
    assert not leftover(server)


def test_types(server: PostgreSql) -> None:
    execute(
        server,
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE types (i SMALLINT, p NUMERIC(12, 2), whole NUMERIC, u UUID, e mood, "
        "l INTEGER[], b BOOLEAN, j JSONB, w INTERVAL, d DATE, n TIMESTAMP, v VARCHAR(9), "
        "y BYTEA, c CHAR(3), a TIME)",
        "INSERT INTO types VALUES (1, 1.25, 7, 'eeccb8c5-9943-b2bb-bb5e-222f4e14b687', 'ok', "
        "'{1,NULL,2}', true, '{\"a\": 1}', '1 day', '2013-01-01', '2013-01-01 10:00:00.5', 'v', "
        "'ab', 'c', '10:00'), (2, 'NaN', 1e30, NULL, NULL, NULL, NULL, NULL, NULL, 'infinity', "
        "NULL, NULL, '\\xff', NULL, NULL)",
    )
    types: dict[str, pa.DataType] = {
        "i": pa.int64(),
        "p": pa.float32(),
        "whole": pa.float32(),
        "u": pa.string(),
        "e": pa.string(),
        "l": pa.list_(pa.int64()),
        "b": pa.int64(),
        "j": pa.string(),
        "w": pa.string(),
        "d": pa.timestamp("s", tz="UTC"),
        "n": pa.timestamp("us", tz="UTC"),
        "v": pa.string(),
        "y": pa.string(),
        "c": pa.string(),
        "a": pa.string(),
    }

    def schema_of(**types: pa.DataType) -> Schema:
        return make_schema([make_feature(n, t, required=False) for n, t in types.items()])

    rows, rejected = read(flights(server, schema=schema_of(**types), table="types"))
    assert [(row.offset, row.column) for row in rejected] == [(1, "d")]
    day = datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)
    assert list(rows[0].values())[:-2] == [
        1,
        1.25,
        7.0,
        "eeccb8c5-9943-b2bb-bb5e-222f4e14b687",
        "ok",
        [1, 2],
        1,
        '{"a": 1}',
        "1 day",
        day,
        day.replace(hour=10, microsecond=500_000),
        "v",
        "ab",
        "c  ",
        "10:00:00",
    ]
    other = schema_of(p=pa.float32(), whole=pa.int64(), y=pa.string())
    rows, rejected = read(flights(server, schema=other, table="types"))
    assert [row["whole"] for row in rows] == [7]
    assert [(row.column, row.value) for row in rejected] == [
        ("whole", "1" + "0" * 30),
    ]
    only = flights(server, schema=schema_of(y=pa.string()), table="types")
    assert [(row.column, row.value) for row in read(only)[1]] == [("y", "\\xff")]
    inferred = arrow_schema(infer_schema(flights(server, table="types")))
    assert inferred.names == list(types)
    assert inferred.field("whole").type == pa.float32() or pa.int64()
    assert inferred.field("j").type == pa.string()


def test_poison_is_rejected_with_its_key(server: PostgreSql) -> None:
    execute(
        server,
        "CREATE TABLE poison (id INT PRIMARY KEY, delay DOUBLE PRECISION)",
        "INSERT INTO poison VALUES (1, 1), (20, 1e300), (300, 3)",
    )
    schema = make_schema(
        [
            make_feature("id", pa.int64(), required=True),
            make_feature("delay", pa.float32(), required=False),
        ]
    )
    source = flights(server, schema=schema, table="poison", partition_by="id", partitions=2)
    rows, rejected = read(source)
    assert [row["id"] for row in rows] == [1, 300]
    assert rejected == [
        Rejected(
            "Parse",
            f"{server.place}.poison",
            20,
            "delay",
            "1e+300",
            "expected a number (float)",
            b'{"id": 20, "delay": 1e+300}',
        )
    ]


def test_the_schema_may_change_between_two_readings(server: PostgreSql) -> None:
    execute(
        server,
        "CREATE TABLE changing (id INT, origin TEXT, delay REAL, at TIMESTAMPTZ)",
        "INSERT INTO changing VALUES (1, 'JFK', 0.5, '2013-01-01 UTC')",
    )

    def build() -> beam.Pipeline:
        pipeline = beam.Pipeline("FnApiRunner")
        _ = pipeline | flights(server, table="changing")
        return pipeline

    # Each is changed after its pipeline was made, too, when what was checked no longer holds.
    more, retyped, fewer = build(), build(), build()
    execute(server, "ALTER TABLE changing ADD more INT")
    more.run().wait_until_finish()
    assert len(read(flights(server, table="changing"))[0]) == 1

    execute(server, "ALTER TABLE changing ALTER delay TYPE TEXT")
    message = r'ReadDatabase\(table="changing"\): column "delay" has type string, which cannot'
    with pytest.raises(Exception, match=message):
        retyped.run().wait_until_finish()
    with pytest.raises(DataError, match=message):
        build()

    execute(server, "ALTER TABLE changing DROP origin", "ALTER TABLE changing ADD origins TEXT")
    message = 'there is no column "origin"; did you mean "origins"'
    with pytest.raises(Exception, match=message):
        fewer.run().wait_until_finish()
    with pytest.raises(RecipeError, match=message):
        build()
    with pytest.raises(DataError, match='has no table "chnging"; did you mean "changing"'):
        flights(server, table="chnging").available_columns()


def test_incremental_reading_and_the_fingerprint(server: PostgreSql) -> None:
    execute(server, "CREATE TABLE growing (id INT, changed BIGINT)")
    execute(server, "INSERT INTO growing SELECT i, i FROM generate_series(1, 10) i")
    schema = make_schema([make_feature("id", pa.int64(), required=True)])
    source = flights(server, schema=schema, table="growing")
    by_cursor = flights(server, schema=schema, table="growing", cursor="changed", after=7)
    before, before_by_cursor = source.fingerprint(), by_cursor.fingerprint()
    assert before == source.fingerprint()
    assert before_by_cursor[0]["largest"] == "10"
    assert [row["id"] for row in read(by_cursor)[0]] == [8, 9, 10]
    execute(server, "UPDATE growing SET id = 50 WHERE id = 5")
    assert source.fingerprint() != before
    assert by_cursor.fingerprint() == before_by_cursor
    execute(server, "UPDATE growing SET id = 5, changed = 11 WHERE id = 50")
    assert by_cursor.fingerprint() != before_by_cursor
    assert sorted(row["id"] for row in read(by_cursor)[0]) == [5, 8, 9, 10]


# Half a gigabyte, more than what lies in buffers when the first rows are there.
WIDE = "SELECT id, repeat(origin, 5000) AS origin, delay, at FROM flights"


def end_connections(server: PostgreSql) -> int:
    """End those that read WIDE; return how many."""
    return len(
        execute(
            server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'COPY%repeat%' AND pid <> pg_backend_pid()",
        )
    )


def test_a_connection_lost_in_the_middle(server: PostgreSql) -> None:
    reader = flights(server, table=None, query=WIDE).reader()
    (piece,) = reader.plan()
    outcomes = reader.read(piece, SCHEMA)
    assert next(outcomes).kept.num_rows < ROWS / 2
    assert end_connections(server) == 1
    message = rf"^{server.place}: .*; the connection was lost: check .*, and run again$"
    with pytest.raises(DataError, match=message) as raised:
        list(outcomes)
    assert "\n" not in str(raised.value)


def test_a_connection_lost_in_the_middle_fails_the_run(server: PostgreSql) -> None:
    def end(batch: pa.RecordBatch) -> pa.RecordBatch:
        end_connections(server)
        return batch

    pipeline = beam.Pipeline("FnApiRunner")
    result = pipeline | flights(server, table=None, query=WIDE)
    _ = result.rows | beam.Map(end)
    with pytest.raises(Exception, match="the connection was lost: check"):
        pipeline.run().wait_until_finish()


@pytest.mark.parametrize("fault", ["password", "user", "database", "port", "host"])
def test_no_connection_and_no_secret(
    server: PostgreSql,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = PASSWORD + "!"
    monkeypatch.setenv("DATABASE_PASSWORD", wrong if fault == "password" else PASSWORD)
    uri = {
        "user": server.uri.replace("skewless@", "nobody@"),
        "database": server.uri.replace("/postgres", "/nothing"),
        "port": server.uri.replace(f":{server.port}/", ":1/"),
        "host": server.uri.replace("127.0.0.1", "nowhere.invalid"),
    }.get(fault, server.uri)
    message = {
        "password": 'password authentication failed for user "skewless"',
        "user": 'password authentication failed for user "nobody"',
        "database": 'database "nothing" does not exist',
        "port": "Connection refused",
        "host": "could not translate host name",
    }[fault]
    source = ReadDatabase(uri, schema=SCHEMA, table="flights", password="env:DATABASE_PASSWORD")
    with pytest.raises(DataError, match=message) as raised:
        _ = beam.Pipeline("FnApiRunner") | source
    assert "\n" not in str(raised.value)
    told = "".join(traceback.format_exception(raised.value)) + caplog.text
    for secret in (PASSWORD, urllib.parse.quote(PASSWORD, safe="")):
        assert secret not in told


def test_the_password_is_in_no_pipeline_log_or_fingerprint(
    server: PostgreSql, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("DATABASE_URL", server.whole_uri)
    source = ReadDatabase("env:DATABASE_URL", schema=SCHEMA, table="flights", partition_by="id")
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | source
    packed = sent(pipeline)
    assert b"env:DATABASE_URL" in packed
    found = list(source.reader().plan())
    pipeline.run().wait_until_finish()
    held.close()
    told = [
        packed,
        pickle.dumps([source.reader(), found]),
        repr([source.fingerprint(), found, source.__dict__]).encode(),
        caplog.text.encode(),
    ]
    for secret in (PASSWORD, urllib.parse.quote(PASSWORD, safe="")):
        for text in told:
            assert secret.encode() not in text
