from __future__ import annotations

import decimal

import pyarrow as pa
import pytest

from skewless.errors import RunError
from skewless.transforms.rows import FILE, OFFSET, with_origin
from skewless.transforms.sinks.bigquery_rows import (
    Column,
    difference,
    serialized_slices,
    storable,
    table_columns,
)


def stored(array: pa.Array) -> pa.Array:
    return storable(pa.record_batch({"c": array}))["c"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (pa.array([1, None], pa.int8()), pa.array([1, None], pa.int64())),
        (pa.array([0.5, None], pa.float32()), pa.array([0.5, None], pa.float64())),
        (pa.array([0.5], pa.float16()), pa.array([0.5], pa.float64())),
        (pa.array(["a", None]).dictionary_encode(), pa.array(["a", None])),
        (pa.array(["a"], pa.large_string()), pa.array(["a"])),
        (pa.array([5], pa.timestamp("s", "UTC")), pa.array([5_000_000], pa.timestamp("us", "UTC"))),
        (pa.array([5], pa.timestamp("ms")), pa.array([5_000], pa.timestamp("us"))),
        (pa.array([[1], None, []], pa.list_(pa.int32())), pa.array([[1], [], []])),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), pa.array([[1.0, 2.0]])),
        (pa.array([], pa.list_(pa.string())), pa.array([], pa.list_(pa.string()))),
        (
            pa.array([decimal.Decimal("1.5")]),
            pa.array([decimal.Decimal("1.5")], pa.decimal128(38, 9)),
        ),
    ],
)
def test_types_that_bigquery_takes(given: pa.Array, kept: pa.Array) -> None:
    assert stored(given).equals(kept)
    assert table_columns(storable(pa.record_batch({"c": given})).schema)[0].name == "c"


def test_slices_of_lists() -> None:
    lists = pa.array([["a"], ["b", "c"], None, ["d"]])
    assert stored(lists[1:]).to_pylist() == [["b", "c"], [], ["d"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pa.array([{"a": 1}]), 'column "c" has type struct<a: int64>'),
        (pa.nulls(1), 'column "c" has type null'),
        (pa.array([2**64 - 1], pa.uint64()), "BigQuery cannot store"),
        (pa.array([1], pa.timestamp("ns")), "BigQuery cannot store"),
        (pa.array([[1, None]]), "a missing item"),
        (pa.array([[[1]]]), "a list of lists"),
    ],
)
def test_types_that_it_does_not_take(given: pa.Array, said: str) -> None:
    with pytest.raises(RunError, match=said):
        stored(given)


def test_origin_columns_are_written_when_asked_for() -> None:
    batch = with_origin(pa.record_batch({"n": [1]}), "in.csv", pa.array([7]))
    assert storable(batch).schema.names == ["n"]
    assert storable(batch, origin=True).to_pylist() == [{"n": 1, FILE: "in.csv", OFFSET: 7}]


def test_differences_are_named() -> None:
    new = [Column("a", "INTEGER", "NULLABLE"), Column("b", "STRING", "REPEATED")]
    same = [Column("b", "STRING", "REPEATED"), Column("a", "INT64", "REQUIRED")]
    assert difference(new, same) == ""
    other = [Column("a", "FLOAT64", "NULLABLE"), Column("d", "DATE", "NULLABLE")]
    assert difference(new, other) == (
        'column "a" is FLOAT in the table and INTEGER in the rows; column "b" is not in the '
        'table; column "d" is not in the rows'
    )


def test_requests_are_bounded() -> None:
    texts = ["x" * (6 << 20), "y" * (6 << 20), *["z"] * 10]
    batch = pa.record_batch({"n": list(range(12)), "text": texts})
    sent = list(serialized_slices(batch))
    assert max(len(serialized) for _, serialized in sent) < 10_000_000
    parts = [pa.ipc.read_record_batch(pa.py_buffer(part), batch.schema) for _, part in sent]
    assert [part.num_rows for part in parts] == [rows for rows, _ in sent]
    assert pa.concat_batches(parts).equals(batch)
    with pytest.raises(RunError, match="drop its largest column"):
        list(serialized_slices(pa.record_batch({"text": ["x" * (10 << 20)]})))
