"""What is SQLite's own: its file, its locks, and processes that die."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from skewless.errors import RunError
from skewless.transforms.online import Tile, Wanted, open_store
from skewless.transforms.online.sqlite import SqliteStore

# Counts in all of its entities, and in a note, for ever.
WRITER = """
import sys
from skewless.transforms.online import Tile, open_store

store = open_store(sys.argv[1])
number = int(store.notes().get("number", b"0"))
while True:
    with store.transaction() as transaction:
        number += 1
        assert transaction.unseen([b"%d" % number], [number]) == [True]
        for entity in range(50):
            transaction.put([Tile("delay", b"%d" % entity, 0, b"%d" % number)])
        transaction.set_note("number", b"%d" % number)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_transactions(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    number = 0
    for round_ in range(3):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = [int(process.stdout.readline()) for _ in range(5)]
            time.sleep(0.01 * round_)
            os.kill(process.pid, signal.SIGKILL)
            said += [int(line) for line in process.stdout if line.endswith(b"\n")]
        with contextlib.closing(open_store(path)) as store:
            found = store.read([Wanted("delay", b"%d" % entity, 0, 1) for entity in range(50)])
            ((_, value),) = found[0]
            assert found == [[(0, value)]] * 50
            assert store.notes() == {"number": value}
            assert int(value) in (said[-1], said[-1] + 1)
            assert int(value) > number
            number = int(value)
            with store.transaction() as transaction:
                ids = [b"%d" % n for n in range(1, number + 1)]
                assert not any(transaction.unseen(ids, [0] * number))


def test_transactions_of_threads_wait_for_each_other(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as store:

        def count() -> None:
            for _ in range(10):
                with store.transaction() as transaction:
                    number = int(transaction.notes().get("number", b"0"))
                    transaction.set_note("number", b"%d" % (number + 1))

        with ThreadPoolExecutor(4) as threads:
            for counted in [threads.submit(count) for _ in range(4)]:
                counted.result()
        assert store.notes() == {"number": b"40"}


def test_many_open_a_new_file_at_once(tmp_path: pathlib.Path) -> None:
    for round_ in range(5):
        path = tmp_path / f"{round_}.db"
        barrier = threading.Barrier(6)

        def opened(path: pathlib.Path = path, barrier: threading.Barrier = barrier) -> SqliteStore:
            barrier.wait()
            return SqliteStore(path)

        with ThreadPoolExecutor(6) as threads:
            stores = [one.result() for one in [threads.submit(opened) for _ in range(6)]]
        for store in stores:
            assert store.notes() == {}
            store.close()


def test_another_writer_is_named_in_the_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    with (
        contextlib.closing(SqliteStore(path)) as first,
        contextlib.closing(SqliteStore(path, timeout=0.05)) as second,
        first.transaction() as transaction,
    ):
        transaction.set_note("a", b"1")
        with pytest.raises(RunError) as caught, second.transaction():
            pass
        assert second.notes() == {}
    assert str(caught.value) == (
        f"{path}: another writer has held the store for 0.05 s; expected one writer; stop the "
        "other one"
    )


def test_the_file_does_not_grow_when_new_data_replaces_old(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    sizes = []
    with contextlib.closing(open_store(path)) as store:
        for now in range(40):
            with store.transaction() as transaction:
                ids = [os.urandom(16) for _ in range(300)]
                transaction.unseen(ids, [now + 3] * 300)
                transaction.put(
                    Tile("delay", b"%d" % entity, now, os.urandom(50)) for entity in range(300)
                )
                transaction.expire({"delay": now - 3}, now)
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            sizes.append(path.stat().st_size)
        assert len(store.read([Wanted("delay", b"7", 0, 1000)])[0]) == 4
    assert max(sizes[10:]) < 1.3 * sizes[9], sizes


def test_a_commit_is_on_the_disk(tmp_path: pathlib.Path) -> None:
    with (
        contextlib.closing(SqliteStore(tmp_path / "store.db")) as store,
        store._session("BEGIN") as connection,
    ):
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_threads_that_end_leave_no_connections(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as store:
        for _ in range(20):
            thread = threading.Thread(target=store.notes)
            thread.start()
            thread.join()
        assert len(store._idle) == 1


def test_a_closed_store_is_refused_and_closes_what_was_in_use(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    with store.transaction() as transaction:
        transaction.set_note("a", b"1")
        store.close()
    store.close()
    with pytest.raises(RunError, match="the store is closed; open it again"):
        store.notes()
    assert [one.name for one in tmp_path.iterdir()] == ["store.db"]
    with contextlib.closing(SqliteStore(path)) as again:
        assert again.notes() == {"a": b"1"}


def test_another_file_is_refused_and_left_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flights.csv"
    path.write_text("year,month\n" * 1000)
    with pytest.raises(RunError, match=r"cannot be used \(file is not a database\); check the pa"):
        SqliteStore(path)
    assert path.read_text() == "year,month\n" * 1000
    with pytest.raises(RunError, match=r"flights\.csv/store\.db: the store cannot be used"):
        SqliteStore(path / "store.db")
    with pytest.raises(RunError, match="unable to open"):
        SqliteStore(tmp_path)


def test_a_file_of_another_version_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(RunError, match="version 7, expected 1; give another path, or delete"):
        SqliteStore(path)
