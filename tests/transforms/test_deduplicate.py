import random

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.deduplicate import Deduplicate, distinct_of, distinct_rows
from skewless.transforms.rows import with_origin

KEY = st.tuples(st.none() | st.integers(0, 3), st.none() | st.sampled_from(["a", "b"]))


def table(keys, origin=True):
    batch = pa.record_batch(
        {
            "k": pa.array([k for k, _ in keys], pa.int64()),
            "s": pa.array([s for _, s in keys], pa.string()),
            "n": pa.array(range(len(keys)), pa.int64()),
        }
    )
    return with_origin(batch, "f.csv", pa.array(range(len(keys)))) if origin else batch


def sharded(batch, seed):
    """Cut a batch into some batches of rows in any order."""
    chance = random.Random(seed)
    rows = list(range(batch.num_rows))
    chance.shuffle(rows)
    parts = []
    while rows:
        size = chance.randint(1, len(rows))
        parts.append(batch.take(pa.array(rows[:size])))
        rows = rows[size:]
    return parts


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(KEY, min_size=1), seed=st.integers(), origin=st.booleans())
def test_the_first_and_last_of_each_key_are_kept(keys, seed, origin):
    # Without origin the rows are ordered by what they hold, here by key and then by n.
    rows = pa.concat_batches(sharded(table(keys, origin), seed))
    first, last = {}, {}
    for n, key in enumerate(keys):
        first.setdefault(key, n)
        last[key] = n
    for keep, expected in (("first", first), ("last", last)):
        kept = rows.take(pa.array(distinct_rows(rows, ["k", "s"], keep))).column("n").to_pylist()
        assert set(kept) == set(expected.values())
        assert len(kept) == len(expected)
        if origin:
            assert kept == sorted(kept)


@settings(max_examples=50, deadline=None)
@given(
    keys=st.lists(KEY, min_size=1),
    seed=st.integers(),
    keep=st.sampled_from(["first", "last"]),
    most=st.integers(1, 500),
)
def test_dropping_repeated_rows_early_changes_nothing(keys, seed, keep, most):
    whole = table(keys)
    expected = whole.take(pa.array(distinct_rows(whole, ["k", "s"], keep)))
    rows, kept, dropped = distinct_of(sharded(whole, seed), ["k", "s"], keep, most)
    assert rows.take(pa.array(kept)) == expected
    assert dropped == len(keys) - expected.num_rows


def test_a_key_of_very_many_rows_is_never_held_whole():
    """Of a million rows of one key, a thousand at a time, a few thousand are held."""
    one = table([(1, "a")] * 1_000)
    held = []

    def batches():
        for _ in range(1_000):
            held.append(pa.total_allocated_bytes())
            yield one.take(pa.array(range(1_000)))

    _, kept, dropped = distinct_of(batches(), ["k", "s"], "first", most=4 * one.nbytes)
    assert (len(kept), dropped) == (1, 999_999)
    assert max(held) - held[0] < 20 * one.nbytes


@settings(max_examples=10, deadline=None)
@given(
    keys=st.lists(KEY, min_size=1, max_size=30),
    seeds=st.tuples(st.integers(), st.integers()),
    partitions=st.none() | st.integers(1, 3),
)
def test_sharding_changes_nothing_and_no_row_is_lost(eager, keys, seeds, partitions):
    step = Deduplicate(["k", "s"], partitions=partitions)
    results = []
    for seed in seeds:
        result = eager(lambda p: p | beam.Create(sharded(table(keys), seed)) | step)  # noqa: B023
        rows = [row for batch in result.rows for row in batch.to_pylist()]
        assert len(rows) + sum(count.n for count in result.counts) == len(keys)
        assert {c[:3] for c in result.counts} <= {("", "Deduplicate", "duplicate")}
        results.append(sorted(rows, key=lambda row: row["n"]))
    assert results[0] == results[1]
    assert len(results[0]) == len(set(keys))


def test_schema_is_kept_and_columns_are_checked():
    schema = make_schema([make_feature("tailnum", pa.string(), required=False)])
    assert Deduplicate(["tailnum"]).output_schema(schema) == schema
    with pytest.raises(RecipeError, match=r'Deduplicate\(by=.*did you mean "tailnum"'):
        Deduplicate(["tailnun"]).output_schema(schema)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "id"}, "by='id'; expected a list"),
        ({"by": []}, "expected a list"),
        ({"by": ["id"], "keep": "any"}, "keep='any'"),
        ({"by": ["id"], "partitions": 0}, "partitions=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Deduplicate(**arguments)
