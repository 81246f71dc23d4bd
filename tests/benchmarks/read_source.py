"""Read one source, with skewless or with Beam's own connector, and count the rows.

The clock starts after the imports; a pipeline of either kind does nothing but read and count.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf

import skewless as sk
from tests import flights
from tests.benchmarks.work import Job

NAMES = ("csv", "json", "parquet", "avro", "tfrecord", "bigquery", "postgresql", "http")


def run(job: Job) -> dict[str, Any]:
    kind, variant, about = job.options
    address = json.loads(about)
    build = {"skewless": _skewless, "beam": _beam}[variant]
    count = job.output / "count.txt"
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = build(pipeline, kind, address, pathlib.Path(address["folder"]))
        _ = rows | beam.CombineGlobally(sum) | beam.Map(_write, str(count))
    found = int(count.read_text())
    if found != job.rows:
        raise ValueError(f"{kind}, {variant}: {found} of {job.rows} rows")
    return {}


def _write(count: int, path: str) -> None:
    pathlib.Path(path).write_text(str(count))


def _skewless(pipeline: beam.Pipeline, kind: str, address: Any, folder: pathlib.Path) -> Any:
    schema = str(folder / "schema.pbtxt")
    sources = {
        "csv": lambda: flights.source_of(folder / "flights.csv", schema=schema),
        "json": lambda: sk.ReadJsonLines(folder / "flights.jsonl", schema=schema),
        "parquet": lambda: sk.ReadParquet(folder / "flights.parquet", schema=schema),
        "avro": lambda: sk.ReadAvro(folder / "flights.avro", schema=schema),
        "tfrecord": lambda: sk.ReadTFRecord(folder / "flights.tfrecord.gz", schema=schema),
        "bigquery": lambda: sk.ReadBigQuery(
            address["table"],
            endpoint=address["endpoint"],
            storage_endpoint=address["storage_endpoint"],
            schema=schema,
        ),
        "postgresql": lambda: sk.ReadDatabase(
            address["uri"], table="flights", password="env:DATABASE_PASSWORD", schema=schema
        ),
        "http": lambda: sk.ReadHttp(
            address["url"],
            records="flights",
            pagination=sk.PageNumber(size=flights.PAGE_ROWS, total="pages"),
            schema=schema,
        ),
    }
    return (pipeline | sources[kind]()).rows | beam.Map(_rows_of)


def _rows_of(batch: pa.RecordBatch) -> int:
    return int(batch.num_rows)


def _beam(pipeline: beam.Pipeline, kind: str, address: Any, folder: pathlib.Path) -> Any:
    sources = {
        "csv": lambda: pipeline | beam.io.ReadFromCsv(str(folder / "flights.csv")),
        "json": lambda: pipeline | beam.io.ReadFromJson(str(folder / "flights.jsonl")),
        "parquet": lambda: pipeline | beam.io.ReadFromParquet(str(folder / "flights.parquet")),
        "avro": lambda: pipeline | beam.io.ReadFromAvro(str(folder / "flights.avro")),
        # It gives bytes: what tf.Transform's users do next is to parse them, as here.
        "tfrecord": lambda: (
            pipeline
            | beam.io.ReadFromTFRecord(str(folder / "flights.tfrecord.gz"))
            | beam.Map(tf.train.Example.FromString)
        ),
        "bigquery": lambda: _from_bigquery(pipeline, address),
        "postgresql": lambda: pipeline | beam.Create([address["uri"]]) | beam.ParDo(_DbApiLoop()),
    }
    return sources[kind]() | beam.Map(_one)


def _one(_: Any) -> int:
    return 1


def _from_bigquery(pipeline: beam.Pipeline, address: Any) -> Any:
    """Apply ReadFromBigQuery with the Storage Read API, its clients sent to the emulator."""
    import google.cloud.bigquery_storage_v1 as bq_storage
    import grpc
    from apache_beam.io.gcp import bigquery as beam_bigquery
    from apache_beam.io.gcp import bigquery_tools
    from apache_beam.io.gcp.internal.clients import bigquery as apitools
    from google.cloud.bigquery_storage_v1.services.big_query_read import transports

    rest = f"{address['endpoint']}/bigquery/v2/"
    channel = grpc.insecure_channel(
        address["storage_endpoint"], options=[("grpc.max_receive_message_length", -1)]
    )
    client_class = bq_storage.BigQueryReadClient

    def read_client() -> Any:
        return client_class(transport=transports.BigQueryReadGrpcTransport(channel=channel))

    def rest_client(_: Any) -> Any:
        return apitools.BigqueryV2(url=rest, get_credentials=False)

    bq_storage.BigQueryReadClient = read_client
    bigquery_tools.BigQueryWrapper._bigquery_client = staticmethod(rest_client)
    table = address["table"].replace(".", ":", 1)
    return pipeline | beam.io.ReadFromBigQuery(
        table=table,
        method=beam_bigquery.ReadFromBigQuery.Method.DIRECT_READ,
        project=address["table"].split(".")[0],
    )


class _DbApiLoop(beam.DoFn):  # type: ignore[misc]
    """What one writes with a DB-API driver: a server-side cursor, and a dict for each row."""

    def process(self, uri: str) -> Iterator[dict[str, Any]]:
        import psycopg
        from psycopg.rows import dict_row

        password = os.environ["DATABASE_PASSWORD"]
        with (
            psycopg.connect(uri, password=password, row_factory=dict_row) as connection,
            connection.cursor("rows") as cursor,
        ):
            cursor.itersize = 10_000
            cursor.execute("SELECT * FROM flights")
            yield from cursor
