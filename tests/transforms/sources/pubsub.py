"""Messages in the emulator, for the tests of reading and of writing them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from skewless.schema import make_feature, make_schema
from skewless.transforms.rows import Rejected
from tests.servers.pubsub import Queue

SCHEMA = make_schema(
    [
        make_feature("n", pa.int64(), required=True),
        make_feature("carrier", pa.string(), required=False),
        make_feature("time", pa.timestamp("us", tz="UTC"), required=False),
    ]
)


def flight(n: int, **more: Any) -> tuple[bytes, dict[str, str]]:
    body = json.dumps({"n": n, "carrier": "UA", **more}).encode()
    return body, {"at": str(n * 1000), "key": f"k{n}"}


POISON = [
    (b"no JSON", {"at": "1", "key": "p0"}),
    (b'{"n": "many"}', {"at": "2", "key": "p1"}),
    (b'{"n": 9}', {"at": "soon", "key": "p2"}),
    (b'{"n": 10}', {"key": "p3"}),
]


def check_poison(rejected: Sequence[Rejected], subscription: str) -> None:
    assert {(row.payload, row.column, row.value) for row in rejected} == {
        (b"no JSON", "", ""),
        (b'{"n": "many"}', "n", "many"),
        (b'{"n": 9}', "at", "soon"),
        (b'{"n": 10}', "at", ""),
    }
    assert {row.file for row in rejected} == {subscription}
    assert all(row.offset > 0 and row.reason.startswith("expected ") for row in rejected)


def check_dead_letters(dead: Queue) -> None:
    letters = {one.data: dict(one.attributes) for one in dead.drain(len(POISON))}
    assert set(letters) == {body for body, _ in POISON}
    assert letters[b'{"n": "many"}']["reason"] == "expected a whole number (int64)"
    assert letters[b'{"n": "many"}']["column"] == "n"
    assert letters[b'{"n": 9}']["value"] == "soon"
