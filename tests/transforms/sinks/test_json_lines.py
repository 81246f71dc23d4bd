from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import RunError
from skewless.transforms.rows import with_origin
from skewless.transforms.sinks.json_lines import WriteJsonLines, json_lines


def test_values_of_every_kind_are_written() -> None:
    columns = {
        "text": ["æ\u2028\n", None],
        "whole": pa.array([2**62, None]),
        "yes": [True, None],
        "bytes": pa.array([b"a\xff", None]),
        "list": pa.array([[0.1, math.nan, None], None], pa.list_(pa.float32())),
        "struct": [{"a": [1]}, None],
        "day": [datetime.date(2013, 1, 1), None],
        "time": pa.array([0, None], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        "price": [decimal.Decimal("1.50"), None],
        "kind": pa.array(["a", None]).dictionary_encode(),
    }
    first, second = map(json.loads, json_lines(pa.record_batch(columns)).splitlines())
    assert first == {
        "text": "æ\u2028\n",
        "whole": 2**62,
        "yes": True,
        "bytes": "a\\xff",
        "list": [0.1, None, None],
        "struct": {"a": [1]},
        "day": "2013-01-01",
        "time": "1970-01-01T00:00:00Z",
        "price": "1.50",
        "kind": "a",
    }
    assert set(second.values()) == {None}


@given(st.lists(st.floats(width=32), min_size=1))
def test_a_float32_is_written_short_and_read_the_same(values: list[float]) -> None:
    batch = pa.record_batch({"x": pa.array(values, pa.float32())})
    for line, value in zip(json_lines(batch).splitlines(), values, strict=True):
        found = json.loads(line)["x"]
        if math.isfinite(value):
            assert np.float32(found) == np.float32(value)
            assert float(str(np.float32(value))) == found
        else:
            assert found is None


def test_parts_say_where_they_begin(tmp_path: pathlib.Path) -> None:
    rows = with_origin(pa.record_batch({"n": [1, 2]}), "in.csv", pa.array([5, 9]))

    def check(parts: list[object]) -> None:
        assert sorted(part.rows for part in parts) == [2, 4]
        assert {part.first for part in parts} == {("in.csv", 5)}
        texts = [pathlib.Path(part.path).read_text() for part in parts]
        assert sum(len(text.splitlines()) for text in texts) == 6

    with beam.Pipeline("FnApiRunner") as pipeline:
        parts = pipeline | beam.Create([[rows] * 3]) | beam.FlatMap(list)
        assert_that(parts | WriteJsonLines(str(tmp_path), part_bytes=100), check)


def test_what_cannot_be_written_is_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").write_text("a file")
    with (
        pytest.raises(RunError, match="cannot write"),
        beam.Pipeline("FnApiRunner") as pipeline,
    ):
        _ = (
            pipeline
            | beam.Create([pa.record_batch({"n": [1]})])
            | WriteJsonLines(f"{tmp_path}/out")
        )
