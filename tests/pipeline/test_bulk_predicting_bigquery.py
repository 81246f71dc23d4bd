"""From table to table: all rows or none, with all their columns."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skewless.errors import DataError
from skewless.pipeline.bulk_predicting import BulkPrediction, predict_in_bulk
from skewless.transforms.sinks.bigquery import WriteBigQuery
from skewless.transforms.sources.bigquery import ReadBigQuery
from tests.pipeline.small_model import write_model
from tests.servers.bigquery import PROJECT, BigQuery, emulator

pytestmark = pytest.mark.integration

ROWS = 3_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    with emulator(tmp_path_factory.mktemp("bigquery")) as running:
        running.make_dataset("d")
        table = pa.table(
            {
                "id": [f"r{n}" for n in range(ROWS)],
                "x": pa.array([n + 0.1 for n in range(ROWS)], pa.float64()),
                "code": ["one" if n == 77 else str(n) for n in range(ROWS)],
                "at": [datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)] * ROWS,
                "day": [datetime.date(2013, 1, 1)] * ROWS,
            }
        )
        types = {"id": "STRING", "x": "FLOAT64", "code": "STRING", "at": "TIMESTAMP", "day": "DATE"}
        running.load("d.rows", table, **types)
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_model(tmp_path_factory.mktemp("model"))


def test_a_table_becomes_a_table(server: BigQuery, model: pathlib.Path, tmp_path) -> None:
    table = WriteBigQuery(f"{PROJECT}.d.predicted", **server.where)
    source = ReadBigQuery(f"{PROJECT}.d.rows", **server.where)
    few = BulkPrediction(model, source, tmp_path / "few", table=table, max_rejected=0)
    with pytest.raises(DataError, match="nothing was published"):
        predict_in_bulk(few)
    assert server.run("SELECT COUNT(*) FROM `d.predicted`") == [(0,)]
    wanted = BulkPrediction(model, source, tmp_path / "out", table=table)
    ledger = predict_in_bulk(wanted)
    totals = {kind: ledger.total("rows", kind) for kind in ("read", "predicted", "rejected")}
    assert totals == {"read": ROWS, "predicted": ROWS - 1, "rejected": 1}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ledger.json", "rejected"]
    counted = server.run("SELECT COUNT(*), COUNT(DISTINCT id) FROM `d.predicted`")
    assert counted == [(ROWS - 1, ROWS - 1)]
    (row,) = server.run("SELECT id, x, day, prediction FROM `d.predicted` WHERE code = '3'")
    assert row[:3] == ("r3", 3.1, datetime.date(2013, 1, 1))
    assert row[3] == pytest.approx(2 * 3.1 + 3, abs=1e-5)
    columns = [
        name
        for (name,) in server.run(
            "SELECT column_name FROM d.INFORMATION_SCHEMA.COLUMNS "
            "WHERE table_name = 'predicted' ORDER BY ordinal_position"
        )
    ]
    assert columns == ["id", "x", "code", "at", "day", "prediction"]


def test_a_query_becomes_files(server: BigQuery, model: pathlib.Path, tmp_path) -> None:
    query = "SELECT * FROM `d.rows` WHERE id IN ('r1', 'r2')"
    dataset = f"{PROJECT}.d"  # the emulator cannot read where results go by default
    source = ReadBigQuery(query=query, temp_dataset=dataset, project=PROJECT, **server.where)
    columns = ["id", "x"]
    predict_in_bulk(BulkPrediction(model, source, tmp_path / "out", columns=columns))
    found = pq.read_table(tmp_path / "out" / "predictions")
    assert found.column_names == [*columns, "prediction", "_file", "_offset"]
    assert sorted(found["id"].to_pylist()) == ["r1", "r2"]
