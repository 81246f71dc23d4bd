from __future__ import annotations

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, arrow_schema, column_names, find_feature, is_required
from skewless.transforms.infer import ALL_MISSING, infer_schema
from skewless.transforms.sources.csv import ReadCsv
from skewless.transforms.sources.files import FileSource
from skewless.transforms.sources.json_lines import ReadJsonLines
from skewless.transforms.sources.parquet import ReadParquet

UTC = {unit: pa.timestamp(unit, tz="UTC") for unit in ("s", "us")}


def types(schema: Schema) -> dict[str, pa.DataType]:
    fields = arrow_schema(schema)
    return dict(zip(fields.names, fields.types, strict=True))


def required(schema: Schema) -> set[str]:
    return {f.name for f in schema.feature if is_required(f)}


def test_csv(tmp_path: pathlib.Path) -> None:
    text = """\
i,f,s,t,u,d,flag,zip,empty,maybe,clock,huge
1,1.5,a,2013-01-01T10:00:00Z,2013-01-01 10:00:00.5,2013-01-01,true,01234,,NA,10:30,1
2,2,b,2013-01-01T11:00:00+02:00,2013-01-01 10:00:00,2013-01-02,false,AB1,NA,3,11:30,1
"""
    (tmp_path / "in.csv").write_text(text)
    schema = infer_schema(ReadCsv(tmp_path / "in.csv"))
    assert types(schema) == {
        "i": pa.int64(),
        "f": pa.float32(),
        "s": pa.string(),
        "t": UTC["s"],
        "u": UTC["us"],
        "d": UTC["s"],
        "flag": pa.int64(),
        "zip": pa.string(),
        "empty": pa.string(),
        "maybe": pa.int64(),
        "clock": pa.string(),
        "huge": pa.int64(),
    }
    assert list(types(schema)) == text.splitlines()[0].split(",")
    assert required(schema) == set(types(schema)) - {"empty", "maybe"}
    assert list(find_feature(schema, "empty").annotation.tag) == [ALL_MISSING]
    assert find_feature(schema, "flag").int_domain.max == 1


def test_a_few_bad_cells_do_not_change_a_type(tmp_path: pathlib.Path) -> None:
    n = 1_000
    rows = [f"{i},{i}.5,2013-01-01T00:00:00Z,{i}" for i in range(n)]
    rows[700] = "seven,x,noon,0x10"
    rows[800] = "9223372036854775808,0x1,2,x"
    (tmp_path / "in.csv").write_text("i,f,t,h\n" + "\n".join(rows))
    for size in (1 << 20, 500):
        schema = infer_schema(ReadCsv(tmp_path / "in.csv", block_bytes=size))
        assert types(schema) == {
            "i": pa.int64(),
            "f": pa.float32(),
            "t": UTC["s"],
            "h": pa.int64(),
        }
        assert len(required(schema)) == 4


def test_order_is_that_of_the_first_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "b.csv").write_text("z,new,y\n1,1,1\n")
    (tmp_path / "a.csv").write_text("y,z\n1.5,\n")
    schema = infer_schema(ReadCsv(tmp_path / "*.csv"))
    assert column_names(schema) == ["y", "z", "new"]
    assert required(schema) == {"y"}
    assert types(schema) == {"y": pa.float32(), "z": pa.int64(), "new": pa.int64()}


def test_json_lines(tmp_path: pathlib.Path) -> None:
    rows = [
        '{"i": 1, "f": 1.5, "s": "12", "l": [1, 2], "t": "2013-01-01T00:00:00Z", "b": true}'
    ] * 200
    rows[3] = (
        '{"i": 1, "f": 2, "s": "", "l": [], "t": "2013-01-01T00:00:00Z", "o": {"a": 1}, "b": false}'
    )
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(rows))
    expected = {
        "i": pa.int64(),
        "f": pa.float32(),
        "s": pa.string(),
        "l": pa.list_(pa.int64()),
        "t": UTC["s"],
        "b": pa.int64(),
    }
    schema = infer_schema(ReadJsonLines(path))
    assert types(schema) == expected
    assert required(schema) == {"i", "f", "t", "b"}
    rows[5:7] = ['{"i": "x", "f": 1, "s": "12", "t": "?", "b": true}', "no json"]
    path.write_text("\n".join(rows))
    assert types(infer_schema(ReadJsonLines(path))) == expected


def test_parquet_keeps_its_own_types(tmp_path: pathlib.Path) -> None:
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int16()),
            "f": pa.array([1.0, 2.0], pa.float64()),
            "s": pa.array(["1", "2"]).dictionary_encode(),
            "t": pa.array([0, 10**9], pa.int64()).cast(pa.timestamp("ns")),
            "l": pa.array([["a"], None], pa.large_list(pa.string())),
            "o": pa.array([{"a": 1}, None]),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    schema = infer_schema(ReadParquet(tmp_path / "in.parquet"))
    assert types(schema) == {
        "i": pa.int64(),
        "f": pa.float32(),
        "s": pa.string(),
        "t": UTC["s"],
        "l": pa.list_(pa.string()),
    }
    assert required(schema) == {"f", "s", "t"}


@pytest.mark.parametrize("source", [ReadCsv, ReadJsonLines])
def test_what_is_inferred_can_be_read(tmp_path: pathlib.Path, source: type[FileSource]) -> None:
    lines = {
        ReadCsv: "n,t\n1,2013-01-01 00:00:00.5\n,\n",
        ReadJsonLines: '{"n": 1, "t": "2013-01-01 00:00:00.5"}\n{"n": null}\n',
    }
    path = tmp_path / "in"
    path.write_text(lines[source])
    schema = infer_schema(source(path))
    file_format = source(path).file_format()
    (piece,) = file_format.pieces(str(path), path.stat().st_size)
    outcome = next(iter(file_format.read(piece, schema)))
    assert outcome.rejected == []
    assert outcome.kept["n"].to_pylist() == [1, None]
    assert outcome.kept["t"][0].as_py().microsecond == 500_000


def test_projection_and_errors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a,b\n1,2\n")
    assert column_names(infer_schema(ReadCsv(path, columns=["b"]))) == ["b"]
    with pytest.raises(RecipeError, match='no column "c"'):
        infer_schema(ReadCsv(path, columns=["c"]))
    with pytest.raises(DataError, match="no such file"):
        infer_schema(ReadCsv(tmp_path / "nope.csv"))
    path.write_text("a,b\n")
    assert required(infer_schema(ReadCsv(path))) == set()
    assert types(infer_schema(ReadCsv(path))) == {"a": pa.string(), "b": pa.string()}


def test_csv_that_is_not_utf8_throughout(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"s,n\n\xff,1\n\xff\na,2\n")
    schema = infer_schema(ReadCsv(tmp_path / "in.csv"))
    assert types(schema) == {"s": pa.string(), "n": pa.int64()}
