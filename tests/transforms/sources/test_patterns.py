from __future__ import annotations

import datetime
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import DataError, RecipeError
from skewless.schema import make_schema
from skewless.transforms.sources.csv import ReadCsv
from skewless.transforms.sources.json_lines import ReadJsonLines
from skewless.transforms.sources.patterns import RollingRange, StaticRange, find_files, has_span


def touch(folder: pathlib.Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")


def found(folder: pathlib.Path, pattern: str, spans: object = None) -> list[str]:
    files = find_files(f"{folder}/{pattern}", spans)  # type: ignore[arg-type]
    return sorted(str(pathlib.Path(file.path).relative_to(folder)) for file in files)


def test_days_are_of_the_calendar(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "2013/01/30/a.csv", "2013/02/01/a.csv", "2013/02/31/a.csv", "x/y/z/a.csv")
    pattern = "{YYYY}/{MM}/{DD}/*.csv"
    assert found(tmp_path, pattern) == ["2013/01/30/a.csv", "2013/02/01/a.csv"]
    assert found(tmp_path, pattern, RollingRange(1)) == ["2013/02/01/a.csv"]
    assert found(tmp_path, pattern, StaticRange("2013-01-01", "2013-01-31")) == ["2013/01/30/a.csv"]
    assert found(tmp_path, pattern, StaticRange("2014-01-01", "2014-01-31")) == []


def test_numbers_are_compared_as_numbers(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "span-9/a.csv", "span-10/a.csv", "span-010/b.csv", "span-x/a.csv")
    assert found(tmp_path, "span-{SPAN}/*.csv", RollingRange(1)) == [
        "span-010/b.csv",
        "span-10/a.csv",
    ]
    assert found(tmp_path, "span-{SPAN}/*.csv", StaticRange(1, 9)) == ["span-9/a.csv"]


def test_of_each_span_the_last_version_counts(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "s1-v1.csv", "s1-v10.csv", "s1-v9.csv", "s2-v3.csv")
    assert found(tmp_path, "s{SPAN}-v{VERSION}.csv") == ["s1-v10.csv", "s2-v3.csv"]


def test_a_token_that_stands_twice_is_the_same_twice(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "2013/2013-01-02.csv", "2012/2013-01-02.csv")
    assert found(tmp_path, "{YYYY}/{YYYY}-{MM}-{DD}.csv") == ["2013/2013-01-02.csv"]


@given(st.lists(st.dates()), st.integers(1, 5))
def test_a_rolling_range_is_the_newest(days: list[datetime.date], spans: int) -> None:
    chosen = RollingRange(spans).select(days)
    assert chosen == sorted(set(days))[-spans:]


@given(st.lists(st.integers(0, 50)), st.integers(0, 50), st.integers(0, 50))
def test_a_static_range_has_both_ends(numbers: list[int], one: int, two: int) -> None:
    start, end = min(one, two), max(one, two)
    chosen = StaticRange(start, end).select(numbers)
    assert chosen == sorted({n for n in numbers if start <= n <= end})


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{YYYY}/{MM}/a.csv", "give all three"),
        ("{SPAN}/{YYYY}/{MM}/{DD}", "not both"),
        ("{VERSION}/a.csv", "is of a span"),
    ],
)
def test_half_a_day_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        has_span(pattern)
    with pytest.raises(RecipeError, match=words):
        ReadCsv(pattern)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": 2, "end": 1}, "the earlier first"),
        ({"start": 1, "end": "2013-01-01"}, "two numbers or two days"),
        ({"start": "2013-1-1", "end": "2013-01-02"}, "expected a day"),
    ],
)
def test_a_wrong_range_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        StaticRange(**arguments)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="at least 1"):
        RollingRange(0)


def test_sources_read_the_spans_that_are_asked_for(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "day-2013-01-01.csv", "day-2013-01-02.csv")
    pattern = f"{tmp_path}/day-{{YYYY}}-{{MM}}-{{DD}}.csv"
    source = ReadCsv(pattern, spans=RollingRange(1), schema=make_schema([]))
    assert [file["path"] for file in source.fingerprint()] == [f"{tmp_path}/day-2013-01-02.csv"]
    assert source.input_name == "day"
    with pytest.raises(DataError, match="no such file of StaticRange"):
        ReadCsv(pattern, spans=StaticRange("2014-01-01", "2014-01-02")).fingerprint()


def test_spans_need_a_pattern_and_streams_are_no_batch(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="the pattern says no spans"):
        ReadJsonLines("a.jsonl", spans=RollingRange(1))
    with pytest.raises(RecipeError, match="is for streams"):
        ReadJsonLines("a.jsonl", stop_after_seconds=1)
    with pytest.raises(RecipeError, match="expected more than 0"):
        ReadJsonLines("a.jsonl", watch_seconds=0)
