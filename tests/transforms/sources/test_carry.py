from __future__ import annotations

import json
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skewless.errors import DataError, RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import CARRIED, FILE, OFFSET, Outcome, reject_rows
from skewless.transforms.sources.carry import Carry
from skewless.transforms.sources.csv import ReadCsv
from skewless.transforms.sources.json_lines import ReadJsonLines
from skewless.transforms.sources.parquet import ReadParquet

SCHEMA = make_schema([make_feature("x", pa.float32(), required=False)])


def read(source: Any, columns: tuple[str, ...]) -> list[Outcome]:
    """Read the files of a source one after another, without Beam."""
    reader = Carry(source, columns)._reader()
    found = []
    for pattern in source.patterns:
        for piece in source.file_format().pieces(pattern, pathlib.Path(pattern).stat().st_size):
            found += reader.read(piece, SCHEMA)
    return found


def carried(outcomes: list[Outcome]) -> list[Any]:
    return [row for outcome in outcomes for row in outcome.kept.column(CARRIED).to_pylist()]


def write(path: pathlib.Path, columns: dict[str, Any]) -> pathlib.Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_columns_of_parquet_are_as_they_were(tmp_path: pathlib.Path) -> None:
    x = pa.array([0.1, 1e300, 2.5, None], pa.float64())
    kind = pa.array(["a", "b", None, "a"]).dictionary_encode()
    path = write(tmp_path / "a.parquet", {"kind": kind, "x": x, "s": [{"n": i} for i in range(4)]})
    (outcome,) = read(ReadParquet(path, schema=SCHEMA), ("x", "kind", "s"))
    assert outcome.kept.schema.names == ["x", FILE, OFFSET, CARRIED]
    assert outcome.kept.column(OFFSET).to_pylist() == [0, 2, 3]
    assert outcome.kept.column(CARRIED).to_pylist() == [
        {"x": 0.1, "kind": "a", "s": {"n": 0}},
        {"x": 2.5, "kind": None, "s": {"n": 2}},
        {"x": None, "kind": "a", "s": {"n": 3}},
    ]
    (rejected,) = outcome.rejected
    assert json.loads(rejected.payload) == {"x": 1e300, "kind": "b", "s": {"n": 1}}
    # What a later step rejects has them too, in the place of what the schema made of them.
    (later, *_) = reject_rows(outcome.kept, "Validate", "x", "?")
    assert json.loads(later.payload) == {"x": 0.1, "kind": "a", "s": {"n": 0}}
    assert (later.file, later.offset) == (str(path), 0)


def test_files_have_the_types_of_the_first(tmp_path: pathlib.Path) -> None:
    first = write(tmp_path / "a.parquet", {"x": [1.0], "n": pa.array([1], pa.int64()), "m": ["a"]})
    other = write(tmp_path / "b.parquet", {"x": [2.0], "n": pa.array([2], pa.int8())})
    found = read(ReadParquet([first, other], schema=SCHEMA), ("n", "m"))
    assert carried(found) == [{"n": 1, "m": "a"}, {"n": 2, "m": None}]
    assert found[0].kept.schema == found[1].kept.schema
    third = write(tmp_path / "c.parquet", {"x": [1.0], "n": ["one"], "m": ["a"]})
    with pytest.raises(DataError, match=r'c.parquet: column "n" is string, and int64 in the first'):
        read(ReadParquet([first, third], schema=SCHEMA), ("n", "m"))


def test_fields_of_json_are_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        '{"x": 1, "id": "a\\u00e6"}',
        "",
        '{"x": "far"}',
        '{"id": [1, {"b": null}]}',
        '{"x": 2}',
    ]
    path.write_text("\n".join(lines))
    (outcome,) = read(ReadJsonLines(path, schema=SCHEMA), ("id",))
    assert outcome.kept.column("x").to_pylist() == [1.0, None, 2.0]
    assert carried([outcome]) == [{"id": "aæ"}, {"id": '[1, {"b": null}]'}, {"id": None}]
    assert len(outcome.rejected) == 1


def test_other_sources_are_refused() -> None:
    with pytest.raises(RecipeError, match=r'ReadCsv\("a.csv"\): only columns of the schema'):
        Carry(ReadCsv("a.csv", schema=SCHEMA), ("id",))
