"""The flights recipe from every batch source: the same graph, the same features."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
import tensorflow as tf

from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet
from skewless.schema import format_schema
from tests import flights
from tests.servers.bigquery import PROJECT, emulator
from tests.servers.postgresql import PASSWORD, postgresql

pytestmark = pytest.mark.integration

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "flights" / "recipe.py"
RECIPE = """
import dataclasses

import skewless as sk
from skewless.pipeline.recipe import load_recipe

recipe = dataclasses.replace(load_recipe({example!r}), source={source})
"""
SCHEMA = "schema={schema!r}, event_time='time_hour', name='flights'"
SOURCES = {
    "json": "sk.ReadJsonLines({folder!r} + '/flights.jsonl', " + SCHEMA + ")",
    "parquet": "sk.ReadParquet({folder!r} + '/flights.parquet', " + SCHEMA + ")",
    "avro": "sk.ReadAvro({folder!r} + '/flights.avro', " + SCHEMA + ")",
    "tfrecord": "sk.ReadTFRecord({folder!r} + '/flights.tfrecord.gz', " + SCHEMA + ")",
    "bigquery": "sk.ReadBigQuery({address[0]!r}, endpoint={address[1]!r}, "
    "storage_endpoint={address[2]!r}, " + SCHEMA + ")",
    "postgresql": "sk.ReadDatabase({address!r}, table='flights', partition_by='id', "
    "password='env:DATABASE_PASSWORD', " + SCHEMA + ")",
    "http": "sk.ReadHttp({address!r}, records='flights', pagination=sk.PageNumber("
    f"size={flights.PAGE_ROWS}, total='pages'), " + SCHEMA + ")",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("flights")
    csv = flights.write_csv(folder / "flights.csv")
    (folder / "schema.pbtxt").write_text(format_schema(flights.schema_of(csv)))
    return folder


@pytest.fixture(scope="module")
def table(folder: pathlib.Path) -> pa.Table:
    return flights.table_of(folder / "flights.csv")


@pytest.fixture(scope="module")
def from_csv(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    source = f"sk.ReadCsv({str(folder / 'flights.csv')!r}, strings_can_be_null=True, {SCHEMA})"
    return _run(source, folder, "", tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def expected(from_csv: Result) -> dict[str, Counter[bytes]]:
    return {split: _examples(from_csv.paths, split) for split in SPLITS}


def _run(source: str, folder: pathlib.Path, address: object, output: pathlib.Path) -> Result:
    given = source.format(folder=str(folder), schema=str(folder / "schema.pbtxt"), address=address)
    recipe = output / "from_source.py"
    recipe.write_text(RECIPE.format(example=str(EXAMPLE), source=given))
    return journey(Journey(recipe, output / "runs", until="transform"), Quiet())


@contextlib.contextmanager
def _provided(kind: str, table: pa.Table, folder: pathlib.Path) -> Iterator[object]:
    """Put the flights where a source is to read them; give the address."""
    if kind == "bigquery":
        with emulator(folder) as server:
            flights.load_bigquery(table, server)
            yield f"{PROJECT}.{flights.TABLE}", server.endpoint, server.storage_endpoint
    elif kind == "postgresql":
        with postgresql() as database:
            flights.load_postgresql(table, database)
            yield database.uri
    elif kind == "http":
        with flights.served(flights.json_lines(table)) as url:
            yield url
    else:
        write = {
            "json": (flights.write_json_lines, "flights.jsonl"),
            "parquet": (flights.write_parquet, "flights.parquet"),
            "avro": (flights.write_avro, "flights.avro"),
            "tfrecord": (flights.write_tfrecord, "flights.tfrecord.gz"),
        }
        function, name = write[kind]
        yield str(function(table, folder / name))


def _examples(paths: RunPaths, split: str) -> Counter[bytes]:
    files = [str(path) for path in paths.example_parts(split)]
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return Counter(records.as_numpy_iterator())


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_gives_the_same_features(
    kind: str,
    folder: pathlib.Path,
    table: pa.Table,
    from_csv: Result,
    expected: dict[str, Counter[bytes]],
    graph_constants: Callable[[RunPaths], dict[str, bytes]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    with _provided(kind, table, folder) as address:
        result = _run(SOURCES[kind], folder, address, tmp_path)
    assert result.ledger.entries() == from_csv.ledger.entries()
    assert result.ledger.total("flights", "read") == 336_776
    assert graph_constants(result.paths) == graph_constants(from_csv.paths)
    for split in SPLITS:
        assert _examples(result.paths, split) == expected[split]
    # The password was planted in the environment: it must be nowhere else.
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()
    assert json.loads((result.paths.root / "manifest.json").read_text())["inputs"]["flights"]
