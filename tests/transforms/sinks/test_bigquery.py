from __future__ import annotations

import datetime
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from skewless.errors import RecipeError, RunError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import FILE, OFFSET, with_origin
from skewless.transforms.sinks import bigquery as sink
from skewless.transforms.sinks.bigquery import WriteBigQuery, Written
from skewless.transforms.sinks.bigquery_rows import storable, table_columns
from skewless.transforms.sources.bigquery import ReadBigQuery
from tests.servers.bigquery import PROJECT, BigQuery, emulator

integration = pytest.mark.integration


def test_wrong_arguments() -> None:
    with pytest.raises(RecipeError, match="not the full name"):
        WriteBigQuery("t")
    with pytest.raises(RecipeError, match="but not storage_endpoint="):
        WriteBigQuery("p.d.t", endpoint="http://localhost:1")


# --- With a server --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    with emulator(tmp_path_factory.mktemp("bigquery")) as running:
        running.make_dataset("out")
        yield running


@pytest.fixture
def table() -> str:
    return f"{PROJECT}.out.t{uuid.uuid4().hex}"


def batches(*first: int) -> list[pa.RecordBatch]:
    """Return batches of a thousand rows of features, from these numbers on."""
    return [
        with_origin(
            pa.record_batch(
                {
                    "n": np.arange(start, start + 1000),
                    "score": pa.array(np.arange(start, start + 1000) / 8, pa.float32()),
                    "label": pa.array(["on time", None] * 500),
                    "embedding": pa.array([[0.5, float(i)] for i in range(1000)]),
                    "at": pa.array([datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)] * 1000),
                }
            ),
            "in.csv",
            pa.array(range(1000)),
        )
        for start in first
    ]


def write(rows: list[pa.RecordBatch], *steps: Any) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | beam.Create(rows)
        for step in steps[:-1]:
            result = result | step
        assert_that(result | steps[-1], equal_to([sum(batch.num_rows for batch in rows)]))


@integration
def test_what_is_written_is_read_again(server: BigQuery, table: str, eager: Any) -> None:
    write(batches(0, 1000, 2000), WriteBigQuery(table, **server.where))
    write(batches(3000), WriteBigQuery(table, **server.where))
    schema = make_schema(
        [
            make_feature("n", pa.int64(), required=True),
            make_feature("score", pa.float32(), required=True),
            make_feature("label", pa.string(), required=False),
            make_feature("embedding", pa.list_(pa.float32()), required=False),
            make_feature("at", pa.timestamp("us", tz="UTC"), required=True),
        ]
    )
    result = eager(lambda p: p | ReadBigQuery(table, schema=schema, **server.where))
    found = [row for batch in result.rows for row in batch.drop_columns([FILE, OFFSET]).to_pylist()]
    wanted = [
        row
        for batch in batches(0, 1000, 2000, 3000)
        for row in batch.drop_columns([FILE, OFFSET]).to_pylist()
    ]
    assert sorted(found, key=lambda row: row["n"]) == wanted


@integration
def test_nothing_is_written_of_no_rows(server: BigQuery, table: str) -> None:
    write([], WriteBigQuery(table, **server.where))


@integration
def test_a_table_with_other_columns_is_refused(server: BigQuery, table: str) -> None:
    write(batches(0), WriteBigQuery(table, **server.where))
    others = [batch.drop_columns(["label"]) for batch in batches(0)]
    with pytest.raises(Exception, match='column "label" is not in the rows; write to another'):
        write(others, WriteBigQuery(table, **server.where))
    assert server.run(f"SELECT COUNT(*) FROM `{table}`") == [(1000,)]


@integration
def test_a_run_that_fails_appends_nothing(server: BigQuery, table: str) -> None:
    write(batches(0), WriteBigQuery(table, **server.where))
    with pytest.raises(Exception, match="a batch too many"):
        write(
            batches(1000, 2000, 3000),
            beam.Reshuffle(),
            "Fail" >> beam.Map(_fail_at, 3000),
            WriteBigQuery(table, **server.where),
        )
    assert server.run(f"SELECT COUNT(*), MAX(n) FROM `{table}`") == [(1000, 999)]


def _fail_at(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    if batch["n"][0].as_py() == first:
        raise ValueError("a batch too many")
    return batch


@integration
def test_streams_are_committed_together_and_once(server: BigQuery, table: str) -> None:
    step = WriteBigQuery(table, **server.where)
    streams = []
    for batch in map(storable, batches(0, 1000)):
        sink._make_table(step.connection, step.name, table_columns(batch.schema))
        with sink._PendingStream(step.connection, step.name, batch.schema) as stream:
            stream.append(batch)
            stream.append(batch)
            streams.append(stream.finalize())
    assert [stream.rows for stream in streams] == [2000, 2000]
    assert server.run(f"SELECT COUNT(*) FROM `{table}`") == [(0,)]
    gone = Written(f"{streams[0].stream[:-16]}{'0' * 16}", 1)
    with pytest.raises(RunError, match="nothing was appended"):
        sink._commit([*streams, gone], step.connection, step.name)
    assert server.run(f"SELECT COUNT(*) FROM `{table}`") == [(0,)]
    assert sink._commit(streams, step.connection, step.name) == 4000
    assert server.run(f"SELECT COUNT(*) FROM `{table}`") == [(4000,)]


@integration
def test_a_server_that_is_not_there(tmp_path: pathlib.Path, table: str) -> None:
    with emulator(tmp_path) as other:
        other.make_dataset("out")
        step = WriteBigQuery(table, retry_seconds=2, **other.where)
        (batch,) = map(storable, batches(0))
        sink._make_table(step.connection, step.name, table_columns(batch.schema))
        with sink._PendingStream(step.connection, step.name, batch.schema) as stream:
            stream.append(batch)
            other.process.kill()
            other.process.wait()
            with pytest.raises(RunError, match="connection was lost"):
                stream.finalize()
    with pytest.raises(Exception, match="connection was lost"):
        write(batches(0), step)
