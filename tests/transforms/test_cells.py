from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import DataError
from skewless.schema import MISSING_INT, Feature, make_feature
from skewless.timestamps import parse_timestamps
from skewless.transforms.cells import cast_column, parse_text

NULLS = ("", "NA", "NaN")
INT = make_feature("n", pa.int64(), required=False)
FLAG = make_feature("n", pa.bool_(), required=False)
FLOAT = make_feature("n", pa.float32(), required=False)
TEXT = make_feature("n", pa.string(), required=False)
SECONDS = make_feature("n", pa.timestamp("s", tz="UTC"), required=False)
MICROS = make_feature("n", pa.timestamp("us", tz="UTC"), required=False)


def parsed(texts: list[str], feature: Feature) -> list[object]:
    """Values, with "bad" where a cell is bad."""
    cells = parse_text(pa.array([t.encode() for t in texts]), feature, NULLS)
    values = cells.values.to_pylist()
    return ["bad" if bad else value for bad, value in zip(cells.bad, values, strict=True)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        (" -7 ", -7),
        ("007", 7),
        ("NA", None),
        ("", None),
        (str(MISSING_INT), None),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "bad"),
        ("0x10", "bad"),
        ("1.0", "bad"),
        ("true", "bad"),
        ("seven", "bad"),
    ],
)
def test_int(text: str, value: object) -> None:
    assert parsed([text, "1"], INT) == [value, 1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5),
        (" 2 ", 2.0),
        ("1e3", 1000.0),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("nan", None),
        ("NaN", None),
        ("1e400", "bad"),
        ("-1e39", "bad"),
        ("1,5", "bad"),
        ("0x10", "bad"),
        ("1e-400", 0.0),
    ],
)
def test_float(text: str, value: object) -> None:
    assert parsed([text, "1"], FLOAT) == [value, 1.0]


def test_flag_reads_true_and_false() -> None:
    assert parsed(["true", "False", "1", "0", "NA", "yes"], FLAG) == [1, 0, 1, 0, None, "bad"]


def test_text_keeps_null_words_and_rejects_what_is_not_utf8() -> None:
    cells = parse_text(pa.array([b"NA", b"", b"\xff", None, b"x"]), TEXT, NULLS)
    assert cells.values.to_pylist() == ["NA", None, None, None, "x"]
    assert cells.bad.tolist() == [False, False, True, False, False]
    nulled = parse_text(pa.array([b"NA"]), TEXT, NULLS, strings_can_be_null=True)
    assert nulled.values.to_pylist() == [None]


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2013-01-01T10:00:00Z", "2013-01-01T10:00:00"),
        ("2013-01-01 10:00:00", "2013-01-01T10:00:00"),
        ("2013-01-01T10:00", "2013-01-01T10:00:00"),
        ("2013-01-01T10:00:00+02:00", "2013-01-01T08:00:00"),
        ("2013-01-01T10:00:00-0130", "2013-01-01T11:30:00"),
        ("2013-01-01", "2013-01-01T00:00:00"),
        ("2013-01-01T10:00:00.25Z", "2013-01-01T10:00:00.250000"),
        ("2013-01-01T10:00:00.123456789Z", "2013-01-01T10:00:00.123456"),
        ("1900-01-01", "1900-01-01T00:00:00"),
        (" 2013-01-01 ", "2013-01-01T00:00:00"),
        ("10:30", None),
        ("2013-13-01", None),
        ("yesterday", None),
    ],
)
def test_timestamps_alone_and_among_others(text: str, iso: str | None) -> None:
    for texts in ([text], [text, "2000-01-01T00:00:00Z", "2000-01-01", "?", None]):
        value = parse_timestamps(pa.array(texts), "us")[0].as_py()
        assert (value and value.replace(tzinfo=None).isoformat()) == iso


def test_seconds_cannot_hold_a_fraction() -> None:
    texts = ["2013-01-01T10:00:00.5Z", "2013-01-01T10:00:00.000Z"]
    values = parsed(texts, SECONDS)
    assert values[0] == "bad"
    assert values[1].isoformat() == "2013-01-01T10:00:00+00:00"
    assert "bad" not in parsed(texts, MICROS)


FIRST, LAST = -62_135_596_800, 253_402_300_799


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("0001-01-01", True),
        ("0000-12-31T23:59:59Z", False),
        ("0001-01-01T00:00:00+01:00", False),
        ("9999-12-31T23:59:59Z", True),
        ("9999-12-31T23:59:59-01:00", False),
        ("10000-01-01", False),
    ],
)
def test_times_as_text_are_from_year_1_to_9999(text: str, fits: bool) -> None:
    for feature in (SECONDS, MICROS):
        for cells in (
            parse_text(pa.array([text.encode(), b"2000-01-01"]), feature, NULLS),
            cast_column(pa.array([text, "2000-01-01"]), feature),
        ):
            assert cells.bad.tolist() == [not fits, False]
            assert (cells.values[0].as_py() is not None) == fits


@pytest.mark.parametrize("feature", [SECONDS, MICROS])
@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_times_of_any_unit_are_from_year_1_to_9999(feature: Feature, unit: str) -> None:
    scale = {"s": 1, "ms": 10**3, "us": 10**6}[unit]
    end = (LAST + 1) * scale
    counts = [FIRST * scale, LAST * scale, FIRST * scale - 1, end, 2**63 - 1, 1 - 2**63, None]
    column = pa.array(counts, pa.int64()).cast(pa.timestamp(unit))
    cells = cast_column(column, feature)
    assert cells.bad.tolist() == [False, False, True, True, True, True, False]
    seconds = [v and v.timestamp() for v in cells.values.to_pylist()]
    assert seconds == [FIRST, LAST, None, None, None, None, None]


def test_times_as_numbers_and_dates_are_from_year_1_to_9999() -> None:
    counts = pa.array([FIRST, LAST, FIRST - 1, LAST + 1, MISSING_INT, None])
    cells = cast_column(counts, SECONDS)
    assert cells.bad.tolist() == [False, False, True, True, False, False]
    assert [v and v.timestamp() for v in cells.values.to_pylist()] == [FIRST, LAST, *[None] * 4]
    assert cast_column(pa.array([2**63], pa.uint64()), MICROS).bad.tolist() == [True]
    days = pa.array([FIRST // 86_400, FIRST // 86_400 - 1, 2**31 - 1, None], pa.int32())
    cells = cast_column(days.cast(pa.date32()), MICROS)
    assert cells.bad.tolist() == [False, True, True, False]


def test_cast_of_half_floats() -> None:
    halves = pa.array([np.float16(1.0), np.float16(1.5), np.float16("nan"), None])
    cells = cast_column(halves, INT)
    assert cells.values.to_pylist() == [1, None, None, None]
    assert cells.bad.tolist() == [False, True, False, False]
    assert cast_column(halves, FLOAT).values.to_pylist() == [1.0, 1.5, None, None]


def test_cast_rejects_text_that_is_not_utf8() -> None:
    buffers = pa.array([b"a", b"\xff"]).buffers()
    cells = cast_column(pa.Array.from_buffers(pa.string(), 2, buffers), TEXT)
    assert (cells.values.to_pylist(), cells.bad.tolist()) == (["a", None], [False, True])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=64), max_size=20))
def test_float_is_what_a_json_client_makes_of_it(values: list[float]) -> None:
    got = parsed([repr(v) for v in values], FLOAT)
    with np.errstate(over="ignore"):
        for value, cell in zip(values, got, strict=True):
            single = float(np.float32(value))
            if math.isnan(value):
                assert cell is None
            elif math.isinf(single) and not math.isinf(value):
                assert cell == "bad"
            else:
                assert cell == single


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="0123456789-+.eExX inaf", max_size=6), max_size=12))
def test_a_cell_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    for feature in (INT, FLOAT, MICROS):
        assert parsed(texts, feature) == [parsed([text], feature)[0] for text in texts]


def test_cast_narrows_and_marks_overflow() -> None:
    cells = cast_column(pa.array([1.5, 1e39, math.inf, math.nan, None], pa.float64()), FLOAT)
    assert cells.values.to_pylist() == [1.5, math.inf, math.inf, None, None]
    assert cells.bad.tolist() == [False, True, False, False, False]
    cells = cast_column(pa.array([1, 2**63], pa.uint64()), INT)
    assert (cells.values.to_pylist(), cells.bad.tolist()) == ([1, None], [False, True])
    cells = cast_column(pa.array([1.0, 1.5, 2.0**63, math.nan], pa.float64()), INT)
    assert cells.values.to_pylist() == [1, None, None, None]
    assert cells.bad.tolist() == [False, True, True, False]


def test_cast_of_text_and_times() -> None:
    words = pa.array(["a", "", None]).dictionary_encode()
    assert cast_column(words, TEXT).values.to_pylist() == ["a", None, None]
    cells = cast_column(pa.array([b"a", b"\xff"], pa.large_binary()), TEXT)
    assert (cells.values.to_pylist(), cells.bad.tolist()) == (["a", None], [False, True])
    for type_ in (pa.timestamp("ns"), pa.timestamp("ms", tz="Europe/Paris"), pa.timestamp("s")):
        cells = cast_column(pa.array([0, None], pa.int64()).cast(type_), SECONDS)
        assert [v and v.timestamp() for v in cells.values.to_pylist()] == [0.0, None]
    day = pa.array([1], pa.int32()).cast(pa.date32())
    assert cast_column(day, SECONDS).values.cast(pa.int64()).to_pylist() == [86_400]


def test_cast_of_lists_drops_missing_items_and_marks_bad_rows() -> None:
    feature = make_feature("l", pa.list_(pa.float32()), required=False)
    column = pa.array([[1.0, math.nan], None, [], [1e39], [None, 2.0]], pa.large_list(pa.float64()))
    cells = cast_column(column, feature)
    assert cells.bad.tolist() == [False, False, False, True, False]
    assert cells.values.to_pylist()[:3] == [[1.0], None, []]
    assert cells.values.to_pylist()[4] == [2.0]
    words = make_feature("l", pa.list_(pa.string()), required=False)
    column = pa.array([["", "a"], None, ["b"]])[1:]
    assert cast_column(column, words).values.to_pylist() == [None, ["b"]]


def test_a_type_that_can_never_be_is_an_error_that_names_the_column() -> None:
    with pytest.raises(DataError, match=r'x.parquet: column "n" has type string.*int64'):
        cast_column(pa.array(["1"]), INT, "x.parquet")
