"""The steps of a recipe over micro-batches."""

from __future__ import annotations

import pathlib
import pickle

import pyarrow as pa
import pytest

from skewless.errors import RecipeError
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.functions import count
from skewless.transforms.deduplicate import Deduplicate
from skewless.transforms.expressions import field
from skewless.transforms.filter import Require, Where
from skewless.transforms.live.steps import DropRepeated, Join, Keep, live_step, message_ids
from skewless.transforms.online import OnlineStore
from skewless.transforms.rows import OFFSET, with_origin
from tests.transforms.live.small import SECOND, batch_of, event, join, right_file

LATER = 10**6 * SECOND


def offsets(batch: pa.RecordBatch) -> list[int]:
    return batch.column(OFFSET).to_pylist()  # type: ignore[no-any-return]


def test_filters_keep_what_the_recipe_wants(store: OnlineStore) -> None:
    batch = batch_of([event(0, 1, None), event(1, 2), event(2, 3)])
    with store.transaction() as change:
        for step, kept in ((Require("k"), [1, 2]), (Where(field("n") < 2), [0, 1])):
            made = live_step(step)
            outcome = made(batch, change, LATER)
            assert made.name == type(step).__name__
            assert offsets(outcome.kept) == kept
            assert outcome.counts == {"filtered": 1}
        assert change.unseen([b"topic#0"], [0]) == [True]


@pytest.mark.parametrize("by", [["k"], ["k", "n"], ["t", "k"], ["n"]])
def test_repeated_keys_are_those_of_batch(store: OnlineStore, by: list[str]) -> None:
    rows = [event(0, 1), event(1, 1, n=0), event(2, 1, "b", n=0), event(3, 2, None), event(4, None)]
    rows += [event(5, 1, '",'), event(6, 2, '","'), event(7, 2, None, n=3), event(8, None, n=4)]
    batch = batch_of(rows)
    seen: set[tuple[object, ...]] = set()
    first = []
    for row in batch.to_pylist():
        key = tuple(row[name] for name in by)
        first += [] if key in seen else [row[OFFSET]]
        seen.add(key)
    step = live_step(Deduplicate(by=by))
    found, dropped = [], 0
    for start, size in ((0, 2), (2, 3), (5, 4)):
        with store.transaction() as change:
            outcome = step(batch.slice(start, size), change, LATER)
        found += offsets(outcome.kept)
        dropped += outcome.counts["duplicate"]
    assert found == first
    assert dropped == len(rows) - len(first)


def test_a_key_is_forgotten(store: OnlineStore) -> None:
    step = live_step(Deduplicate(by=["n"]))
    batch = batch_of([event(0, 1)])
    with store.transaction() as change:
        assert step(batch, change, 100).kept.num_rows == 1
        change.expire({}, 100)
        assert step(batch, change, 100).kept.num_rows == 0
        change.expire({}, 101)
        assert step(batch, change, 200).kept.num_rows == 1


def test_messages_are_known_by_where_they_came_from(store: OnlineStore) -> None:
    batch = batch_of([event(7, 1), event(8, 1)])
    elsewhere = with_origin(batch.drop_columns(["_file", "_offset"]), "other", batch[OFFSET])
    assert message_ids(batch) == [b"topic#7", b"topic#8"]
    with store.transaction() as change:
        assert offsets(DropRepeated()(batch, change, LATER).kept) == [7, 8]
        assert DropRepeated()(batch, change, LATER).counts == {"duplicate": 2}
        assert offsets(DropRepeated()(elsewhere, change, LATER).kept) == [7, 8]


@pytest.mark.parametrize("offset", [-1, None])
def test_messages_without_a_number_need_keys(store: OnlineStore, offset: int | None) -> None:
    batch = batch_of([event(0, 1), {**event(1, 1), OFFSET: offset}])
    with (
        store.transaction() as change,
        pytest.raises(RecipeError, match=r"no number .* give the recipe Deduplicate\(by="),
    ):
        DropRepeated()(batch, change, LATER)


def test_a_key_column_that_there_is_none_of_is_named(store: OnlineStore) -> None:
    with store.transaction() as change, pytest.raises(RecipeError, match='no column "m"'):
        live_step(Deduplicate(by=["m"]))(batch_of([event(0, 1)]), change, LATER)


def test_a_join_takes_the_latest_right_row_also_in_another_process(
    store: OnlineStore, tmp_path: pathlib.Path
) -> None:
    step = live_step(join(), right_file(tmp_path))
    batch = batch_of([event(0, 49, "b"), event(1, 50, "b"), event(2, 60, "a"), event(3, 1, "c")])
    with store.transaction() as change:
        outcome = step(batch, change, LATER)
    assert offsets(outcome.kept) == [0, 1, 2, 3]
    assert outcome.kept.column("region").to_pylist() == ["north", "south", "north", None]
    assert pickle.loads(pickle.dumps(Keep(Require("k")))).name == "Require"
    assert isinstance(step, Join)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Deduplicate(by=["k"], keep="last"), 'give the recipe keep="first"'),
        (Aggregate(by=["k"], known_at="t", tile="1s", n=count(over="1s")), "Aggregate: there is"),
        (join(), "JoinAsOf: there is no such step over a stream"),
    ],
)
def test_what_a_stream_cannot_do_is_said(step: object, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        live_step(step)
