"""Reading messages of Pub/Sub like a file: what is there, to its end."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import fastavro
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner

from skewless.errors import DataError, RecipeError
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.pubsub import WriteRejectedToPubSub
from skewless.transforms.sources import pubsub
from skewless.transforms.sources.pubsub import ReadPubSub
from skewless.transforms.sources.pubsub_reader import event_micros, make_message
from tests.servers.pubsub import Emulator, Queue, pubsub_emulator
from tests.transforms.sources.pubsub import (
    POISON,
    SCHEMA,
    check_dead_letters,
    check_poison,
    flight,
)
from tests.transforms.sources.streams import Kept

HOUR = 3600 * 10**6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-1500", -1_500_000),
        ("2013-01-01T05:00:00Z", 1_357_016_400_000_000),
        ("2013-01-01T05:00:00.123456789+01:00", 1_357_012_800_123_456),
        ("2013-01-01T05:00:00", None),
        ("1" * 18, None),
        ("1_000", None),
        ("", None),
        ("tomorrow", None),
    ],
)
def test_event_time_of_an_attribute(text: str, expected: int | None) -> None:
    assert event_micros(text) == expected


def test_origin_of_a_message() -> None:
    message = make_message(b"x", {"at": "7"}, "12345678901234567", "sub", "at")
    assert (message.offset, message.event_time, message.source) == (12345678901234567, 7000, "sub")
    assert make_message(b"x", {}, "a-7", "sub", None)[2:] == ("a-7", None, "sub", -1)
    assert make_message(b"x", {}, "9" * 19, "sub", None).offset == -1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either subscription= or topic="),
        ({"subscription": "projects/pro-test/subscriptions/abc", "topic": "t"}, "give either"),
        ({"subscription": "flights"}, "expected projects/<project>/subscriptions/<subscription>"),
        (
            {"topic": "projects/pro-test/subscriptions/abc"},
            "expected projects/<project>/topics/<topic>",
        ),
        ({"readers": 0}, "readers=0: expected more than 0"),
        ({"stop_when_idle": -1.0}, "stop_when_idle=-1.0: expected more than 0"),
        ({"lease_seconds": 5}, "expected from 10 to 600"),
        ({"payload": "csv"}, 'payload="csv": expected "json" or "avro"'),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    if arguments and "topic" not in arguments:
        arguments = {"subscription": "projects/pro-test/subscriptions/abc", **arguments}
    with pytest.raises(RecipeError, match=message):
        ReadPubSub(**arguments, schema=SCHEMA)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with pubsub_emulator(tmp_path_factory.mktemp("pubsub")) as emulator:
        yield emulator


@pytest.mark.integration
@pytest.mark.parametrize("bundle", [10_000, 100])
def test_a_backlog_is_read_and_accounted_for(
    bundle: int, emulator: Emulator, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "_GATHER_MESSAGES", bundle)
    queue, dead, kept = Queue(), Queue(), Kept(tmp_path)
    queue.publish(*[flight(n) for n in range(500)], *POISON)
    queue.publish(*[flight(n) for n in range(0, 500, 10)], POISON[0])
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | ReadPubSub(
            queue.subscription,
            schema=SCHEMA,
            event_time="time",
            timestamp_attribute="at",
            id_attribute="key",
            stop_when_idle=3,
            batch_rows=100,
        )
        kept.keep(rows)
        rejected = rows.rejected | beam.Flatten()
        _ = rejected | WriteRejectedToPubSub(dead.topic)
    found = kept.rows()
    assert sorted(row["n"] for row in found) == list(range(500))
    assert all(row["time"].timestamp() == row["n"] for row in found)
    assert {row[FILE] for row in found} == {queue.subscription}
    assert len({row[OFFSET] for row in found}) == 500
    for batch, timestamp in kept.batches():
        assert len(batch) <= 100
        assert timestamp == min(row["n"] for row in batch) * 10**6
        assert len({row["n"] // 60 for row in batch}) == 1
    check_poison(kept.rejected(), queue.subscription)
    check_dead_letters(dead)
    assert kept.counts() == {"read": 555, "duplicate": 51}
    assert kept.adds_up()
    assert queue.drain() == []  # all is acknowledged


@pytest.mark.integration
def test_avro_bodies(emulator: Emulator, tmp_path: pathlib.Path) -> None:
    text = json.dumps(
        {
            "type": "record",
            "name": "Flight",
            "fields": [
                {"name": "n", "type": "long"},
                {"name": "carrier", "type": ["null", "string"]},
                {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            ],
        }
    )
    queue, kept = Queue(), Kept(tmp_path)
    for n in range(20):
        body = io.BytesIO()
        row = {"n": n, "carrier": None if n % 2 else "UA", "time": n * HOUR}
        fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(text)), row)
        queue.publish((body.getvalue(), {}))
    queue.publish((b"\x01\x02\x03 poison", {}))
    with beam.Pipeline("FnApiRunner") as pipeline:
        kept.keep(
            pipeline
            | ReadPubSub(
                queue.subscription,
                schema=SCHEMA,
                event_time="time",
                payload="avro",
                avro_schema=text,
                stop_when_idle=3,
            )
        )
    found = {row["n"]: row for row in kept.rows()}
    assert sorted(found) == list(range(20))
    assert found[3]["carrier"] is None
    assert found[4]["carrier"] == "UA"
    assert found[5]["time"].timestamp() == 5 * 3600
    (poison,) = kept.rejected()
    assert poison.payload == b"\x01\x02\x03 poison"
    assert poison.reason.startswith("expected an Avro record")
    assert kept.adds_up()


@pytest.mark.integration
def test_a_missing_subscription_is_an_error_before_the_run(emulator: Emulator) -> None:
    name = "projects/pro-test/subscriptions/none-such"
    with pytest.raises(DataError, match=f'ReadPubSub\\("{name}"\\): there is no such subscr'):
        _ = beam.Pipeline("FnApiRunner") | ReadPubSub(name, schema=SCHEMA)
    topic = "projects/pro-test/topics/none-such"
    with pytest.raises(RecipeError, match="a topic can be read with Dataflow"):
        _ = beam.Pipeline("FnApiRunner") | ReadPubSub(topic=topic, schema=SCHEMA)
    with pytest.raises(DataError, match=f'topic="{topic}"\\): there is no such topic'):
        _ = beam.Pipeline(BundleBasedDirectRunner()) | ReadPubSub(topic=topic, schema=SCHEMA)
