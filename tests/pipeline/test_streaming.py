"""What a stream makes of a recipe, of its addresses and of the runs there are."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.pipeline import PipelineVisitor

from skewless.errors import RecipeError, RunError
from skewless.pipeline.execution import Execution
from skewless.pipeline.live import NewestRun, event_schema, split_steps
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.streaming import Stream, stream_ledger, stream_sink, stream_source
from skewless.schema import make_feature, make_schema
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.functions import count, mean
from skewless.transforms.deduplicate import Deduplicate
from skewless.transforms.filter import Require
from skewless.transforms.sinks.kafka import WriteKafka
from skewless.transforms.sinks.pubsub import WritePubSub
from skewless.transforms.sources.csv import ReadCsv
from skewless.transforms.sources.kafka import ReadKafka
from skewless.transforms.sources.messages import split_by_time
from skewless.transforms.sources.pubsub import ReadPubSub

# --- Steps -------------------------------------------------------------------------------


@dataclasses.dataclass
class Steps:
    """As much of a recipe as is asked for."""

    rows: tuple[Any, ...]


def aggregate(name: str, **given: Any) -> Aggregate:
    return Aggregate(
        by=["k"], known_at="t", tile="5m", name=name, **{"at": "t", **given}, n=count(over="1h")
    )


def split(*steps: Any) -> Any:
    return split_steps(Steps(steps))  # type: ignore[arg-type]


def test_steps_before_and_after_the_aggregates() -> None:
    a, b, first, last = aggregate("a"), aggregate("b"), Deduplicate(by=["k"]), Require("n")
    assert split(first, a, b, last) == ([first], [a, b], [last])
    assert split(first, last) == ([first, last], [], [])
    assert split(a) == ([], [a], [])


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([aggregate("a"), Require("k"), aggregate("b")], "all Aggregates follow each other"),
        ([aggregate("a"), aggregate("b", at="u")], "have the same at="),
        ([aggregate("a"), aggregate("a")], '2 Aggregates are called "a"'),
    ],
)
def test_what_a_stream_cannot_do_is_said(steps: list[Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        split(*steps)


def test_an_aggregate_of_an_aggregate_is_refused() -> None:
    kinds = {"k": pa.string(), "t": pa.timestamp("us", "UTC"), "v": pa.int64()}
    schema = make_schema([make_feature(name, kind, required=True) for name, kind in kinds.items()])
    one = aggregate("a")
    other = Aggregate(by=["k"], known_at="t", at="t", tile="5m", m=mean("n", over="1h"))
    event_schema(schema, [Require("v")], [one])
    with pytest.raises(RecipeError, match="in a stream no Aggregate takes a column of another"):
        event_schema(schema, [Require("v")], [one, other])


# --- Addresses ---------------------------------------------------------------------------


@dataclasses.dataclass
class Reading:
    """As much of a recipe as is asked for."""

    source: Any
    stream: Any = None
    name: str = "flights"


CSV = ReadCsv("flights.csv", event_time="time_hour", name="flown")


def source_of(text: str | None, own: Any = CSV, stream: Any = None, **given: Any) -> Any:
    here = pathlib.Path()
    wanted = Stream(here, text, here, "store.db", here, **given)
    recipe: Recipe = Reading(own, stream)  # type: ignore[assignment]
    return stream_source(wanted, recipe)


def test_sources() -> None:
    kafka = source_of("kafka:a:9092,b:9092/flights")
    assert isinstance(kafka, ReadKafka)
    assert kafka.topic_names == ("flights",)
    assert kafka.bootstrap_servers == "a:9092,b:9092"
    assert (kafka.group, kafka.start, kafka.stop) == ("skewless-flights", "committed", None)
    pubsub = source_of("pubsub:projects/pro-test/subscriptions/flights", stop_when_idle=3.0)
    assert isinstance(pubsub, ReadPubSub)
    assert pubsub.stop_when_idle == 3.0
    files = source_of("in/*.csv", watch_seconds=2.0)
    assert isinstance(files, ReadCsv)
    assert (files.pattern, files.watch_seconds) == ("in/*.csv", 2.0)
    for source in (kafka, pubsub, files):
        assert (source.event_time, source.input_name) == ("time_hour", "flown")
    # Micro-batches keep the order in which events came.
    times = np.array([-(10**15), 10**15, 0, 2 * 10**15])
    batch = pa.record_batch({"n": [0, 1, 2, 3]})
    for source in (kafka, pubsub):
        parts = [
            part["n"].to_pylist() for part, _ in split_by_time(batch, times, source.batch_seconds)
        ]
        assert parts[-1] == [1, 2, 3]


@pytest.mark.parametrize("text", ["kafka:", "kafka:a:9092", "kafka:/flights", "kafka:a:9092/"])
def test_a_topic_that_is_not_all_there(text: str) -> None:
    with pytest.raises(RecipeError, match="expected kafka:HOST:PORT/TOPIC"):
        source_of(text)
    with pytest.raises(RecipeError, match="expected kafka:HOST:PORT/TOPIC"):
        stream_sink(text)


def test_a_subscription_that_is_none() -> None:
    with pytest.raises(RecipeError, match=r"projects/.*/subscriptions/"):
        source_of("pubsub:flights")
    with pytest.raises(RecipeError, match=r"projects/.*/topics/"):
        stream_sink("pubsub:flights")


def test_the_stream_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"the recipe has no stream=; give it one, or say"):
        source_of(None)
    kafka = ReadKafka("flights", bootstrap_servers="a:9092", group="g", start="committed")
    made = source_of(None, stream=kafka)
    assert (made.topic_names, made.group, made.start) == (("flights",), "g", "committed")
    subscription = "projects/pro-test/subscriptions/flights"
    pubsub = source_of(None, stream=ReadPubSub(subscription), stop_when_idle=3.0)
    assert (pubsub.subscription, pubsub.stop_when_idle) == (subscription, 3.0)
    # Micro-batches of any times, as from --source.
    assert made.batch_seconds == pubsub.batch_seconds > 1e9
    repeated = ReadPubSub(subscription, id_attribute="id")
    with pytest.raises(RecipeError, match="knows repeated events by Deduplicate"):
        source_of(None, stream=repeated)


def test_files_for_a_recipe_that_reads_none() -> None:
    own = ReadKafka("flights", bootstrap_servers="a:9092", stop="latest")
    with pytest.raises(RecipeError, match="the recipe reads no files; expected kafka:"):
        source_of("in/*.csv", own)


def test_sinks() -> None:
    assert isinstance(stream_sink("kafka:a:9092/out"), WriteKafka)
    assert isinstance(stream_sink("pubsub:projects/pro-test/topics/out"), WritePubSub)
    with pytest.raises(RecipeError, match=r'--to "out\.csv": expected kafka:HOST:PORT/TOPIC or'):
        stream_sink("out.csv")


# --- Runs --------------------------------------------------------------------------------


def run(folder: pathlib.Path, name: str, when: int, **stages: Any) -> str:
    """Write the manifest of a run."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"stages": stages}))
    os.utime(path / "manifest.json", (when, when))
    return str(path)


def done(*inputs: str, blessed: bool | None = None) -> dict[str, Any]:
    stages: dict[str, Any] = {"analyze": {"result": {"inputs": list(inputs)}}, "examples": {}}
    if blessed is not None:
        stages["evaluate"] = {"result": {"blessing": {"blessed": blessed}}}
    return stages


def test_the_newest_run_that_is_finished_and_fits(tmp_path: pathlib.Path) -> None:
    newest = NewestRun(str(tmp_path), ("a", "b"))
    with pytest.raises(RunError, match="there is no finished run"):
        newest._look()
    first = run(tmp_path, "first", 10, **done("a"))
    run(tmp_path, "analyzed", 20, analyze={"result": {"inputs": ["a"]}})
    run(tmp_path, "others", 30, **done("a", "c"))
    assert NewestRun(str(tmp_path), ("a", "b"))() == first
    second = run(tmp_path, "second", 15, **done("a", "b"))
    assert NewestRun(str(tmp_path), ("a", "b"))() == second
    # A run itself is the newest one, too.
    assert NewestRun(first, ("a", "b"))() == first


def test_the_newest_run_with_a_model_that_was_blessed(tmp_path: pathlib.Path) -> None:
    first = run(tmp_path, "first", 10, **done("a", blessed=True))
    run(tmp_path, "bad", 20, **done("a", blessed=False))
    run(tmp_path, "none", 30, **done("a"))
    assert NewestRun(str(tmp_path), ("a",), with_model=True)() == first


def test_a_newer_run_is_seen_after_a_while(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("skewless.pipeline.live.time.monotonic", lambda: clock[0])
    newest = NewestRun(str(tmp_path), ("a",))
    first = run(tmp_path, "first", 10, **done("a"))
    assert newest() == first
    second = run(tmp_path, "second", 20, **done("a"))
    assert newest() == first
    clock[0] += 5
    assert newest() == second
    # One that is gone is no reason to stop.
    for name in ("first", "second"):
        (tmp_path / name / "manifest.json").unlink()
    clock[0] += 5
    assert newest() == second


# --- The ledger --------------------------------------------------------------------------


def test_a_ledger_with_rows_that_wait_adds_up() -> None:
    counts = {("read", "Read"): 5, ("written", ""): 3, ("waiting", ""): 1, ("late", "Late"): 1}
    ledger = stream_ledger(counts, "flights")
    assert ledger.total("flights", "waiting") == 1
    with pytest.raises(RunError, match="does not add up: 6 read, but 3 written"):
        stream_ledger({**counts, ("read", "Read"): 6}, "flights")


# --- The road in Beam --------------------------------------------------------------------


class _Names(PipelineVisitor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.found: set[str] = set()

    def enter_composite_transform(self, node: Any) -> None:
        self.found.add(type(node.transform).__name__)

    def visit_transform(self, node: Any) -> None:
        self.found.add(type(node.transform).__name__)


@pytest.mark.parametrize("stop_when_idle", [None, 5.0])
def test_our_own_reader_receives_on_the_runner_of_the_command(
    monkeypatch: pytest.MonkeyPatch, stop_when_idle: float | None
) -> None:
    monkeypatch.setattr("skewless.transforms.sources.pubsub.require", lambda *_: None)
    schema = make_schema([make_feature("time_hour", pa.timestamp("us", "UTC"), required=True)])
    text = "pubsub:projects/pro-test/subscriptions/flights"
    source = source_of(text, stop_when_idle=stop_when_idle)
    pipeline = beam.Pipeline(Execution().runner)
    _ = pipeline | dataclasses.replace(source, schema=schema)
    names = _Names()
    pipeline.visit(names)
    assert "ReadFromUnboundedSource" in names.found
    assert "ReadFromPubSub" not in names.found
