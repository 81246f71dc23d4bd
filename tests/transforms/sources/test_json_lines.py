from __future__ import annotations

import gzip
import json
import pathlib
import tempfile

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import DataError, RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import OFFSET, ORIGIN, Count, Outcome, Rejected
from skewless.transforms.sources.json_lines import ReadJsonLines

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("s", pa.string(), required=False),
    ]
)


def read(source: ReadJsonLines) -> list[Outcome]:
    file_format, schema = source.file_format(), source.raw_schema()
    (path,) = source.patterns
    pieces = list(file_format.pieces(path, pathlib.Path(path).stat().st_size))
    return [outcome for piece in pieces for outcome in file_format.read(piece, schema)]


def test_a_pipeline_reads_and_rejects(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"n": 1, "s": "a", "z": 0}\n\n{"n": "x"}\n{"n": 3}')

    def check(batches: list[pa.RecordBatch]) -> None:
        assert [r["n"] for b in batches for r in b.to_pylist()] == [1, 3]

    def check_rejected(found: list[Rejected]) -> None:
        (row,) = found
        assert (row.file, row.offset, row.payload) == (str(path), 28, b'{"n": "x"}')

    def check_counts(counts: list[Count]) -> None:
        assert counts == [Count("", "Read", "read", 3)]

    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | ReadJsonLines(path, schema=SCHEMA)
        assert_that(result.rows, check, label="rows")
        assert_that(result.rejected[0], check_rejected, label="rejected")
        assert_that(result.counts[0], check_counts, label="counts")


def test_gzip_with_a_byte_order_mark(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"n": 1}\r\n{"n": 2}'))
    outcomes = read(ReadJsonLines(path, schema=SCHEMA, range_bytes=1))
    assert [n for o in outcomes for n in o.kept["n"].to_pylist()] == [1, 2]
    assert [at for o in outcomes for at in o.kept[OFFSET].to_pylist()] == [3, 13]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"n": st.integers(0, 9), "s": st.text(min_size=1)}), max_size=8),
    st.integers(1, 80),
    st.integers(1, 80),
    st.booleans(),
)
def test_any_cut_gives_the_rows(objects, block_bytes, range_bytes, ascii_only) -> None:
    lines = [json.dumps(o, ensure_ascii=ascii_only).encode() + b"\n" for o in objects]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "in.jsonl"
        path.write_bytes(b"\n" + b"".join(lines))
        outcomes = read(
            ReadJsonLines(path, schema=SCHEMA, block_bytes=block_bytes, range_bytes=range_bytes)
        )
    found = [r for o in outcomes for r in o.kept.drop_columns(list(ORIGIN)).to_pylist()]
    assert found == objects
    offsets = [at for o in outcomes for at in o.kept[OFFSET].to_pylist()]
    assert offsets == [1 + sum(map(len, lines[:i])) for i in range(len(lines))]


def test_repaired_lines(tmp_path: pathlib.Path) -> None:
    source = ReadJsonLines(tmp_path / "gone.jsonl", schema=SCHEMA)
    old = [
        Rejected("Parse", "f", 5, "n", "x", "?", b'{\n  "n": 7\n}'),
        Rejected("Parse", "f", 9, "n", "y", "?", b""),
    ]
    outcome = source.read_rejected(old, SCHEMA)
    assert outcome.kept.to_pylist()[0]["n"] == 7
    assert outcome.kept[OFFSET].to_pylist() == [5]
    assert [(r.file, r.offset, r.payload) for r in outcome.rejected] == [("f", 9, b"")]


def test_odd_lines_do_not_stop_the_look_at_types(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.jsonl"
    deep = b'{"n": %s}' % (b"[" * 100_000 + b"]" * 100_000)
    for line in (b'{"s": [null, null]}', b'{"\\ud800": 1, "s": [null]}', deep):
        path.write_bytes(line + b'\n{"n": 1}\n')
        file_format = ReadJsonLines(path, schema=SCHEMA).file_format()
        (piece,) = file_format.pieces(str(path), 0)
        (batch,) = file_format.untyped(piece)
        assert batch["n"].to_pylist() == [1] if line == deep else [None, 1]
        assert set(batch.schema.names) <= {"n", "s"}


def test_empty_file_and_wrong_argument(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    with pytest.raises(DataError, match="file is empty"):
        _ = beam.Pipeline("FnApiRunner") | ReadJsonLines(tmp_path / "in.jsonl", schema=SCHEMA)
    with pytest.raises(RecipeError, match=r"ReadJsonLines\(range_bytes=0\)"):
        ReadJsonLines("in.jsonl", range_bytes=0)
