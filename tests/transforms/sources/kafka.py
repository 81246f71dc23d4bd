"""Rows in a real broker, for the tests of reading and of writing them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sources.kafka import ReadKafka
from tests.servers.kafka import PASSWORD, USER, Broker

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=True),
        make_feature("s", pa.string(), required=False),
        make_feature("t", pa.timestamp("us", tz="UTC"), required=False),
    ]
)
DAY = 1_700_000_000_000  # in milliseconds

# A client that reads no further ahead than a few messages.
SLOWLY = {"queued.min.messages": 1, "queued.max.messages.kbytes": 1, "fetch.max.bytes": 20_000,
          "max.partition.fetch.bytes": 1_000, "message.max.bytes": 20_000}  # fmt: skip


def source(broker: Broker, topics: Any, **arguments: Any) -> ReadKafka:
    given = {"bootstrap_servers": broker.servers, "schema": SCHEMA, "stop": "latest", **arguments}
    return ReadKafka(topics, **given)


def credentials(broker: Broker, variable: str) -> dict[str, Any]:
    """Return the arguments for the listener that asks for a password, and `variable` has it."""
    config = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
    return {
        "bootstrap_servers": broker.sasl_servers,
        "config": {**config, "sasl.username": USER},
        "secrets": {"sasl.password": variable},
    }


def never_planted(*places: Any) -> None:
    """Check that the password is in none of these."""
    for place in places:
        said = place if isinstance(place, bytes) else str(place).encode()
        assert PASSWORD.encode() not in said


def read_all(read: ReadKafka) -> list[pa.RecordBatch]:
    """Read the pieces here, without a runner."""
    found, schema = [], read.raw_schema()
    read.fingerprint()
    for piece in read._pinned.pieces or []:
        for outcome in read.reader().read(piece, schema):
            found.append(outcome.kept)
    return found


def in_order(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: (row[FILE], row[OFFSET]))


def numbers(batches: list[pa.RecordBatch]) -> list[int]:
    return [row["n"] for row in in_order(batches)]


@contextlib.contextmanager
def power_cut(broker: Broker, seconds: float = 3.0) -> Iterator[None]:
    """Kill the broker; start it again after a while, in the middle of the block."""
    broker.kill()

    def restart() -> None:
        time.sleep(seconds)
        broker.start()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        yield
    finally:
        thread.join()
