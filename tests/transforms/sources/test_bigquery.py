from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.server
import json
import pathlib
import pickle
import random
import threading
import traceback
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import grpc
import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import DataError, RecipeError
from skewless.schema import column_names, make_feature, make_schema
from skewless.transforms.bigquery_client import TableName, parse_table
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.bigquery import WriteBigQuery
from skewless.transforms.sources.bigquery import ReadBigQuery, plan_streams
from tests.servers.bigquery import PROJECT, BigQuery, emulator, relay

integration = pytest.mark.integration

US = pa.timestamp("us", tz="UTC")
SCHEMA = make_schema(
    [
        make_feature("carrier", pa.string(), required=False),
        make_feature("flight", pa.int64(), required=True),
        make_feature("dep_delay", pa.float32(), required=False),
        make_feature("departed", US, required=True),
        make_feature("stops", pa.list_(pa.string()), required=False),
    ]
)
TYPES = {
    "carrier": "STRING",
    "flight": "INT64",
    "dep_delay": "FLOAT64",
    "departed": "TIMESTAMP",
    "stops": "STRING[]",
    "cancelled": "BOOL",
    "day": "DATE",
}
FIRST = datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)


def flights(rows: int) -> pa.Table:
    random_ = random.Random(1)
    return pa.table(
        {
            "carrier": [random_.choice(["AA", "DL", "UA", None]) for _ in range(rows)],
            "flight": pa.array(range(rows), pa.int64()),
            "dep_delay": [random_.choice([None, i / 8]) for i in range(rows)],
            "departed": pa.array(
                [FIRST + datetime.timedelta(minutes=i, microseconds=i) for i in range(rows)], US
            ),
            "stops": pa.array([["JFK", "LAX"][: i % 3] for i in range(rows)]),
            "cancelled": [i % 7 == 0 for i in range(rows)],
            "day": [datetime.date(2013, 1, 1 + i % 28) for i in range(rows)],
        }
    )


# --- Without a server -----------------------------------------------------------------


def test_names_of_tables() -> None:
    assert parse_table("p.d.t", None, "") == TableName("p", "d", "t")
    assert parse_table("p:d.t", "other", "") == TableName("p", "d", "t")
    assert parse_table("d.t", "p", "") == TableName("p", "d", "t")
    assert parse_table("example.com:p.d.t", None, "").project == "example.com:p"
    assert parse_table("p.d.t", None, "").path == "projects/p/datasets/d/tables/t"
    for text in ("d.t", "t", "", "p.d.", "p.d.t$20130101", "p..t", "`p.d.t`", "a.b.c.d"):
        with pytest.raises(RecipeError, match="not the full name of a table"):
            parse_table(text, None, "ReadBigQuery")


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError):
        name = parse_table(text, None, "")
        assert parse_table(str(name), None, "") == name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "either a table or query="),
        ({"table": "p.d.t", "query": "SELECT 1"}, "either a table or query="),
        ({"table": "t"}, "not the full name"),
        ({"query": "SELECT 1", "row_restriction": "x > 1"}, "write it into the query"),
        ({"table": "p.d.t", "temp_dataset": "p.d"}, "is for queries"),
        ({"table": "p.d.t", "max_streams": -1}, "max_streams=-1"),
        ({"table": "p.d.t", "retry_seconds": 0}, "retry_seconds=0"),
        ({"table": "p.d.t", "endpoint": "http://localhost:1"}, "but not storage_endpoint="),
        ({"table": "p.d.t", "storage_endpoint": "localhost:1"}, "but not endpoint="),
        ({"table": "p.d.t", "endpoint": "localhost:1", "storage_endpoint": "x:1"}, "a URL"),
        (
            {"query": "SELECT 1", "endpoint": "http://localhost:1", "storage_endpoint": "x:1"},
            "give project=",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        ReadBigQuery(**arguments)


def test_names_for_the_ledger_and_for_messages() -> None:
    assert ReadBigQuery("p.d.t").input_name == "t"
    assert ReadBigQuery(query="SELECT 1").input_name == "query"
    assert ReadBigQuery(query="SELECT 1", name="mine").input_name == "mine"
    assert ReadBigQuery("p.d.t").where == 'ReadBigQuery("p.d.t")'
    long = ReadBigQuery(query=f"SELECT\n  {'x' * 100}").where
    assert long == f'ReadBigQuery(query="SELECT {"x" * 33}...")'


def test_credentials_that_do_not_work(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"type": "service_account", "private_key": "s3cret"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    source = ReadBigQuery("p.d.t", schema=SCHEMA)
    with pytest.raises(DataError, match="no credentials that work") as raised:
        source.available_columns()
    assert "s3cret" not in str(raised.value)
    assert "gcloud auth" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert b"s3cret" not in pickle.dumps(source.reader())


@contextlib.contextmanager
def refusing(status: int, answer: dict[str, Any]) -> Iterator[str]:
    """Run a server that says no to everything; give its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_key_that_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    with refusing(400, said) as url:
        fields = {"type": "service_account", "private_key": private.decode(), "token_uri": url}
        key.write_text(json.dumps({**fields, "client_email": "me@p.example"}))
        with pytest.raises(DataError, match=r"no credentials that work .*Invalid JWT") as raised:
            _ = beam.Pipeline("FnApiRunner") | ReadBigQuery("p.d.t", schema=SCHEMA)
    assert "\n" not in str(raised.value)
    told = "".join(traceback.format_exception(raised.value))
    assert private.decode().splitlines()[1] not in told


def test_what_is_not_allowed() -> None:
    text = "Access Denied: Table p:d.t"
    errors = [{"message": text, "domain": "global", "reason": "accessDenied"}]
    said = {"error": {"code": 403, "message": text, "errors": errors}}
    with refusing(403, said) as url:
        asked = ReadBigQuery("p.d.t", schema=SCHEMA, endpoint=url, storage_endpoint="x:1")
        with pytest.raises(DataError) as raised:
            _ = beam.Pipeline("FnApiRunner") | asked
    assert str(raised.value) == (
        'ReadBigQuery("p.d.t"): not allowed (Access Denied: Table p:d.t); give these credentials '
        "the roles BigQuery Data Viewer or Editor, Job User and Read Session User"
    )


# --- With a server --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    with emulator(tmp_path_factory.mktemp("bigquery")) as running:
        running.make_dataset("air")
        running.load("air.flights", flights(1000), **TYPES)
        running.load("air.many", flights(300_000), **TYPES)
        yield running


@pytest.fixture
def table(server: BigQuery) -> str:
    """Return the name of a new table of ten flights."""
    name = f"air.t{uuid.uuid4().hex}"
    server.load(name, flights(10), **TYPES)
    return name


def source(server: BigQuery, table: str | None = "air.flights", **given: Any) -> ReadBigQuery:
    return ReadBigQuery(table, **{"project": PROJECT, "schema": SCHEMA, **server.where, **given})


def read(eager: Any, source: ReadBigQuery) -> Any:
    """Read a source in a pipeline, in which every row is accounted for."""
    result = eager(lambda pipeline: pipeline | source)
    kept = sum(batch.num_rows for batch in result.rows)
    assert sum(count.n for count in result.counts) == kept + len(result.rejected)
    return result


def rows_of(result: Any) -> list[dict[str, Any]]:
    return sorted(
        (row for batch in result.rows for row in batch.to_pylist()), key=lambda row: row[OFFSET]
    )


def expected(rows: int) -> list[dict[str, Any]]:
    table = flights(rows).select(column_names(SCHEMA))
    return table.set_column(2, "dep_delay", table["dep_delay"].cast(pa.float32())).to_pylist()


@integration
def test_a_table_is_read_whole_and_typed(server: BigQuery, eager: Any) -> None:
    result = read(eager, source(server))
    rows = rows_of(result)
    assert {row.pop(FILE) for row in rows} == {f"bigquery:{PROJECT}.air.flights"}
    assert [row.pop(OFFSET) for row in rows] == list(range(1000))
    assert rows == expected(1000)
    assert sum(count.n for count in result.counts) == 1000
    assert result.rejected == []


@integration
def test_columns_and_rows_that_are_not_asked_for_stay_there(server: BigQuery, eager: Any) -> None:
    asked = source(server, columns=["flight", "carrier"], row_restriction="flight < 20")
    (piece,) = plan_streams(asked._connection, asked._target, asked.columns)
    assert pa.ipc.read_schema(pa.py_buffer(piece.schema)).names == ["flight", "carrier"]
    result = read(eager, asked)
    assert sum(count.n for count in result.counts) == 20
    rows = rows_of(result)
    assert [set(row) for row in rows] == [{"flight", "carrier", FILE, OFFSET}] * 20
    assert [row["flight"] for row in rows] == list(range(20))
    none = source(server, row_restriction="flight < 0")
    assert rows_of(read(eager, none)) == []


@integration
def test_many_streams_give_each_row_once(server: BigQuery, eager: Any) -> None:
    result = read(eager, source(server, "air.many", max_streams=3))
    flight = np.concatenate([batch["flight"].to_numpy() for batch in result.rows])
    offsets = np.concatenate([batch[OFFSET].to_numpy() for batch in result.rows])
    assert (np.sort(flight) == np.arange(300_000)).all()
    assert sorted(set(offsets >> 40)) == [0, 1, 2]
    assert len(set(offsets)) == 300_000
    assert sum(count.n for count in result.counts) == 300_000


@integration
def test_a_query_is_read_through_a_table_that_expires(server: BigQuery, eager: Any) -> None:
    asked = source(
        server,
        None,
        query=f"SELECT carrier, COUNT(*) AS n FROM `{PROJECT}.air.flights` "
        "WHERE carrier IS NOT NULL GROUP BY carrier",
        temp_dataset="air",
        schema=make_schema(
            [
                make_feature("carrier", pa.string(), required=True),
                make_feature("n", pa.int64(), required=True),
            ]
        ),
    )
    assert asked.available_columns() == ("carrier", "n")
    rows = {row["carrier"]: row["n"] for row in rows_of(read(eager, asked))}
    carriers = flights(1000)["carrier"].to_pylist()
    assert rows == {name: carriers.count(name) for name in ("AA", "DL", "UA")}


@integration
def test_the_schema_is_inferred(server: BigQuery) -> None:
    schema = infer_schema(source(server, schema=None))
    assert column_names(schema) == list(TYPES)
    for feature in SCHEMA.feature:
        assert feature in list(schema.feature)


@integration
def test_a_value_that_does_not_fit_is_rejected(server: BigQuery, table: str, eager: Any) -> None:
    server.run(f"UPDATE `{PROJECT}.{table}` SET dep_delay = 1e300 WHERE flight = 3")
    server.run(f"UPDATE `{PROJECT}.{table}` SET carrier = 'now' WHERE TRUE")
    result = read(eager, source(server, table))
    assert [row["flight"] for row in rows_of(result)] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    (row,) = result.rejected
    assert row[:6] == (
        "Parse",
        f"bigquery:{PROJECT}.{table}",
        3,
        "dep_delay",
        "1e+300",
        "expected a number (float)",
    )
    assert sum(count.n for count in result.counts) == 10
    repaired = row._replace(payload=row.payload.replace(b"1e+300", b"0.5"))
    again = source(server, table).read_rejected([repaired], SCHEMA)
    assert again.kept.to_pylist()[0]["dep_delay"] == 0.5
    assert again.kept[OFFSET].to_pylist() == [3]


@integration
def test_what_is_not_there_is_named(server: BigQuery) -> None:
    with pytest.raises(DataError, match=r'no table "flihgts" in .*; did you mean "flights"'):
        source(server, "air.flihgts").available_columns()
    with pytest.raises(DataError, match=r'no dataset "iar" in .*; did you mean "air"'):
        source(server, "iar.flights").available_columns()
    with pytest.raises(DataError, match=r'no dataset "sea" in .*; check the name'):
        source(server, "sea.ships").available_columns()
    for table, near in (("air.flihgts", "flights"), ("iar.flights", "air")):
        asked = source(server, None, query=f"SELECT * FROM `{PROJECT}.{table}`")
        with pytest.raises(DataError, match=f'did you mean "{near}"'):
            asked.available_columns()
    schema = make_schema([make_feature("flihgt", pa.int64(), required=False)])
    with pytest.raises(RecipeError, match='"flihgt"; did you mean "flight"'):
        _ = beam.Pipeline("FnApiRunner") | source(server, schema=schema)
    with pytest.raises(RecipeError, match="BigQuery refused it"):
        source(server, None, query="SELEC 1").available_columns()


def make_anew(server: BigQuery, table: str, **types: str) -> None:
    with server.client() as client:
        client.delete_table(f"{PROJECT}.{table}")
    server.load(table, flights(10), **types)


@integration
def test_a_table_that_changes_between_two_reads(server: BigQuery, table: str, eager: Any) -> None:
    few = {name: type_ for name, type_ in TYPES.items() if name != "day"}
    make_anew(server, table, **few)
    asked = source(server, table)
    before = asked.fingerprint()
    assert before == asked.fingerprint()

    make_anew(server, table, **TYPES)  # a column more, which nobody asked for
    assert asked.fingerprint() != before
    assert len(rows_of(read(eager, asked))) == 10
    assert asked.estimate_size() == asked.fingerprint()[0]["size"]
    assert dataclasses.replace(asked, table=None, query="SELECT 1 AS n").estimate_size() is None

    # Changed after the pipeline was made: what was checked then does not hold.
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | source(server, table)
    del few["carrier"]
    make_anew(server, table, **few)
    with pytest.raises(Exception, match='there is no column "carrier"'):
        pipeline.run().wait_until_finish()
    with pytest.raises(RecipeError, match='there is no column "carrier"'):
        _ = beam.Pipeline("FnApiRunner") | source(server, table)

    make_anew(server, table, **TYPES)
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | source(server, table)
    make_anew(server, table, **{**TYPES, "flight": "STRING"})
    with pytest.raises(Exception, match='column "flight" has type string, which cannot become'):
        pipeline.run().wait_until_finish()


@integration
def test_a_broken_stream_goes_on_where_it_was(server: BigQuery, eager: Any) -> None:
    with relay(server, breaks=2, after=1) as (broken, handler):
        result = read(eager, source(broken, "air.many"))
    flight = np.concatenate([batch["flight"].to_numpy() for batch in result.rows])
    assert (np.sort(flight) == np.arange(300_000)).all()
    assert sum(count.n for count in result.counts) == 300_000
    assert handler.offsets == [0, 65_536, 131_072]


@integration
def test_a_server_that_stops_in_the_middle(tmp_path: pathlib.Path) -> None:
    with emulator(tmp_path) as other:
        other.make_dataset("air")
        other.load("air.many", flights(600_000), **TYPES)
        asked = source(other, "air.many", retry_seconds=2)
        (piece,) = plan_streams(asked._connection, asked._target, column_names(SCHEMA))
        reading = asked.reader().read(piece, SCHEMA)
        assert next(reading).kept.num_rows == 65_536
        other.process.kill()
        other.process.wait()
        with pytest.raises(DataError, match="the connection was lost and did not come back") as e:
            list(reading)
        assert "\n" not in str(e.value)
        with pytest.raises(DataError, match="the connection was lost and did not come back"):
            asked.available_columns()


@integration
def test_a_run_whose_stream_ends_too_soon_publishes_nothing(server: BigQuery) -> None:
    table = f"{PROJECT}.air.t{uuid.uuid4().hex}"
    lost = grpc.StatusCode.NOT_FOUND  # as of a server that was started again
    with relay(server, breaks=99, after=2, status=lost) as (broken, handler):
        pipeline = beam.Pipeline("FnApiRunner")
        _ = pipeline | source(broken, "air.many") | WriteBigQuery(table, **server.where)
        with pytest.raises(Exception, match="broken off by the test"):
            pipeline.run().wait_until_finish()
    assert handler.offsets == [0]
    assert server.run(f"SELECT COUNT(*) FROM `{table}`") == [(0,)]
