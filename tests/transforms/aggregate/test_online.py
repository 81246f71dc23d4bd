"""Windows from an online store are those of batch, at any moment, in one round trip."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError, RunError
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.kinds import as_type
from skewless.transforms.aggregate.online import (
    OnlineFeatures,
    claim_tiles,
    differing_tiles,
    merge_events,
    put_tiles,
)
from skewless.transforms.aggregate.tiles import merge_tiles, tile_events
from skewless.transforms.aggregate.windows import windows_at
from skewless.transforms.online import OnlineStore, Wanted, open_store
from skewless.transforms.shuffle import key_values
from tests.servers.redis import Redis, redis
from tests.transforms.live.small import (
    BEGIN,
    SCHEMA,
    SECOND,
    STEPS,
    TYPES,
    batch_of,
    event,
    everybody,
    step,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.integration)])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Return where stores may be: what is added to it makes them differ."""
    if request.param == "sqlite":
        return f"{tmp_path}/store"
    return f"{request.getfixturevalue('server').url}?prefix="


@pytest.fixture
def store(place: str) -> Iterator[OnlineStore]:
    with opened(place) as made:
        yield made


def opened(place: str) -> Any:
    return contextlib.closing(open_store(f"{place}{uuid.uuid4().hex}"))


def fill(
    store: OnlineStore, events: Sequence[dict[str, Any]], steps: Sequence[Aggregate] = STEPS
) -> None:
    """Merge events into the store, a few at a time."""
    plans = [one.plan for one in steps]
    for at in range(0, len(events), 7):
        with store.transaction() as change:
            merge_events(change, batch_of(events[at : at + 7]), plans)


def of_batch(
    events: Sequence[dict[str, Any]],
    keys: pa.RecordBatch,
    times: Sequence[int | None],
    steps: Sequence[Aggregate] = STEPS,
) -> pa.RecordBatch:
    """Return what batch gives rows of these keys and times."""
    found, names = [], []
    for one in steps:
        tiles = merge_tiles([tile_events(batch_of(events), one.plan)], one.plan)
        given = [key_values(keys.column(name)) for name in one.by]
        columns = windows_at(tiles, given, pa.array(times, pa.int64()), one.plan)
        for column, values in zip(one.plan.columns, columns, strict=True):
            found.append(
                as_type(values, column.windowed.result_type(pa.schema(list(TYPES.items()))))
            )
            names.append(column.name)
    return pa.RecordBatch.from_arrays(found, names=names)


def micros(seconds: float) -> int:
    return round((BEGIN + seconds) * SECOND)


KEYS = st.sampled_from(["a", "b", "", "é", None])
EVENTS = st.lists(
    st.tuples(KEYS, st.integers(0, 60) | st.none(), st.integers(-3, 3)), max_size=30
).map(lambda rows: [event(i, at, k, n=n) for i, (k, at, n) in enumerate(rows)])
ASKED = st.lists(
    st.tuples(KEYS | st.just("nobody"), st.integers(-20, 120) | st.sampled_from([9.999999, 30])),
    max_size=8,
)


@settings(max_examples=25)
@given(events=EVENTS, asked=ASKED, two=st.booleans())
def test_features_are_those_of_batch_at_any_moment(
    events: list[dict[str, Any]], asked: list[Any], two: bool
) -> None:
    steps = [step(by=["k", "n"])] if two else STEPS
    with tempfile.TemporaryDirectory() as folder:
        check_against_batch(f"{folder}/store", events, asked, steps)


@pytest.mark.integration
@settings(max_examples=15)
@given(events=EVENTS, asked=ASKED, two=st.booleans())
def test_features_are_those_of_batch_from_redis(
    server: Redis, events: list[dict[str, Any]], asked: list[Any], two: bool
) -> None:
    steps = [step(by=["k", "n"])] if two else STEPS
    check_against_batch(f"{server.url}?prefix=", events, asked, steps)


def check_against_batch(
    place: str, events: list[dict[str, Any]], asked: list[Any], steps: Sequence[Aggregate]
) -> None:
    keys = pa.record_batch(
        {
            "k": pa.array([k for k, _ in asked], pa.string()),
            "n": pa.array([i % 3 for i in range(len(asked))], pa.int64()),
        }
    )
    times = [micros(at) for _, at in asked]
    with opened(place) as store:
        fill(store, events, steps)
        features = OnlineFeatures(store, steps, SCHEMA)
        found = features.features_at(keys, pa.array(times, pa.int64()))
        assert found.equals(of_batch(events, keys, times, steps))
        for moment in times[:3]:
            at_once = features.features_at(keys.to_pydict(), moment)
            assert at_once.equals(of_batch(events, keys, [moment] * len(times), steps))


def test_a_key_that_has_gone_quiet_runs_empty_by_the_clock_alone(store: OnlineStore) -> None:
    fill(store, [event(n, n, n=1) for n in range(30)])
    features = OnlineFeatures(store, [step()], SCHEMA)
    seen = [features.features_at({"k": ["a"]}, micros(at)).to_pylist()[0] for at in range(0, 80, 5)]
    assert [row["events_30s"] for row in seen] == [
        *(0, 0, 10, 10, 20, 20, 30, 30, 20, 20, 10, 10, 0, 0, 0, 0)
    ]
    assert seen[-1] == {
        "events_10s": 0,
        "events_30s": 0,
        "total": 0.0,
        "average": None,
        "last": None,
        "since": None,
    }
    assert seen[7]["since"] == 6.0  # as of 35 s, the last one was at 29 s


def test_unknown_and_missing_keys_are_empty(store: OnlineStore) -> None:
    fill(store, [event(0, 1)])
    features = OnlineFeatures(store, [step()], SCHEMA)
    found = features.features_at({"k": ["nobody", None, "a"]}, micros(10)).to_pylist()
    assert [row["events_30s"] for row in found] == [0, 0, 1]
    assert features.features_at({"k": []}, micros(10)).num_rows == 0


class Counting:
    """A store that counts how often it is asked."""

    def __init__(self, store: OnlineStore) -> None:
        self._store, self.reads = store, 0

    def read(self, wanted: Sequence[Wanted]) -> Any:
        self.reads += 1
        return self._store.read(wanted)

    def __getattr__(self, name: str) -> Any:
        if name in ("transaction", "notes"):
            self.reads += 1
        return getattr(self._store, name)


def test_one_round_trip(store: OnlineStore) -> None:
    fill(store, [event(0, 1), event(1, 2, "b")])
    counting: Any = Counting(store)
    features = OnlineFeatures(counting, STEPS, SCHEMA)
    counting.reads = 0
    features.features_at({"k": ["a", "b", "c", None]}, micros(20))
    assert counting.reads == 1


def test_now_is_a_number_or_a_time_with_a_zone(store: OnlineStore) -> None:
    fill(store, [event(0, 1)])
    features = OnlineFeatures(store, [step()], SCHEMA)
    zone = datetime.timezone(datetime.timedelta(hours=-5))
    moment = datetime.datetime.fromtimestamp(BEGIN + 10, zone)
    found = features.features_at({"k": ["a"]}, moment)
    assert found.equals(features.features_at({"k": ["a"]}, micros(10)))
    assert found["events_10s"].to_pylist() == [1]
    with pytest.raises(RecipeError, match="expected a datetime with a zone"):
        features.features_at({"k": ["a"]}, datetime.datetime(2020, 1, 1))


def test_what_is_missing_is_named(store: OnlineStore) -> None:
    features = OnlineFeatures(store, STEPS, SCHEMA)
    assert features.keys == ("k",)
    with pytest.raises(RecipeError, match=r'features_at\(keys=\.\.\.\): there is no column "k"'):
        features.features_at({"n": [1]}, 0)
    with pytest.raises(RecipeError, match="there is no Aggregate"):
        OnlineFeatures(store, [], SCHEMA)


def test_a_store_of_other_aggregates_is_refused(store: OnlineStore) -> None:
    OnlineFeatures(store, [everybody(name="k@10s")], SCHEMA)  # one of nobody yet
    claim_tiles(store, [step().plan])
    held = store.notes()
    claim_tiles(store, [step().plan])
    OnlineFeatures(store, [step()], SCHEMA)
    assert store.notes() == held != {}
    for other in (step(known_at="arrived"), step(tile="5s", name="k@10s"), everybody(name="k@10s")):
        with pytest.raises(RunError, match='holds no tiles of Aggregate "k@10s"'):
            OnlineFeatures(store, [other], SCHEMA)
    with pytest.raises(RunError, match='holds no tiles of Aggregate "all@20s"'):
        claim_tiles(store, [step().plan, everybody().plan])


def test_tiles_that_differ_are_counted(store: OnlineStore) -> None:
    events = [event(n, n * 7, "ab"[n % 2]) for n in range(20)]
    plan = step().plan
    made = merge_tiles([tile_events(batch_of(events), plan)], plan)
    fill(store, events)
    assert differing_tiles(store, made, plan) == (0, len(made.starts))
    other = [*events, event(20, 3), event(21, 500)]
    with store.transaction() as change:
        put_tiles(change, tile_events(batch_of(other[-2:]), plan), plan)
    # One tile holds another event, and one is in the store only.
    assert differing_tiles(store, made, plan) == (2, len(made.starts) + 1)
