from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.schema import make_feature, make_schema
from skewless.transforms.parse import parse_json_rows
from skewless.transforms.rows import FILE, OFFSET, ORIGIN

SCHEMA = make_schema(
    [
        make_feature("i", pa.int64(), required=False),
        make_feature("f", pa.float32(), required=False),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("s", tz="UTC"), required=False),
        make_feature("l", pa.list_(pa.int64()), required=False),
    ]
)
TIME = "expected an ISO 8601 timestamp in whole seconds, from year 1 to 9999"
# A row that Arrow's typed reader refuses, so that its neighbours are parsed one by one.
SPOILER = b'{"i": true, "f": 1, "s": "x", "t": 0}\n'


def rows(outcome) -> list[dict[str, object]]:
    return outcome.kept.drop_columns(list(ORIGIN)).to_pylist()


def values(line: bytes, column: str) -> list[object]:
    """The value of a column, alone and beside a row that is parsed one by one."""
    found = []
    for lines in ([line], [line, SPOILER]):
        outcome = parse_json_rows(lines, SCHEMA)
        bad = [r for r in outcome.rejected if r.offset == 0]
        found.append(bad[0].reason if bad else rows(outcome)[0][column])
    return found


@pytest.mark.parametrize(
    ("line", "column", "value"),
    [
        (b'{"i": 1}', "i", 1),
        (b'{"i": true}', "i", 1),
        (b'{"i": null}', "i", None),
        (b"{}", "i", None),
        (b'{"i": -9223372036854775808}', "i", None),
        (b'{"i": 1, "z": {"deep": [null]}}', "i", 1),
        (b'{"f": 2}', "f", 2.0),
        (b'{"f": 1180591620717411303424}', "f", 1180591620717411303424.0),
        (b'{"f": NaN}', "f", None),
        (b'{"f": Infinity}', "f", math.inf),
        (b'{"s": ""}', "s", None),
        (b'{"s": "Infant NaN }n"}', "s", "Infant NaN }n"),
        (b'{"l": [1, null, 2]}', "l", [1, 2]),
        (b'{"l": []}', "l", []),
        (b'{"t": ""}', "t", None),
        (b'{"t": -9223372036854775808}', "t", None),
        (b'{"z": "%s"}' % (b"[{" * 200), "i", None),
        (b'{"z": %s}' % (b"[" * 99 + b"]" * 99), "i", None),
    ],
)
def test_good_values(line: bytes, column: str, value: object) -> None:
    assert values(line, column) == [value, value]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"i": "1"}', "expected a whole number (int64)"),
        (b'{"i": 1.0}', "expected a whole number (int64)"),
        (b'{"i": 9223372036854775808}', "expected a whole number (int64)"),
        (b'{"f": "1"}', "expected a number (float)"),
        (b'{"f": true}', "expected a number (float)"),
        (b'{"f": 1e400}', "expected a number (float)"),
        (b'{"f": 1e39}', "expected a number (float)"),
        (b'{"s": 12}', "expected UTF-8 text"),
        (b'{"s": 1e400}', "expected UTF-8 text"),
        (b'{"s": "\\ud800"}', "expected UTF-8 text"),
        (b'{"l": 1}', "expected a list, each item a whole number (int64)"),
        (b'{"l": ["x"]}', "expected a list, each item a whole number (int64)"),
        (b'{"t": "noon"}', TIME),
        (b'{"t": 1.5}', TIME),
        (b'{"t": -62135596801}', TIME),
        (b'{"t": 253402300800}', TIME),
        (b'{"t": 9223372036854775807}', TIME),
        (b'{"t": "0000-12-31T23:59:59Z"}', TIME),
        (b'{"t": "9999-12-31T23:59:59-01:00"}', TIME),
    ],
)
def test_bad_values(line: bytes, reason: str) -> None:
    assert values(line, "i") == [reason, reason]


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[1]",
        b"1",
        b'{"i": 1',
        b'{"i": 1}null',
        b'{"i": 1}{"i": 2}',
        b'{"z": "\xff"}',
        b"x",
        b'{"z": %s}' % (b"[" * 100 + b"]" * 100),
        b'{"z": %s}' % (b"[" * 100_000 + b"]" * 100_000),
        b'{"z": %s}' % (b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        b"[" * 100_000,
    ],
)
def test_what_is_no_object_on_one_line_is_rejected_whole(line: bytes) -> None:
    outcome = parse_json_rows([b'{"i": 5}', line], SCHEMA, "in.jsonl", [0, 9])
    assert rows(outcome)[0]["i"] == 5
    (rejected,) = outcome.rejected
    assert (rejected.file, rejected.offset, rejected.payload) == ("in.jsonl", 9, line)
    assert rejected.reason.startswith("expected a JSON object on one line")
    assert outcome.counts == {"read": 2}


def test_what_is_no_text_is_rejected_as_text_that_can_be_written() -> None:
    (rejected,) = parse_json_rows([b'{"i": "\\ud800"}'], SCHEMA).rejected
    assert rejected.value == "\\ud800"


def test_times_as_text_and_as_numbers() -> None:
    for line in (b'{"t": 3600}', b'{"t": "1970-01-01T01:00:00Z"}', b'{"t": "1970-01-01 01:00"}'):
        assert [v.timestamp() for v in values(line, "t")] == [3600.0, 3600.0]


def test_blank_lines_are_no_rows_and_offsets_stay() -> None:
    outcome = parse_json_rows([b'{"i": 1}\r\n', b"\n", b"  ", b'{"i": 2}'], SCHEMA, "f")
    assert outcome.kept.column(OFFSET).to_pylist() == [0, 3]
    assert outcome.kept.column(FILE).to_pylist() == ["f", "f"]
    assert outcome.counts == {"read": 2}
    assert parse_json_rows([], SCHEMA).kept.num_rows == 0


def test_the_first_bad_column_is_named_with_its_value() -> None:
    outcome = parse_json_rows([b'{"i": "x", "f": "y"}'], SCHEMA)
    assert [(r.column, r.value) for r in outcome.rejected] == [("i", "x")]


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=5),
    st.lists(st.integers(-5, 5) | st.text(max_size=2), max_size=3),
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["i", "f", "s", "t", "l", "z"]), json_values, max_size=4),
        max_size=6,
    )
)
def test_rows_do_not_depend_on_their_neighbours(objects: list[dict[str, object]]) -> None:
    lines = [json.dumps(o).encode() for o in objects]
    together = parse_json_rows(lines, SCHEMA)
    alone = [parse_json_rows([line], SCHEMA) for line in lines]
    assert rows(together) == [row for one in alone for row in rows(one)]
    assert len(together.rejected) == sum(len(one.rejected) for one in alone)
    assert together.kept.num_rows + len(together.rejected) == len(lines)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"i": st.integers(-(2**62), 2**62), "s": st.text(min_size=1)}))
)
def test_good_rows_are_what_json_says(objects: list[dict[str, object]]) -> None:
    outcome = parse_json_rows([json.dumps(o).encode() for o in objects], SCHEMA)
    assert [{"i": r["i"], "s": r["s"]} for r in rows(outcome)] == objects
