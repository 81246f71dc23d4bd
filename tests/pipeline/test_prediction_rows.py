"""Rows are found as they are named, and rows that have not gone through the recipe refused."""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skewless.errors import RecipeError
from skewless.pipeline.prediction_rows import format_of, prediction_rows, source_of
from skewless.schema import column_names, format_schema, make_feature, make_schema
from skewless.transforms.sources.bigquery import ReadBigQuery
from skewless.transforms.sources.carry import Carry
from skewless.transforms.sources.csv import ReadCsv
from skewless.transforms.sources.json_lines import ReadJsonLines
from skewless.transforms.sources.parquet import ReadParquet
from skewless.transforms.sources.tfrecord import ReadTFRecord

NOWHERE = pathlib.Path("nowhere/model")
RAW = [
    make_feature("x", pa.float32(), required=True),
    make_feature("k", pa.string(), required=False),
]
MADE = [
    make_feature("delay_1h", pa.float32(), required=False),
    make_feature("delay_3h", pa.float32(), required=False),
]
SCHEMA = make_schema([*RAW, *MADE])


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a run of a recipe that reads CSV and makes two columns."""
    root = tmp_path / "run"
    (root / "schemas").mkdir(parents=True)
    (root / "schemas" / "events.pbtxt").write_text(format_schema(make_schema(RAW)))
    dialect = {"delimiter": ";", "strings_can_be_null": True, "column_names": None, "columns": None}
    manifest = {
        "recipe": {"definition": {"source": ["ReadCsv", dialect]}},
        "ledger": {"weather": {"joined": {}}, "events": {"written": {}}},
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a/rows.csv.gz", ReadCsv),
        ("gs://bucket/rows-*.parquet", ReadParquet),
        ("rows.ndjson", ReadJsonLines),
        ("rows.json.zst", ReadJsonLines),
        ("part-00000-of-00010.tfrecord", ReadTFRecord),
        ("rows.v2/rows.tfrecord-*-of-00010.gz", ReadTFRecord),
        ("bigquery:p.d.t", ReadBigQuery),
        ("bigquery:SELECT *\nFROM `p.d.t`", ReadBigQuery),
    ],
)
def test_rows_are_named_by_path_or_table(text: str, kind: type) -> None:
    assert type(source_of([text], NOWHERE)) is kind


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["rows"], "give --input-format {csv,jsonl,parquet,tfrecord}"),
        (["a.csv", "b.parquet"], "of several formats"),
        (["bigquery:p.d.t", "bigquery:p.d.u"], "one table or query alone"),
        (["bigquery:t"], "not the full name of a table"),
        (["kafka:localhost:9092/t"], "skewless stream RECIPE --source kafka:localhost:9092/t"),
        (["pubsub:projects/p/subscriptions/s"], "--predict --to"),
    ],
)
def test_what_cannot_be_read_in_bulk_is_said(texts: list[str], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        source_of(texts, NOWHERE)
    assert words in str(caught.value)


def test_a_format_may_be_given_and_a_query_paid_for() -> None:
    assert type(source_of(["rows"], NOWHERE, input_format="csv")) is ReadCsv
    assert format_of(["rows.gz"]) is None
    query = source_of(["bigquery:SELECT 1 AS x"], NOWHERE, project="mine")
    assert isinstance(query, ReadBigQuery)
    assert query.project == "mine"


def test_csv_is_read_as_the_recipes_is(run: pathlib.Path) -> None:
    for model in (run, run / "model", run / "model" / "1"):
        source = source_of(["rows.csv"], model)
        assert isinstance(source, ReadCsv)
        assert (source.delimiter, source.strings_can_be_null) == (";", True)
    (run / "manifest.json").write_text("{}")
    assert source_of(["rows.csv"], run).file_format().dialect.delimiter == ","


def test_others_than_the_models_columns_are_kept(tmp_path: pathlib.Path) -> None:
    header = "id,x,k,delay_1h,delay_3h\n"
    (tmp_path / "rows.csv").write_text(f"{header}007,1,a,1,1\n")
    found = prediction_rows(source_of([f"{tmp_path}/rows.csv"], NOWHERE), NOWHERE, SCHEMA)
    assert found.kept == ("id", "x", "k", "delay_1h", "delay_3h")
    assert column_names(found.read.raw_schema()) == ["x", "k", "delay_1h", "delay_3h", "id"]
    names = ["_file", "_offset", *header.strip().split(",")]
    pq.write_table(pa.table({name: ["1"] for name in names}), tmp_path / "rows.parquet")
    source = source_of([f"{tmp_path}/rows.parquet"], NOWHERE)
    found = prediction_rows(source, NOWHERE, SCHEMA)
    assert isinstance(found.read, Carry)
    assert found.read.columns == found.kept == ("id", "x", "k", "delay_1h", "delay_3h")
    with pytest.raises(RecipeError, match='"_file" is what skewless calls'):
        prediction_rows(source, NOWHERE, SCHEMA, ["_file"])
    (tmp_path / "rows.jsonl").write_text('{"id": 7}')
    source = source_of([f"{tmp_path}/rows.jsonl"], NOWHERE)
    assert isinstance(prediction_rows(source, NOWHERE, SCHEMA).read, ReadJsonLines)
    found = prediction_rows(source, NOWHERE, SCHEMA, ["id", "x"])
    assert (found.read.columns, found.kept) == (("id",), ("id", "x"))


def test_rows_without_what_the_recipe_makes_are_refused(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    rows = tmp_path / "rows.jsonl"

    def check(line: str) -> None:
        rows.write_text(line)
        prediction_rows(source_of([str(rows)], run), run / "model", SCHEMA)

    check('{"x": 1, "delay_3h": 2}')
    with pytest.raises(RecipeError, match="recipe's steps make") as caught:
        check('{"x": 1, "k": "a"}')
    assert '"delay_1h", "delay_3h"' in str(caught.value)
    assert "online store" in str(caught.value)
    csv = tmp_path / "rows.csv"
    csv.write_text("x;k;delay_1h\n")
    with pytest.raises(RecipeError, match='no column "delay_3h"'):
        prediction_rows(source_of([str(csv)], run), run, SCHEMA)
    csv.write_text("x;k\n")
    with pytest.raises(RecipeError, match="recipe's steps make"):
        prediction_rows(source_of([str(csv)], run), run, SCHEMA)
    # Away from its run nobody knows what the recipe makes, but it is worth a hint.
    csv.write_text("x,k\n")
    with pytest.raises(RecipeError, match="if a step of the recipe makes it"):
        prediction_rows(source_of([str(csv)], NOWHERE), NOWHERE, SCHEMA)


def test_a_tfrecord_has_no_others(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.tfrecord"
    path.write_bytes(b"")
    source = source_of([str(path)], NOWHERE)
    with pytest.raises(RecipeError, match='"id" is no column of the model, and of ReadTFRecord'):
        prediction_rows(source, NOWHERE, SCHEMA, ["x", "id"])
