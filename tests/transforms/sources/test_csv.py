from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import math
import pathlib
import pickle
import tempfile

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, format_schema, make_feature, make_schema
from skewless.transforms.rows import FILE, OFFSET, ORIGIN, Count, Outcome, Rejected
from skewless.transforms.sources.csv import ReadCsv

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=False),
        make_feature("x", pa.float32(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("s", tz="UTC"), required=False),
    ]
)
HEADER = "n,x,s,t\n"
GOOD = "1,1.5,a,2013-01-01T10:00:00Z\n"


def read(source: ReadCsv) -> list[Outcome]:
    """All blocks of all pieces of the files, in order, without a pipeline."""
    file_format, schema = source.file_format(), source.raw_schema()
    outcomes = []
    for path in source.patterns:
        for piece in file_format.pieces(path, pathlib.Path(path).stat().st_size):
            outcomes.extend(file_format.read(piece, schema))
    return outcomes


def rows(outcomes: list[Outcome]) -> list[dict[str, object]]:
    return [row for o in outcomes for row in o.kept.drop_columns(list(ORIGIN)).to_pylist()]


def rejected(outcomes: list[Outcome]) -> list[Rejected]:
    return [row for o in outcomes for row in o.rejected]


def write(folder: pathlib.Path, text: str | bytes, name: str = "in.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"))
    return str(path)


def test_a_pipeline_reads_types_and_origin(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, HEADER + GOOD + "bad,1,b,\n")

    def check(batches: list[pa.RecordBatch]) -> None:
        (batch,) = batches
        assert batch.drop_columns(list(ORIGIN)).schema.types == [
            pa.int64(),
            pa.float32(),
            pa.string(),
            pa.timestamp("s", tz="UTC"),
        ]
        assert batch[FILE].to_pylist() == [path]
        assert batch[OFFSET].to_pylist() == [len(HEADER)]
        assert batch["t"][0].as_py().isoformat() == "2013-01-01T10:00:00+00:00"

    def check_rejected(found: list[Rejected]) -> None:
        (row,) = found
        assert row[:6] == (
            "Parse",
            path,
            len(HEADER + GOOD),
            "n",
            "bad",
            "expected a whole number (int64)",
        )
        assert json.loads(row.payload) == {"n": "bad", "x": "1", "s": "b", "t": ""}

    def check_counts(counts: list[Count]) -> None:
        assert counts == [Count("", "Read", "read", 2)]

    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | ReadCsv(tmp_path / "*.csv", schema=SCHEMA)
        assert_that(result.rows, check, label="rows")
        assert_that(result.rejected[0], check_rejected, label="rejected")
        assert_that(result.counts[0], check_counts, label="counts")


def test_many_files_globs_and_repeated_patterns(tmp_path: pathlib.Path) -> None:
    schema = make_schema([make_feature("n", pa.int64(), required=True)])
    for i in range(3):
        write(tmp_path, f"n\n{i}\n", f"part-{i}.csv")
    (tmp_path / "schema.pbtxt").write_text(format_schema(schema))

    def check(batches: list[pa.RecordBatch]) -> None:
        assert sorted(n for b in batches for n in b["n"].to_pylist()) == [0, 1, 2]

    with beam.Pipeline("FnApiRunner") as pipeline:
        patterns = [tmp_path / "part-*.csv", str(tmp_path / "part-0.csv")]
        result = pipeline | ReadCsv(patterns, schema=tmp_path / "schema.pbtxt")
        assert_that(result.rows, check)


@pytest.mark.parametrize(
    ("name", "pack"), [("in.csv.gz", gzip.compress), ("in.csv.bz2", bz2.compress)]
)
def test_compressed(tmp_path: pathlib.Path, name: str, pack) -> None:
    path = write(tmp_path, pack((HEADER + GOOD * 50).encode()), name)
    outcomes = read(ReadCsv(path, schema=SCHEMA, block_bytes=100, range_bytes=10))
    assert len(rows(outcomes)) == 50
    assert outcomes[0].kept[OFFSET][0].as_py() == len(HEADER)
    assert outcomes[-1].kept[OFFSET][-1].as_py() == len(HEADER) + 49 * len(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffn,x,s,t\n1,2,a,\n3,4,b,\n",
        "n,x,s,t\r\n1,2,a,\r\n3,4,b,",
        "\n\nn,x,s,t\n\n1,2,a,\n\n3,4,b,\n\n",
        "n,x,s,t\r1,2,a,\r3,4,b,\r",
        't,s,"x",n,z\n,a,2,1,9\n,b,4,3,9',
        '"n","x","s","t"\n"1","2","a",""\n"3","4","b",""\n',
    ],
)
def test_forms_of_the_same_table(tmp_path: pathlib.Path, text: str) -> None:
    found = rows(read(ReadCsv(write(tmp_path, text), schema=SCHEMA)))
    assert [(r["n"], r["x"], r["s"], r["t"]) for r in found] == [
        (1, 2.0, "a", None),
        (3, 4.0, "b", None),
    ]


def test_given_names_delimiter_and_no_quoting(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, '\ufeff1\t5\t"a\t\n2\t6\tb"\t\n')
    source = ReadCsv(
        path,
        schema=SCHEMA,
        column_names=list("nxst"),
        delimiter="\t",
        quote_char="",
        block_bytes=1,
        range_bytes=1,
    )
    assert [r["s"] for r in rows(read(source))] == ['"a', 'b"']
    assert read(source)[0].kept[OFFSET].to_pylist() == [3]


def test_columns_are_read_in_the_order_of_the_schema(tmp_path: pathlib.Path) -> None:
    source = ReadCsv(write(tmp_path, HEADER + GOOD), schema=SCHEMA, columns=["s", "n"])
    assert rows(read(source)) == [{"n": 1, "s": "a"}]


def test_a_stray_quote_is_a_character(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, HEADER + '1,1,5" pipe,\n2,2,"6"" pipe",\n3,3,c,\n')
    found = rows(read(ReadCsv(path, schema=SCHEMA, block_bytes=8, range_bytes=8)))
    assert [r["s"] for r in found] == ['5" pipe', '6" pipe', "c"]


@pytest.mark.parametrize("newlines", [None, False])
@pytest.mark.parametrize("size", [16, 1 << 20])
def test_a_quote_never_closed_costs_one_row(
    tmp_path: pathlib.Path, size: int, newlines: bool | None
) -> None:
    lines = ["1,1,a,\n", '2,2,"b,\n', "3,3,c,\n", "4,4,d,\n"]
    source = ReadCsv(
        write(tmp_path, HEADER + "".join(lines)),
        schema=SCHEMA,
        block_bytes=size,
        newlines_in_values=newlines,
    )
    outcomes = read(source)
    assert [r["n"] for r in rows(outcomes)] == [1, 3, 4]
    (row,) = rejected(outcomes)
    assert (row.reason, row.payload) == ("expected a closing quote", b'2,2,"b,')
    assert row.offset == len(HEADER + lines[0])
    assert sum(o.counts["read"] for o in outcomes) == 4


def test_a_byte_order_mark_within_the_file_is_text(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, b"s\n\xef\xbb\xbf\n\xef\xbb\xbfa\n")
    source = ReadCsv(path, schema=SCHEMA, columns=["s"])
    assert [row["s"] for row in rows(read(source))] == ["\ufeff", "\ufeffa"]
    (piece,) = source.file_format().pieces(path, 0)
    assert [batch["s"].to_pylist() for batch in source.file_format().untyped(piece)][1:] == [
        ["\ufeff", "\ufeffa"]
    ]


def test_a_deeply_nested_payload_is_a_line(tmp_path: pathlib.Path) -> None:
    source = ReadCsv(write(tmp_path, HEADER), schema=SCHEMA)
    payload = b'{"n": ' + b"[" * 100_000
    (again,) = source.read_rejected(
        [Rejected("Parse", source.patterns[0], 9, "", "", "?", payload)], SCHEMA
    ).rejected
    assert (again.reason, again.payload) == ("expected 4 columns, found 1", payload)


TIME = "expected an ISO 8601 timestamp in whole seconds, from year 1 to 9999"
BAD_CELLS = [
    ("NaN,NaN,NaN,", None),
    ("1,inf,a,", None),
    ("1,1e400,a,", ("x", "1e400", "expected a number (float)")),
    ("9223372036854775808,1,a,", ("n", "9223372036854775808", "expected a whole number (int64)")),
    ("0x10,1,a,", ("n", "0x10", "expected a whole number (int64)")),
    ("one,two,a,", ("n", "one", "expected a whole number (int64)")),
    ("1,2,\xff,", ("s", "\\xff", "expected UTF-8 text")),
    ("1,2,a,noon", ("t", "noon", TIME)),
    ("1,2,a,0000-12-31T23:59:59Z", ("t", "0000-12-31T23:59:59Z", TIME)),
    ("1,2,a,9999-12-31T23:59:59-01:00", ("t", "9999-12-31T23:59:59-01:00", TIME)),
    ("1,2,a,0001-01-01", None),
    ("1,2,N0x1,", None),
    ("1,2,a", ("", "", "expected 4 columns, found 3")),
    ("1,2,a,,", ("", "", "expected 4 columns, found 5")),
    ("1,\xff", ("", "", "expected 4 columns, found 2")),
]


BITS = [b",", b'"', b"\n", b"\r", b"1", b"0x1", b"1e400", b"\xff", b"\x00", b"\xef\xbb\xbf"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(BITS) | st.binary(max_size=2), max_size=20).map(b"".join))
def test_any_bytes_are_rows_or_rejected(tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = ReadCsv(write(pathlib.Path(folder), HEADER.encode() + tail), schema=SCHEMA)
        (piece,) = source.file_format().pieces(source.patterns[0], 0)
        assert list(source.file_format().untyped(piece))
        for outcome in read(source):
            assert outcome.kept.num_rows + len(outcome.rejected) == outcome.counts["read"]
            again = source.read_rejected(outcome.rejected, SCHEMA)
            assert again.kept.num_rows + len(again.rejected) == len(outcome.rejected)


@pytest.mark.parametrize(("line", "fault"), BAD_CELLS)
def test_bad_input_in_one_row(tmp_path: pathlib.Path, line: str, fault) -> None:
    before = GOOD * 3
    text = (HEADER + before + line + "\n" + GOOD).encode("latin-1")
    outcomes = read(ReadCsv(write(tmp_path, text), schema=SCHEMA))
    assert [(r.column, r.value, r.reason) for r in rejected(outcomes)] == ([fault] if fault else [])
    assert len(rows(outcomes)) == (4 if fault else 5)
    assert sum(o.counts["read"] for o in outcomes) == 5
    if fault:
        assert rejected(outcomes)[0].offset == len(HEADER + before)
        assert outcomes[-1].kept[OFFSET][-1].as_py() == len(HEADER + before + line) + 1
    elif line.startswith("NaN"):
        assert rows(outcomes)[3] == {"n": None, "x": None, "s": "NaN", "t": None}
    elif "inf" in line:
        assert math.isinf(rows(outcomes)[3]["x"])


def test_wrong_column_count_far_down(tmp_path: pathlib.Path) -> None:
    schema = make_schema([make_feature("n", pa.int64(), required=True)])
    lines = [f"{i},x" for i in range(1, 75_001)]
    lines[70_000] = "70001"
    path = write(tmp_path, "n,s\n" + "\n".join(lines))
    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | ReadCsv(path, schema=schema)

        def check(batches: list[pa.RecordBatch]) -> None:
            assert sorted(b.num_rows for b in batches) == [37_499, 37_500]

        def check_rejected(found: list[Rejected]) -> None:
            assert [r.payload for r in found] == [b"70001"]
            assert found[0].offset == len("n,s\n") + sum(len(s) + 1 for s in lines[:70_000])

        assert_that(result.rows, check, label="rows")
        assert_that(result.rejected[0], check_rejected, label="rejected")


def table(fields: list[list[str]], newline: str, quoting: int) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=newline, quoting=quoting)
    writer.writerows([["a", "b"], *fields])
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    fields=st.lists(
        st.lists(st.text(alphabet='x",\r\n é0', max_size=6), min_size=2, max_size=2), max_size=6
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block_bytes=st.integers(1, 60),
    range_bytes=st.integers(1, 60),
    last_newline=st.booleans(),
)
def test_what_python_writes_is_read_back(
    fields, newline, quoting, block_bytes, range_bytes, last_newline
) -> None:
    schema = make_schema([make_feature(c, pa.string(), required=False) for c in "ab"])
    if (newline, quoting) == ("\n", csv.QUOTE_MINIMAL):
        # Here Python leaves a carriage return unquoted, which then ends the row.
        fields = [[field.replace("\r", "") for field in row] for row in fields]
    text = table(fields, newline, quoting)
    text = text if last_newline else text[: -len(newline)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(pathlib.Path(folder), text)
        outcomes = read(
            ReadCsv(path, schema=schema, block_bytes=block_bytes, range_bytes=range_bytes)
        )
    assert rejected(outcomes) == []
    assert [[r["a"] or "", r["b"] or ""] for r in rows(outcomes)] == fields
    places = [at for o in outcomes for at in o.kept[OFFSET].to_pylist()]
    expected = [len(table(fields[:i], newline, quoting).encode()) for i in range(len(fields))]
    assert places == expected


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(alphabet='1,"x.\udcff', max_size=7), max_size=10),
    block_bytes=st.integers(1, 40),
    range_bytes=st.integers(1, 40),
)
def test_any_cut_of_any_text_gives_the_same_rows(lines, block_bytes, range_bytes) -> None:
    schema = make_schema(
        [
            make_feature("a", pa.int64(), required=False),
            make_feature("b", pa.string(), required=False),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write(pathlib.Path(folder), "\n".join(["a,b", *lines]))
        whole = read(ReadCsv(path, schema=schema))
        cut = read(ReadCsv(path, schema=schema, block_bytes=block_bytes, range_bytes=range_bytes))
    assert rows(cut) == rows(whole)
    assert sorted(rejected(cut)) == sorted(rejected(whole))
    assert sum(o.counts["read"] for o in cut) == len(rows(whole)) + len(rejected(whole))


def test_repaired_rows_are_parsed_by_the_same_rules(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, HEADER + "one,1,a,\n\n2,2\n3,1e400,c,\n4,4,\xff,\n".replace("\xff", "d"))
    source = ReadCsv(path, schema=SCHEMA)
    old = rejected(read(source))
    assert sorted(r.payload for r in old)[0] == b"2,2"
    again = source.read_rejected(old, SCHEMA)
    assert again.kept.num_rows == 0
    assert sorted((r.file, r.offset, r.payload) for r in again.rejected) == sorted(
        (r.file, r.offset, r.payload) for r in old
    )
    repaired = [
        row._replace(payload=payload)
        for row, payload in zip(
            sorted(old, key=lambda r: r.offset),
            [b'{"n": "1", "x": 1, "s": "a"}', b'2,2,"b, c",NA', b'{"n": 3, "x": null, "s": "c"}'],
            strict=True,
        )
    ]
    outcome = source.read_rejected(repaired, SCHEMA)
    assert outcome.rejected == []
    found = outcome.kept.to_pylist()
    assert [(r["n"], r["x"], r["s"]) for r in found] == [
        (1, 1.0, "a"),
        (2, 2.0, "b, c"),
        (3, None, "c"),
    ]
    assert [r[OFFSET] for r in found] == sorted(r.offset for r in old)
    assert {r[FILE] for r in found} == {path}
    assert outcome.kept.schema == read(source)[-1].kept.schema


def test_a_cell_that_is_not_utf8_survives_its_payload(tmp_path: pathlib.Path) -> None:
    source = ReadCsv(write(tmp_path, HEADER.encode() + b"1,1,\xff\xe9,\n"), schema=SCHEMA)
    old = rejected(read(source))
    again = source.read_rejected(old, SCHEMA)
    assert again.rejected == old


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataError, "file is empty"),
        ("\n\n", DataError, "file is empty"),
        ("n,x,s,t,n\n", DataError, 'the header names column "n" twice'),
        ("n,x,s,tt\n", RecipeError, 'in.csv: there is no column "t"; did you mean "tt"?'),
        (b"n,x,s,\xff\n", DataError, "the header cannot be read"),
    ],
)
def test_an_unusable_file_is_an_error_at_once(tmp_path, text, error, message) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    with pytest.raises(error) as raised:
        _ = pipeline | ReadCsv(write(tmp_path, text), schema=SCHEMA)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r'nope.csv": no such file'):
        _ = beam.Pipeline("FnApiRunner") | ReadCsv(tmp_path / "nope.csv", schema=SCHEMA)


def test_header_only_gives_no_rows(tmp_path: pathlib.Path) -> None:
    for text in (HEADER, HEADER.strip()):
        assert read(ReadCsv(write(tmp_path, text), schema=SCHEMA)) == []


def test_a_later_file_without_a_column_fails_the_run(tmp_path: pathlib.Path) -> None:
    write(tmp_path, HEADER + GOOD, "a.csv")
    write(tmp_path, "n,x,s\n", "b.csv")
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | ReadCsv(tmp_path / "*.csv", schema=SCHEMA)
    with pytest.raises(Exception, match=r'b.csv: there is no column "t"'):
        pipeline.run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "has no schema; give schema="),
        ({"schema": SCHEMA, "columns": ["m"]}, 'columns=: there is no column "m"'),
        ({"schema": SCHEMA, "columns": "n"}, 'write columns=\\["n"\\]'),
        ({"schema": SCHEMA, "event_time": "tt"}, 'did you mean "t"'),
        ({"schema": SCHEMA, "event_time": "n"}, "has type int64; expected a timestamp"),
        ({"schema": SCHEMA, "delimiter": ";;"}, "expected one ASCII character"),
        ({"schema": SCHEMA, "block_bytes": 0}, "expected at least 1"),
        ({"schema": SCHEMA, "column_names": ["a", "a"]}, '"a" twice'),
        (
            {"schema": make_schema([make_feature("l", pa.list_(pa.int64()), required=False)])},
            'column "l" is a list',
        ),
    ],
)
def test_wrong_arguments(arguments, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ReadCsv("in.csv", **arguments).raw_schema()


def test_names_and_pickles() -> None:
    assert ReadCsv(["data/flights.csv.gz", "x"]).input_name == "flights"
    assert ReadCsv("x", name="other").input_name == "other"
    file_format = ReadCsv("x").file_format()
    assert pickle.loads(pickle.dumps(file_format)) == file_format
    assert isinstance(SCHEMA, Schema)


def test_the_size_in_memory_is_estimated_from_that_of_the_files(tmp_path: pathlib.Path) -> None:
    text = b"n,when,carrier\n" + b"".join(b"%d,2013-01-01T05:00:00Z,UA\n" % n for n in range(5_000))
    schema = make_schema(
        [
            make_feature("n", pa.int64(), required=True),
            make_feature("when", pa.timestamp("us", "UTC"), required=True),
            make_feature("carrier", pa.string(), required=True),
        ]
    )
    (tmp_path / "rows.csv").write_bytes(text)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(text))

    def source(pattern: str) -> ReadCsv:
        return ReadCsv(str(tmp_path / pattern), schema=schema)

    def estimated(pattern: str) -> int:
        return source(pattern).estimate_size()

    plain, packed = estimated("rows.csv"), estimated("packed.csv.gz")
    assert estimated("*.csv*") == plain + packed
    held = sum(outcome.kept.nbytes for outcome in read(source("rows.csv")))
    assert held / 2 < plain < held * 4
    assert held / 2 < packed < held * 4
    with pytest.raises(DataError, match="no such file"):
        estimated("none.csv")
