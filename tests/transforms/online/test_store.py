"""What every online store does, in SQLite and in a real Redis."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.online import OnlineStore, Tile, Transaction, Wanted, open_store
from tests.servers.redis import Redis, redis

ALL = (-(2**53), 2**53)


class _ChangedMindError(Exception):
    pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


def redis_address(server: Redis) -> str:
    return f"{server.url}?prefix={uuid.uuid4().hex}:"


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.integration)])
def address(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "folder" / "store.db")
    return redis_address(request.getfixturevalue("server"))


@pytest.fixture
def store(address: str) -> Iterator[OnlineStore]:
    with contextlib.closing(open_store(address)) as opened:
        yield opened


def everything(store: OnlineStore | Transaction, group: str, entity: bytes) -> Any:
    (found,) = store.read([Wanted(group, entity, *ALL)])
    return found


def put(store: OnlineStore, *tiles: Tile) -> None:
    with store.transaction() as transaction:
        transaction.put(tiles)


def test_a_new_store_is_empty(store: OnlineStore) -> None:
    assert store.read([]) == []
    assert store.read([Wanted("delay", b"JFK", *ALL)] * 2) == [[], []]
    assert store.notes() == {}
    with store.transaction() as transaction:
        assert transaction.tiles([]) == []
        assert transaction.tiles([("delay", b"JFK", 0)]) == [None]
        assert transaction.unseen([], []) == []
        transaction.put([])
        transaction.expire({}, 0)


def test_a_read_is_sorted_and_exclusive_of_its_stop(store: OnlineStore) -> None:
    base = 1_700_000_000_000_000
    starts = [base + 9, base, base + 10, -5, base + 1]
    put(store, *(Tile("delay", b"JFK", start, b"%d" % start) for start in starts))
    found = store.read(
        [
            Wanted("delay", b"JFK", base, base + 10),
            Wanted("delay", b"JFK", base + 1, base + 1),
            Wanted("delay", b"JFK", -5, base),
            Wanted("delay", b"JF", *ALL),
        ]
    )
    assert found == [
        [(start, b"%d" % start) for start in (base, base + 1, base + 9)],
        [],
        [(-5, b"-5")],
        [],
    ]


def test_names_and_keys_are_never_mistaken_for_another(store: OnlineStore) -> None:
    places = [("a", b"b:c"), ("a:b", b"c"), ("a", b""), ("é%", b"\x00\xff\n"), ("a%3Ab", b"c")]
    put(store, *(Tile(*place, 0, repr(place).encode()) for place in places))
    for place in places:
        assert everything(store, *place) == [(0, repr(place).encode())]


def test_a_put_is_over_what_is_there(store: OnlineStore) -> None:
    put(store, Tile("delay", b"JFK", 0, b"long value"), Tile("delay", b"JFK", 1, b""))
    put(store, Tile("delay", b"JFK", 0, b"1"), Tile("delay", b"JFK", 0, b"2"))
    assert everything(store, "delay", b"JFK") == [(0, b"2"), (1, b"")]


def test_a_transaction_sees_its_own_changes(store: OnlineStore) -> None:
    put(store, Tile("delay", b"JFK", 0, b"old"), Tile("delay", b"JFK", 2, b"kept"))
    with store.transaction() as transaction:
        transaction.set_note("old", b"1")
    with store.transaction() as transaction:
        transaction.put([Tile("delay", b"JFK", 0, b"new"), Tile("delay", b"JFK", 1, b"more")])
        assert everything(transaction, "delay", b"JFK") == [(0, b"new"), (1, b"more"), (2, b"kept")]
        assert transaction.read([Wanted("delay", b"JFK", 1, 2)]) == [[(1, b"more")]]
        keys = [("delay", b"JFK", start) for start in (3, 2, 1, 0)]
        assert transaction.tiles([*keys, ("other", b"JFK", 0), keys[0], keys[1]]) == [
            *(None, b"kept", b"more", b"new"),
            *(None, None, b"kept"),
        ]
        transaction.set_note("old", None)
        transaction.set_note("new", b"2")
        assert transaction.notes() == {"new": b"2"}
        transaction.expire({"delay": 1}, 0)
        assert everything(transaction, "delay", b"JFK") == [(1, b"more"), (2, b"kept")]
        assert transaction.tiles(keys) == [None, b"kept", b"more", None]
        transaction.put([Tile("delay", b"JFK", 0, b"late")])
        assert transaction.tiles(keys) == [None, b"kept", b"more", b"late"]
        assert everything(store, "delay", b"JFK") == [(0, b"old"), (2, b"kept")]
        assert store.notes() == {"old": b"1"}
    assert everything(store, "delay", b"JFK") == [(0, b"late"), (1, b"more"), (2, b"kept")]
    assert store.notes() == {"new": b"2"}


def test_a_transaction_that_raises_changes_nothing(store: OnlineStore) -> None:
    put(store, Tile("delay", b"JFK", 0, b"old"))
    with contextlib.suppress(_ChangedMindError), store.transaction() as transaction:
        assert transaction.unseen([b"1"], [10]) == [True]
        transaction.expire({"delay": 10}, 10)
        transaction.put([Tile("delay", b"JFK", 0, b"new"), Tile("delay", b"LGA", 0, b"new")])
        transaction.set_note("events", b"1")
        raise _ChangedMindError
    assert everything(store, "delay", b"JFK") == [(0, b"old")]
    assert everything(store, "delay", b"LGA") == []
    assert store.notes() == {}
    with store.transaction() as transaction:
        assert transaction.unseen([b"1"], [10]) == [True]


def test_an_id_is_new_once(store: OnlineStore) -> None:
    with store.transaction() as transaction:
        assert transaction.unseen([b"a", b"b", b"a"], [10, 20, 10]) == [True, True, False]
        assert transaction.unseen([b"b", b"c"], [20, 30]) == [False, True]
    with store.transaction() as transaction:
        assert transaction.unseen([b"c", b"d", b"a"], [90, 40, 90]) == [False, True, False]
        transaction.expire({}, 20)
        assert transaction.unseen([b"a", b"b"], [10, 20]) == [True, False]
    with store.transaction() as transaction:
        assert transaction.unseen([b"a", b"b", b"c", b"d"], [1, 1, 1, 1]) == [False] * 4
    with store.transaction() as transaction:
        transaction.expire({}, 41)
    with store.transaction() as transaction:
        assert transaction.unseen([b"a", b"b", b"c", b"d"], [1, 1, 1, 1]) == [True] * 4


def test_ids_and_times_are_as_many(store: OnlineStore) -> None:
    with pytest.raises(ValueError, match="shorter"), store.transaction() as transaction:
        transaction.unseen([b"a", b"b"], [10])


def test_what_is_too_old_is_forgotten_of_each_group(store: OnlineStore) -> None:
    tiles = [
        Tile(group, entity, start, b"x")
        for group in ("delay", "flights")
        for entity, starts in ((b"quiet", (1, 2)), (b"busy", (1, 5, 9)), (b"new", (9,)))
        for start in starts
    ]
    put(store, *tiles)
    with store.transaction() as transaction:
        transaction.expire({"delay": 5, "unknown": 5}, 0)
    assert everything(store, "delay", b"quiet") == []
    assert everything(store, "delay", b"busy") == [(5, b"x"), (9, b"x")]
    assert everything(store, "delay", b"new") == [(9, b"x")]
    assert everything(store, "flights", b"busy") == [(1, b"x"), (5, b"x"), (9, b"x")]
    put(store, Tile("delay", b"quiet", 3, b"late"), Tile("delay", b"busy", 3, b"late"))
    assert everything(store, "delay", b"quiet") == [(3, b"late")]
    with store.transaction() as transaction:
        transaction.expire({"delay": 9}, 0)
    assert everything(store, "delay", b"quiet") == []
    assert everything(store, "delay", b"busy") == [(9, b"x")]


def test_notes_by_their_prefix(store: OnlineStore) -> None:
    with store.transaction() as transaction:
        for name in ("kafka:é/0", "kafka:é/1", "kafkb", "events", ""):
            transaction.set_note(name, name.encode())
    assert store.notes("kafka:") == {
        "kafka:é/0": b"kafka:\xc3\xa9/0",
        "kafka:é/1": b"kafka:\xc3\xa9/1",
    }
    assert set(store.notes()) == {"kafka:é/0", "kafka:é/1", "kafkb", "events", ""}
    with store.transaction() as transaction:
        transaction.set_note("kafka:é/0", None)
        transaction.set_note("absent", None)
        transaction.set_note("kafka:é/1", b"2")
        assert transaction.notes("kafka:") == {"kafka:é/1": b"2"}
    assert store.notes("kafka:") == {"kafka:é/1": b"2"}


def test_another_process_finds_what_was_committed(address: str) -> None:
    with contextlib.closing(open_store(address)) as first:
        put(first, Tile("delay", b"JFK", 0, b"x"))
        with contextlib.closing(open_store(address)) as second:
            assert everything(second, "delay", b"JFK") == [(0, b"x")]
    with contextlib.closing(open_store(address)) as third:
        assert everything(third, "delay", b"JFK") == [(0, b"x")]


def test_many_threads_read_whole_transactions_while_one_writes(store: OnlineStore) -> None:
    entities = [b"%d" % n for n in range(5)]
    wanted = [Wanted("delay", entity, *ALL) for entity in entities]
    done = threading.Event()

    def read() -> int:
        reads, last = 0, -1
        while not done.is_set():
            rounds = {int(value) for tiles in store.read(wanted) for _, value in tiles}
            assert len(rounds) <= 1
            if rounds:
                (now,) = rounds
                assert now >= last
                last = now
            reads += 1
        return reads

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read) for _ in range(4)]
        end = time.monotonic() + 1.0
        for number in range(1000):
            put(
                store,
                *(Tile("delay", entity, n, b"%d" % number) for entity in entities for n in (0, 1)),
            )
            if time.monotonic() > end:
                break
        done.set()
        assert min(reader.result() for reader in readers) > 1


# --- As a model of dictionaries does -----------------------------------------------------

GROUPS, ENTITIES, TIMES = (
    st.sampled_from(["a", "b"]),
    st.sampled_from([b"x", b"y"]),
    st.integers(0, 6),
)
KEYS = st.tuples(GROUPS, ENTITIES, TIMES)
STEPS = st.one_of(
    st.tuples(
        st.just("put"), st.lists(st.builds(Tile, GROUPS, ENTITIES, TIMES, st.binary(max_size=2)))
    ),
    st.tuples(st.just("unseen"), st.lists(st.tuples(st.sampled_from([b"1", b"2", b"3"]), TIMES))),
    st.tuples(st.just("expire"), st.tuples(st.dictionaries(GROUPS, TIMES), TIMES)),
    st.tuples(
        st.just("note"), st.tuples(st.text("ab", max_size=2), st.none() | st.binary(max_size=2))
    ),
    st.tuples(st.just("look"), st.lists(KEYS)),
)
TRANSACTIONS = st.lists(st.tuples(st.booleans(), st.lists(STEPS, max_size=6)), max_size=6)


class Model:
    """A store of dictionaries."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[str, bytes, int], bytes] = {}
        self.ids: dict[bytes, int] = {}
        self.notes: dict[str, bytes] = {}

    def copy(self) -> Model:
        copied = Model()
        copied.tiles, copied.ids, copied.notes = {**self.tiles}, {**self.ids}, {**self.notes}
        return copied

    def step(self, transaction: Transaction, kind: str, given: Any) -> None:
        """Do the same to both, and look for a difference."""
        if kind == "put":
            transaction.put(given)
            self.tiles.update((tile[:3], tile.value) for tile in given)
        elif kind == "unseen":
            ids, until = [one for one, _ in given], [time for _, time in given]
            expected = []
            for one, time_ in given:
                expected.append(one not in self.ids)
                self.ids.setdefault(one, time_)
            assert transaction.unseen(ids, until) == expected
        elif kind == "expire":
            starts, oldest = given
            transaction.expire(starts, oldest)
            self.tiles = {k: v for k, v in self.tiles.items() if k[2] >= starts.get(k[0], 0)}
            self.ids = {one: until for one, until in self.ids.items() if until >= oldest}
        elif kind == "note":
            name, value = given
            transaction.set_note(name, value)
            self.notes.pop(name, None)
            if value is not None:
                self.notes[name] = value
        else:
            assert transaction.tiles(given) == [self.tiles.get(key) for key in given]
            self.check(transaction)

    def check(self, store: OnlineStore | Transaction) -> None:
        wanted = [
            Wanted(group, entity, first, 5)
            for group in "ab"
            for entity in (b"x", b"y")
            for first in (0, 2)
        ]
        assert store.read(wanted) == [
            sorted(
                (k[2], v) for k, v in self.tiles.items() if k[:2] == w[:2] and w.first <= k[2] < 5
            )
            for w in wanted
        ]
        for prefix in ("", "a"):
            found = {name: v for name, v in self.notes.items() if name.startswith(prefix)}
            assert store.notes(prefix) == found


def compare(address: str, transactions: Any) -> None:
    model = Model()
    with contextlib.closing(open_store(address)) as store:
        for fails, steps in transactions:
            changed = model.copy()
            with contextlib.suppress(_ChangedMindError), store.transaction() as transaction:
                for step in steps:
                    changed.step(transaction, *step)
                if fails:
                    raise _ChangedMindError
            model = model if fails else changed
            model.check(store)
        with store.transaction() as transaction:
            seen = [not new for new in transaction.unseen([b"1", b"2", b"3"], [0, 0, 0])]
        assert seen == [one in model.ids for one in (b"1", b"2", b"3")]


@given(TRANSACTIONS)
def test_sqlite_is_as_a_model(transactions: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compare(f"{folder}/store.db", transactions)


@pytest.mark.integration
@given(transactions=TRANSACTIONS)
def test_redis_is_as_a_model(server: Redis, transactions: Any) -> None:
    compare(redis_address(server), transactions)
