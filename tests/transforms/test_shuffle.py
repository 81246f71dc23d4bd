import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms import shuffle
from skewless.transforms.rows import with_origin

NOON = datetime.datetime(2013, 1, 1, 12, tzinfo=datetime.UTC)
CELLS = {
    pa.int64(): st.none() | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.none() | st.sampled_from([0.0, -0.0, float("nan"), 1.5]),
    pa.string(): st.none() | st.sampled_from(["", "a", "ab", "é", "a\x00"]),
}


@given(
    sizes=st.lists(st.integers(0, 5), max_size=20), size=st.integers(1, 100), seed=st.integers(0, 9)
)
def test_gathered_rows_are_all_there_in_their_order_and_few_at_a_time(sizes, size, seed):
    numbers = iter(range(seed, 1_000))
    batches = [
        pa.record_batch({"n": pa.array([next(numbers) for _ in range(n)], pa.int64())})
        for n in sizes
    ]
    found = list(shuffle.gather(iter(batches), size))
    assert [n for one in found for n in one["n"].to_pylist()] == list(
        range(seed, seed + sum(sizes))
    )
    assert all(one.nbytes >= size for one in found[:-1])
    # Never more than one batch over.
    assert all(one.nbytes < size + 5 * 8 + 8 for one in found)


def test_partitions_follow_the_size_within_limits():
    gigabyte = 1 << 30
    assert shuffle.partitions_for(None) == shuffle.partitions_for(0) == 16
    assert shuffle.partitions_for(4 * gigabyte) == 16
    assert shuffle.partitions_for(4 * gigabyte + 1) == 17
    assert shuffle.partitions_for(100 * gigabyte, least=64) == 400
    assert shuffle.partitions_for(100_000 * gigabyte) == 4_096


def hash_of(values, type_, salt=""):
    batch = pa.record_batch({"k": pa.array(values, type_)})
    return shuffle.hash_rows(batch, ["k"], salt).tolist()


def test_hash_is_pinned():
    # Keys that were assigned to partitions and splits must stay there for ever.
    assert hash_of(["JFK", None], pa.string()) == [4699432592636095571, 9402866602674070485]
    assert hash_of([5, -1], pa.int64()) == [10653060491662580309, 10595163708417930060]


def test_hash_of_a_value_is_the_same_from_any_file():
    assert hash_of([5], pa.int8()) == hash_of([5], pa.int64())
    assert hash_of([0.5], pa.float32()) == hash_of([0.5], pa.float64())
    assert hash_of(["a"], pa.large_string()) == hash_of(["a"], pa.string())
    dictionary = pa.array(["a", "b", "a"]).dictionary_encode()
    assert shuffle.hash_rows(pa.record_batch({"k": dictionary}), ["k"]).tolist() == hash_of(
        ["a", "b", "a"], pa.string()
    )
    assert hash_of([NOON], pa.timestamp("s", "UTC")) == hash_of([NOON], pa.timestamp("us", "UTC"))


def test_hash_of_equal_values_is_equal():
    assert hash_of([0.0], pa.float32()) == hash_of([-0.0], pa.float32())
    assert hash_of([float("nan")], pa.float32()) == hash_of([None], pa.float32())


def test_hash_depends_on_the_salt_and_the_order_of_columns():
    assert hash_of(["a"], pa.string()) != hash_of(["a"], pa.string(), salt="x")
    batch = pa.record_batch({"a": ["x"], "b": ["y"]})
    assert shuffle.hash_rows(batch, ["a", "b"]) != shuffle.hash_rows(batch, ["b", "a"])


@pytest.mark.parametrize("type_", CELLS, ids=str)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_codes_are_equal_exactly_where_keys_are(type_, data):
    values = data.draw(st.lists(st.tuples(CELLS[type_], st.integers(0, 1)), min_size=1))
    first = shuffle.key_values(pa.array([value for value, _ in values], type_))
    second = pa.array([number for _, number in values])
    keys = list(zip(first.to_pylist(), second.to_pylist(), strict=True))
    codes = shuffle.key_codes([first, second])
    for code, key in zip(codes, keys, strict=True):
        assert [other == key for other in keys] == (codes == code).tolist()


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(st.none() | st.integers(0, 50)), partitions=st.integers(1, 7))
def test_partitions_hold_every_row_once_and_a_key_in_one_place(keys, partitions):
    batch = pa.record_batch(
        {"k": pa.array(keys, pa.int64()), "n": pa.array(range(len(keys)), pa.int64())}
    )
    parts = dict(shuffle.partition_batch(batch, ["k"], partitions))
    assert all(0 <= number < partitions for number in parts)
    assert all(part.num_rows for part in parts.values())
    rows = [row for part in parts.values() for row in part.column("n").to_pylist()]
    assert sorted(rows) == list(range(len(keys)))
    assert all(
        part.column("n").to_pylist() == sorted(part.column("n").to_pylist())
        for part in parts.values()
    )
    homes = [set(part.column("k").to_pylist()) for part in parts.values()]
    assert sum(len(home) for home in homes) == len(set(keys))


def test_partitions_do_not_drag_their_parents_along():
    batch = pa.record_batch({"k": pa.array(range(10_000))})
    for _, part in shuffle.partition_batch(batch, ["k"], 16):
        assert part.get_total_buffer_size() < batch.get_total_buffer_size() / 8


def test_batches_are_taken_whole_and_in_their_own_memory():
    batch = pa.record_batch({"k": pa.array(range(70_000))})
    taken = list(shuffle.take_batches(batch, np.arange(70_000)))
    assert [part.num_rows for part in taken] == [65_536, 4_464]
    assert taken[1].get_total_buffer_size() < 50_000


def test_order_is_by_file_then_offset():
    parts = [
        with_origin(pa.record_batch({"k": [1, 2]}), "b.csv", pa.array([9, 0])),
        with_origin(pa.record_batch({"k": [3]}), "a.csv", pa.array([10])),
    ]
    rows = shuffle.concat(parts)
    assert rows.take(pa.array(shuffle.row_order(rows))).column("k").to_pylist() == [3, 2, 1]


def test_order_without_origin_is_by_content():
    rows = pa.record_batch(
        {"s": ["b", "a", None, "a"], "l": pa.array([[1], [2], None, [1, 5]]), "f": [0.5, 1, 2, 3]}
    )
    ordered = rows.take(pa.array(shuffle.row_order(rows)))
    backwards = rows.take(pa.array([3, 2, 1, 0]))
    assert backwards.take(pa.array(shuffle.row_order(backwards))) == ordered
    assert ordered.column("s").to_pylist() == [None, "a", "a", "b"]


def test_a_list_is_no_key():
    schema = make_schema([make_feature("tags", pa.list_(pa.string()), required=False)])
    with pytest.raises(RecipeError, match='column "tags" holds lists'):
        shuffle.check_keys(["tags"], schema, "Deduplicate")
    with pytest.raises(RecipeError, match="cannot be a key"):
        shuffle.hash_rows(pa.record_batch({"tags": [["a"]]}), ["tags"])


def test_times_must_be_times():
    schema = make_schema([make_feature("day", pa.string(), required=True)])
    with pytest.raises(RecipeError, match='"day" holds string, not times'):
        shuffle.check_times("day", schema, "SplitByTime")
    with pytest.raises(RecipeError, match='did you mean "day"'):
        shuffle.check_times("dai", schema, "SplitByTime")
    times = pa.record_batch({"t": pa.array([NOON, None], pa.timestamp("s", "UTC"))})
    assert shuffle.time_values(times, "t", "x").to_pylist() == [1_357_041_600_000_000, None]
