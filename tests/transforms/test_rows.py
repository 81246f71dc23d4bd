from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.transforms.rows import as_text, python_rows, reject_rows, with_origin

int64s = st.integers(-(2**63), 2**63 - 1)


def times(counts: list[int | None], unit: str = "s") -> pa.Array:
    return pa.array(counts, pa.int64()).cast(pa.timestamp(unit, tz="UTC"))


def text(*cells: bytes) -> pa.Array:
    """Return cells as Arrow strings, whether they are UTF-8 or not."""
    return pa.Array.from_buffers(pa.string(), len(cells), pa.array(cells, pa.binary()).buffers())


def test_a_row_names_its_place_and_its_fault() -> None:
    batch = pa.record_batch({"n": [1, 2], "t": times([0, None])})
    batch = with_origin(batch, "in.csv", pa.array([5, 9]))
    first, second = reject_rows(batch, "Validate", "t", "expected a value")
    assert first[:6] == ("Validate", "in.csv", 5, "t", "1970-01-01T00:00:00Z", "expected a value")
    assert json.loads(first.payload) == {"n": 1, "t": "1970-01-01T00:00:00Z"}
    assert (second.offset, second.value) == (9, "")


def test_rows_without_origin_have_no_place() -> None:
    (row,) = reject_rows(pa.record_batch({"l": [[1.5, None]]}), "Filter", "l", "?")
    assert (row.file, row.offset, row.value, row.payload) == ("", -1, "[1.5, null]", row.payload)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (times([-62_135_596_801]), "0000-12-31 23:59:59Z"),
        (times([253_402_300_800]), "10000-01-01 00:00:00Z"),
        (times([2**62]), f"<value out of range: {2**62}>"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), f"<value out of range: {2**31 - 1}>"),
        (text(b"a\xff"), "a\\xff"),
        (pa.ListArray.from_arrays([0, 2], text(b"\xff", b"b")), '["\\\\xff", "b"]'),
        (times([2**62]).dictionary_encode(), None),
    ],
)
def test_a_value_that_python_cannot_hold_is_still_reported(
    column: pa.Array, value: str | None
) -> None:
    (row,) = reject_rows(pa.record_batch({"x": column, "n": [7]}), "Validate", "x", "?")
    assert json.loads(row.payload)["n"] == 7
    assert value in (None, row.value)


raw_columns = {
    pa.int64(): int64s,
    pa.float32(): st.floats(width=32),
    pa.string(): st.binary(max_size=4),
    pa.timestamp("s", tz="UTC"): int64s,
    pa.timestamp("us", tz="UTC"): int64s,
}


def column(type_: pa.DataType, values: list[object]) -> pa.Array:
    if not pa.types.is_string(type_):
        given = pa.int64() if pa.types.is_timestamp(type_) else type_
        return pa.array(values, given).cast(type_)
    cells = pa.array(values, pa.binary())
    return pa.Array.from_buffers(type_, len(cells), cells.buffers())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_row_can_be_rejected(data: st.DataObject) -> None:
    type_ = data.draw(st.sampled_from(list(raw_columns)))
    values = data.draw(st.lists(st.none() | raw_columns[type_], min_size=1, max_size=4))
    cells = column(type_, values)
    lists = pa.ListArray.from_arrays([0, None, len(cells)], cells)
    for batch in (pa.record_batch({"x": cells}), pa.record_batch({"x": lists})):
        rejected = reject_rows(batch, "Validate", "x", "?")
        assert len(rejected) == batch.num_rows == len(python_rows(batch))
        for row, value in zip(rejected, batch["x"], strict=True):
            assert list(json.loads(row.payload)) == ["x"]
            assert bool(row.value.encode()) >= (value.is_valid and not pa.types.is_string(type_))


def test_text_for_a_person() -> None:
    assert [as_text(v) for v in ("a", b"\xff", True, 1.5, [b"a", None])] == [
        "a",
        "\\xff",
        "true",
        "1.5",
        '["a", null]',
    ]
