"""What is Redis's own: addresses, secrets, two writers, and servers that stop."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator

import pytest

from skewless.errors import RecipeError, RunError
from skewless.transforms.online import OnlineStore, Tile, Wanted, open_store
from skewless.transforms.online.redis import RedisStore, load_client
from tests.servers.process import free_port
from tests.servers.redis import PASSWORD, Redis, redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


def write(
    store: OnlineStore, meanwhile: Callable[[], object] | None = None, name: str = "a"
) -> None:
    """Write a note and a tile; before that is committed, something happens."""
    with store.transaction() as transaction:
        transaction.set_note(name, b"1")
        transaction.put([Tile("delay", b"JFK", 0, b"x" * 10_000)])
        if meanwhile:
            meanwhile()


def test_a_client_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(RecipeError, match=r"pip install 'skewless\[redis\]'"):
        open_store("redis://localhost:6379/0")


@pytest.mark.parametrize(
    "address",
    [
        "redis://",
        "redis://host:port/0",
        "redis://:s3/cret@host:6379/0",
        "redis://:12/s3cret@host:6379/0",
        "redis://:12#s3cret@host:6379/0",
        "redis://:12?s3cret@host:6379/0",
        "redis://user:s3cret@host:6379/name",
        "redis://[user:s3cret@host:6379/0",
    ],
)
def test_an_address_that_is_none_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(RecipeError, match="expected redis://host:port/number") as caught:
        open_store(address)
    said = "".join(traceback.format_exception(caught.value))
    assert "cret" not in said


def test_an_option_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"redis://h:6379/0: .*'colour'.*question mark"):
        open_store("redis://h/0?colour=red")


def test_a_server_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(
        RunError, match=f"redis://127.0.0.1:{port}/2: .*check the address"
    ) as caught:
        open_store(f"redis://user:{PASSWORD.split('/')[0]}@127.0.0.1:{port}/2")
    assert "pl4nted" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.integration
def test_a_password_is_nowhere(server: Redis) -> None:
    with contextlib.closing(RedisStore(server.url)) as store:
        assert repr(store) == f"RedisStore('{server.place}')"
        assert PASSWORD not in repr(store._address)
    wrong = server.url.replace("pl4nted", "wr0ng")
    with pytest.raises(RunError, match=f"{server.place}: .*password") as caught:
        open_store(wrong)
    said = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in said
    assert "wr0ng" not in said


@pytest.mark.integration
def test_another_writer_is_named_in_the_error(server: Redis) -> None:
    url = f"{server.url}?prefix=writers:"
    with (
        contextlib.closing(open_store(url)) as first,
        contextlib.closing(open_store(url)) as second,
    ):
        with pytest.raises(RunError) as caught:
            write(first, lambda: write(second, None, "b"))
        assert first.notes() == {"b": b"1"}
        write(first)  # as the only one, it goes on
        assert second.notes() == {"a": b"1", "b": b"1"}
    assert str(caught.value) == (
        f"{server.place}: another writer writes to this store, prefix=writers:; expected one "
        "writer; stop the other one, or give each a prefix"
    )


@pytest.mark.integration
def test_a_server_without_memory_takes_nothing_of_a_transaction(server: Redis) -> None:
    admin = load_client().Redis.from_url(server.url)
    with (
        contextlib.closing(admin),
        contextlib.closing(open_store(f"{server.url}?prefix=m:")) as store,
    ):
        with pytest.raises(RunError, match="maxmemory") as caught:
            write(store, lambda: admin.config_set("maxmemory", 1))
        assert store.read([Wanted("delay", b"JFK", 0, 1)]) == [[]]  # and goes on answering
        admin.config_set("maxmemory", 0)
        assert admin.keys("m:*") == []
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.integration
def test_expired_entities_leave_nothing_behind(server: Redis) -> None:
    admin = load_client().Redis.from_url(server.url)
    with (
        contextlib.closing(admin),
        contextlib.closing(open_store(f"{server.url}?prefix=e:")) as store,
    ):
        for now in range(10):
            with store.transaction() as transaction:
                transaction.unseen([b"%d" % now], [now])
                transaction.put([Tile("delay", b"quiet %d" % now, now, b"x")])
                transaction.put([Tile("delay", b"busy", now, b"x")])
                transaction.expire({"delay": now - 1}, now)
        keys = {key.decode(): admin.type(key) for key in admin.keys("e:*")}
        assert keys == {
            "e:tiles:delay:quiet 8": b"zset",
            "e:tiles:delay:quiet 9": b"zset",
            "e:tiles:delay:busy": b"zset",
            "e:entities:delay": b"zset",
            "e:ids": b"zset",
            "e:version": b"string",
        }
        assert dict(admin.zrange("e:entities:delay", 0, -1, withscores=True)) == {
            b"busy": 8.0,
            b"quiet 8": 8.0,
            b"quiet 9": 9.0,
        }
        assert admin.zcard("e:tiles:delay:busy") == 2
        assert admin.zcard("e:ids") == 1
        assert all(admin.ttl(key) == -1 for key in keys)


@pytest.mark.integration
def test_a_restarted_server_has_what_was_committed(tmp_path: pathlib.Path) -> None:
    with (
        redis(tmp_path, durable=True) as server,
        contextlib.closing(open_store(server.url)) as store,
        store.transaction() as transaction,
    ):
        transaction.unseen([b"1"], [10])
        transaction.put([Tile("delay", b"JFK", n, b"%d" % n) for n in range(10)])
        transaction.set_note("events", b"10")
    with (
        redis(tmp_path, durable=True) as server,
        contextlib.closing(open_store(server.url)) as store,
    ):
        (found,) = store.read([Wanted("delay", b"JFK", 0, 5)])
        assert found == [(n, b"%d" % n) for n in range(5)]
        assert store.notes() == {"events": b"10"}
        with store.transaction() as transaction:
            assert transaction.unseen([b"1", b"2"], [10, 10]) == [False, True]


@pytest.mark.integration
def test_a_server_that_stops_in_a_transaction_is_named(tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(redis(tmp_path))
        store = stack.enter_context(contextlib.closing(open_store(server.url)))
        with pytest.raises(RunError) as caught:
            write(store, stack.pop_all().close)
    assert f"{server.place}: the connection was lost in a transaction" in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.integration
def test_pieces_of_a_large_transaction(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skewless.transforms.online.redis._AT_ONCE", 7)
    ids = [b"%d" % n for n in range(30)]
    with contextlib.closing(open_store(f"{server.url}?prefix=p:")) as store:
        with store.transaction() as transaction:
            assert transaction.unseen(ids, [1] * 30) == [True] * 30
            transaction.put([Tile("delay", one, 0, one) for one in ids])
        with store.transaction() as transaction:
            assert transaction.unseen([*ids, b"new"], [1] * 31) == [False] * 30 + [True]
            assert transaction.tiles([("delay", one, 0) for one in ids]) == ids


@pytest.mark.integration
def test_a_password_may_be_in_the_environment(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.place.replace("redis://", "redis://:env:STORE_PASSWORD@")
    monkeypatch.delenv("STORE_PASSWORD", raising=False)
    with pytest.raises(RecipeError, match='no environment variable "STORE_PASSWORD"'):
        open_store(address)
    monkeypatch.setenv("STORE_PASSWORD", PASSWORD)
    with contextlib.closing(open_store(address)) as store:
        assert store.notes("nothing of this name") == {}
