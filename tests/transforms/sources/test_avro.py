from __future__ import annotations

import io
import json
import math
import pathlib
import random
import tempfile
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import DataError, RecipeError
from skewless.schema import column_names, make_feature, make_schema
from skewless.transforms.infer import infer_schema
from skewless.transforms.rows import FILE, OFFSET, Count, Outcome
from skewless.transforms.sources import avro
from skewless.transforms.sources.avro import ReadAvro

AVRO = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "n", "type": ["null", "long"]},
        {"name": "x", "type": ["null", "double"]},
        {"name": "s", "type": ["null", "string"]},
        {"name": "t", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
    ],
}
SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("x", pa.float32(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("us", tz="UTC"), required=False),
    ]
)


def write(
    path: pathlib.Path,
    rows: list[dict[str, Any]],
    schema: dict[str, Any] = AVRO,
    codec: str = "deflate",
    block: int = 16_000,
) -> None:
    with path.open("wb") as file:
        fastavro.writer(file, schema, rows, codec=codec, sync_interval=block)


def numbered(rows: int) -> list[dict[str, Any]]:
    return [{"n": i, "x": i / 2, "s": f"row {i}", "t": i * 1_000_000} for i in range(rows)]


def read(source: ReadAvro) -> list[Outcome]:
    file_format, schema = source.file_format(), source.raw_schema()
    (path,) = source.patterns
    pieces = list(file_format.pieces(path, pathlib.Path(path).stat().st_size))
    return [outcome for piece in pieces for outcome in file_format.read(piece, schema)]


def kept(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in outcome.kept.to_pylist()]


def test_a_pipeline_reads_and_rejects(eager: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.avro"
    write(
        path, [*numbered(3), {"n": 3, "x": 1e300, "s": "", "t": None}, {"n": None, "x": math.nan}]
    )
    found = eager(lambda pipeline: pipeline | ReadAvro(str(path), schema=SCHEMA))
    rows = [row for batch in found.rows for row in batch.to_pylist()]
    assert [row["n"] for row in rows] == [0, 1, 2, None]
    assert [row["x"] for row in rows] == [0.0, 0.5, 1.0, None]
    assert rows[1]["t"].isoformat() == "1970-01-01T00:00:01+00:00"
    assert {row[FILE] for row in rows} == {str(path)}
    block = rows[0][OFFSET] >> 20
    assert [row[OFFSET] - (block << 20) for row in rows] == [0, 1, 2, 4]
    (row,) = found.rejected
    assert row[:2] == ("Parse", str(path))
    assert row[3:6] == ("x", "1e+300", "expected a number (float)")
    assert json.loads(row.payload)["n"] == 3
    assert found.counts == [Count("", "Read", "read", 5)]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2"])
@pytest.mark.parametrize("range_bytes", [1, 1000, 1 << 20])
def test_every_row_is_read_once_wherever_the_file_is_cut(
    codec: str, range_bytes: int, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "in.avro"
    write(path, numbered(1000), codec=codec, block=700)
    outcomes = read(ReadAvro(str(path), schema=SCHEMA, range_bytes=range_bytes))
    rows = kept(outcomes)
    assert sorted(row["n"] for row in rows) == list(range(1000))
    assert len({row[OFFSET] for row in rows}) == 1000
    assert sum(outcome.counts["read"] for outcome in outcomes) == 1000


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "x": st.none() | st.floats(width=32),
            "s": st.none() | st.text(),
            "t": st.none() | st.integers(-(10**15), 10**15),
        }
    ),
    max_size=20,
)


@settings(max_examples=25)
@given(rows=ROWS)
def test_both_decoders_give_the_same_rows(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "in.avro"
        write(path, rows, block=100)
        source = ReadAvro(str(path), schema=SCHEMA)
        fast = read(source)
        slow = []
        with path.open("rb") as file:
            header = avro._read_header(file, str(path))
            for block in avro._blocks(file, header, str(path), len(header.raw), None):
                slow.append(avro._row_by_row(header, block, SCHEMA, str(path)))
    assert repr(kept(fast)) == repr(kept(slow))
    assert [r.offset for o in fast for r in o.rejected] == [
        r.offset for o in slow for r in o.rejected
    ]


def test_types_that_polars_does_not_know_are_read_row_by_row(tmp_path: pathlib.Path) -> None:
    schema = {
        "type": "record",
        "name": "Row",
        "fields": [{"name": "n", "type": ["null", "long", "string"]}],
    }
    path = tmp_path / "in.avro"
    write(path, [{"n": 1}, {"n": "one"}, {"n": None}], schema)
    n = make_schema([make_feature("n", pa.int64(), required=False)])
    (outcome,) = read(ReadAvro(str(path), schema=n))
    assert [row["n"] for row in outcome.kept.to_pylist()] == [1, None]
    assert [row.value for row in outcome.rejected] == ["one"]


def test_damage_in_a_block_rejects_its_rows_from_there_on(tmp_path: pathlib.Path) -> None:
    schema = {"type": "record", "name": "Row", "fields": [{"name": "s", "type": "string"}]}
    path = tmp_path / "in.avro"
    write(path, [{"s": "good"}, {"s": "bad!"}, {"s": "after"}], schema, codec="null", block=1000)
    data = path.read_bytes()
    # The length of the text, written as zigzag, becomes a negative one.
    path.write_bytes(data.replace(b"\x08bad!", b"\x07bad!"))
    s = make_schema([make_feature("s", pa.string(), required=False)])
    (outcome,) = read(ReadAvro(str(path), schema=s))
    assert [row["s"] for row in outcome.kept.to_pylist()] == ["good"]
    assert len(outcome.rejected) == 2
    assert outcome.counts == {"read": 3}
    assert "cannot be decoded from its row 1 on" in outcome.rejected[0].reason
    repaired = [outcome.rejected[0]._replace(payload=b'{"s": "mended"}')]
    again = ReadAvro(str(path), schema=s).read_rejected(repaired, s)
    (row,) = again.kept.to_pylist()
    assert (row["s"], row[OFFSET]) == ("mended", outcome.rejected[0].offset)


@pytest.mark.parametrize("damage", ["cut", "marker", "empty", "text"])
def test_a_damaged_file_is_named(damage: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.avro"
    write(path, numbered(50))
    data = path.read_bytes()
    words = {
        "cut": "is cut short",
        "marker": "does not end with the file's marker",
        "empty": "is no Avro file",
        "text": "is no Avro file",
    }
    path.write_bytes(
        {
            "cut": data[:-40],
            "marker": data[:-1] + bytes([data[-1] ^ 1]),
            "empty": b"",
            "text": b"n,x\n1,2\n",
        }[damage]
    )
    with pytest.raises(DataError, match=words[damage]) as raised:
        read(ReadAvro(str(path), schema=SCHEMA))
    assert str(path) in str(raised.value)


def test_a_missing_column_and_a_changed_type_are_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.avro"
    fields = [{"name": "n", "type": "string"}, {"name": "ss", "type": "string"}]
    write(path, [{"n": "1", "ss": ""}], {"type": "record", "name": "Row", "fields": fields})
    s = make_schema([make_feature("s", pa.string(), required=False)])
    with pytest.raises(RecipeError, match=r'"s".*did you mean "ss"'):
        ReadAvro(str(path), schema=s).check_columns(s)
    n = make_schema([make_feature("n", pa.int64(), required=False)])
    with pytest.raises(DataError, match=r'column "n" has type .*string, which cannot become int64'):
        read(ReadAvro(str(path), schema=n))


def test_a_schema_is_inferred(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.avro"
    write(path, [*numbered(5), {"n": None, "x": None, "s": "12", "t": 1}])
    schema = infer_schema(ReadAvro(str(path)))
    assert column_names(schema) == ["n", "x", "s", "t"]
    assert [f.type for f in schema.feature] == [f.type for f in SCHEMA.feature]


def test_a_header_that_is_read_in_small_pieces() -> None:
    buffer = io.BytesIO()
    fastavro.writer(buffer, AVRO, numbered(3), metadata={"k": "v" * 300_000})
    buffer.seek(0)
    header = avro._read_header(buffer, "x")
    assert header.names == ("n", "x", "s", "t")
    assert header.codec == "null"
    blocks = list(avro._blocks(buffer, header, "x", len(header.raw), None))
    assert sum(block.rows for block in blocks) == 3


def test_numbers_of_any_length_are_read() -> None:
    generator = random.Random(1)
    for _ in range(200):
        number = generator.randrange(-(2**63), 2**63)
        coded = (number << 1) ^ (number >> 63)
        data = bytearray()
        while coded > 0x7F:
            data.append(coded & 0x7F | 0x80)
            coded >>= 7
        data.append(coded)
        assert avro._read_long(bytes(data), 0) == (number, len(data))
