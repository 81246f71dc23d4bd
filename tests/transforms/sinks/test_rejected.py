import json
import pathlib

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.rejected import (
    WriteRejected,
    rejected_from_json,
    rejected_to_json,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ROWS = st.builds(Rejected, TEXT, TEXT, st.integers(-1, 2**62), TEXT, TEXT, TEXT, st.binary(), TEXT)


@given(ROWS)
def test_json_round_trip_whatever_the_bytes(row: Rejected) -> None:
    line = rejected_to_json(row)
    assert len(line.splitlines()) == 1 or "\n" not in line
    assert rejected_from_json(line) == row


def test_a_payload_edited_into_an_object_is_taken() -> None:
    row = Rejected("Parse", "f", 3, "a", "x", "why", b"x,1")
    record = json.loads(rejected_to_json(row))
    record["payload"] = {"a": 2}
    assert json.loads(rejected_from_json(json.dumps(record)).payload) == {"a": 2}


def test_every_row_is_on_disk_and_passed_on(tmp_path: pathlib.Path) -> None:
    rows = [Rejected("Parse", "f", i, "a", "x", "why", b"\xff") for i in range(10)]
    with beam.Pipeline("FnApiRunner") as begin:
        passed = begin | beam.Create(rows) | WriteRejected(str(tmp_path))
        assert_that(passed | beam.Map(lambda r: r.offset), equal_to(list(range(10))))
    lines = [x for f in tmp_path.iterdir() for x in f.read_text().splitlines()]
    assert sorted(rejected_from_json(x).offset for x in lines) == list(range(10))
