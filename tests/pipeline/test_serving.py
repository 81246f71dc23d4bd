"""What a request leaves out is read from the store, as batch would have it at that moment."""

from __future__ import annotations

import contextlib
import pathlib
import time

import numpy as np
import pyarrow as pa
import pytest

from skewless.arrays import raw_arrays
from skewless.errors import RecipeError, RunError
from skewless.models.serving.json_rows import RowReader
from skewless.models.serving.lacking import Lookup, example_rows
from skewless.models.serving.packing import Layout, concat
from skewless.models.serving.requests import Code, ServingError
from skewless.pipeline.serving import StoreEnrichment
from skewless.schema import format_schema, make_feature, make_schema
from skewless.transforms.aggregate.online import OnlineFeatures, claim_tiles, merge_events
from skewless.transforms.aggregate.plans_json import AGGREGATES_FILE, plans_to_json, read_schema
from skewless.transforms.online import open_store
from tests.servers.process import free_port
from tests.servers.redis import redis
from tests.transforms.live.small import BEGIN, SCHEMA, SECOND, batch_of, event, everybody, step

EVENTS = [event(i, 5 * i, "ab"[i % 2]) for i in range(12)]
NOW = (BEGIN + 63) * SECOND
NEEDED = ("events_10s", "events_30s", "average", "since", "all_events")
# What the model takes: some of the aggregates, a number, and no key.
INPUTS = make_schema(
    [
        make_feature("x", pa.float32(), required=False),
        *(make_feature(name, pa.float32(), required=False) for name in NEEDED[2:4]),
        *(make_feature(n, pa.int64(), required=n == "all_events") for n in NEEDED if "ev" in n),
    ]
)


def steps(**given):
    return (step(**given), everybody(**given))


def model_of(folder: pathlib.Path, made) -> pathlib.Path:
    plans = [one.plan for one in made]
    extra = folder / "1" / "assets.extra"
    extra.mkdir(parents=True)
    (extra / "schema.pbtxt").write_text(format_schema(INPUTS))
    (extra / AGGREGATES_FILE).write_text(plans_to_json(plans, read_schema(plans, SCHEMA)))
    return folder / "1"


def fill(address: str, made) -> None:
    plans = [one.plan for one in made]
    with contextlib.closing(open_store(address)) as store:
        claim_tiles(store, plans)
        with store.transaction() as change:
            merge_events(change, batch_of(EVENTS), plans)


def enrichment(tmp_path, address, **given):
    made = steps(**given)
    return StoreEnrichment(model_of(tmp_path, made), address, clock=lambda: NOW)


def wanted(address, keys):
    with contextlib.closing(open_store(address)) as store:
        features = OnlineFeatures(store, steps(), SCHEMA).features_at({"k": keys}, NOW)
    return {name: features[name] for name in NEEDED}


def filled(lookup, layout, requests):
    """Return the columns of a batch of requests, after the store was asked."""
    reader = RowReader(INPUTS, lookup.columns)
    whole = concat([reader.read(rows) for rows in requests], layout)
    lookup.fill(whole, [lookup.of_rows(rows) for rows in requests], [len(r) for r in requests])
    return layout.unpack(whole)


@pytest.fixture
def address(tmp_path):
    fill(str(tmp_path / "store.db"), steps())
    return str(tmp_path / "store.db")


def test_what_rows_lack_is_read_as_of_now(tmp_path, address):
    with contextlib.closing(enrichment(tmp_path, address)) as enrich:
        assert set(enrich.columns) == {"k@10s", "all@20s"}
        layout = Layout.of(INPUTS)
        requests = [[{"k": "a", "x": 1}, {"k": "b"}], [{"k": "nobody"}], [{}]]
        found = filled(Lookup(enrich, layout), layout, requests)
        batch = pa.RecordBatch.from_pydict(wanted(address, ["a", "b", "nobody", None]))
        needed = make_schema([f for f in INPUTS.feature if f.name != "x"])
        for name, values in raw_arrays(batch, needed).items():
            assert found[name].tobytes() == values.tobytes(), name
        assert found["events_30s"][:2].min() > 0


def test_what_a_row_brings_is_taken_as_it_is_sent(tmp_path, address):
    with contextlib.closing(enrichment(tmp_path, address)) as enrich:
        layout = Layout.of(INPUTS)
        rows = [{"k": "a", "events_10s": 77}, {"k": "a", "all_events": 5}]
        found = filled(Lookup(enrich, layout), layout, [rows])
        missing = np.iinfo(np.int64).min
        # One column of an Aggregate brought: the others of it are missing, as they were sent.
        assert found["events_10s"].tolist()[0] == 77
        assert found["events_30s"].tolist()[0] == missing
        assert found["all_events"].tolist()[0] > 0
        assert found["all_events"].tolist()[1] == 5
        assert found["events_30s"].tolist()[1] > 0
        lookup = Lookup(enrich, layout)
        everything = [dict.fromkeys(NEEDED, 1)]
        assert lookup.of_rows(everything) is None
        with pytest.raises(ServingError, match='instance 0: "all_events" is missing'):
            lookup.of_rows([{"all_events": None}])


def test_columns_and_examples_lack_the_same(tmp_path, address):
    with contextlib.closing(enrichment(tmp_path, address)) as enrich:
        layout = Layout.of(INPUTS)
        lookup = Lookup(enrich, layout)
        lacking = lookup.of_arrays({"k": np.array([b"a", b"b"], object)}, 2)
        whole = layout.pack({}, 2)
        lookup.fill(whole, [lacking], [2])
        rows = [{"k": "a"}, {"k": "b"}]
        expected = filled(lookup, layout, [rows])
        for name, values in layout.unpack(whole).items():
            assert values.tobytes() == expected[name].tobytes()
        with pytest.raises(ServingError, match='"k" is int64'):
            lookup.of_arrays({"k": np.array([1, 2])}, 2)


def test_examples_are_rows():
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    example.features.feature["k"].bytes_list.value.append(b"a")
    example.features.feature["x"].float_list.value.append(1.5)
    example.features.feature["events_10s"].int64_list.SetInParent()
    layout = Layout.of(INPUTS)
    assert example_rows([example.SerializeToString()], layout) == [
        {"k": "a", "x": 1.5, "events_10s": None}
    ]
    with pytest.raises(ServingError, match="example 0: expected a serialized"):
        example_rows([b"\xff"], layout)


@pytest.mark.parametrize("there", [None, "away.db"])
def test_without_a_store_a_request_is_refused_or_gets_empty_aggregates(tmp_path, there):
    address = there and f"redis://127.0.0.1:{free_port()}/0"
    keys = pa.RecordBatch.from_pydict({"k": ["a"]})
    strict = enrichment(tmp_path / "strict", address)
    with pytest.raises(ServingError, match="send them") as refused:
        strict(keys, strict.columns)
    assert refused.value.code is (Code.UNAVAILABLE if there else Code.FAILED_PRECONDITION)
    lenient = enrichment(tmp_path / "lenient", address, without_store="empty")
    found = lenient(keys, lenient.columns)
    assert found.failed
    assert found.columns.column("events_10s").to_pylist() == [0]
    assert found.columns.column("average").to_pylist() == [None]


def test_a_store_of_other_aggregates_is_refused(tmp_path):
    address = str(tmp_path / "other.db")
    fill(address, [step(tile="5s"), everybody()])
    with pytest.raises(RunError, match="no tiles of Aggregate"):
        enrichment(tmp_path, address)


def test_a_model_without_aggregates_is_said(tmp_path):
    with pytest.raises(RecipeError, match="recipe with Aggregates"):
        StoreEnrichment(tmp_path, None)


@pytest.mark.integration
def test_a_store_that_restarts_is_found_again(tmp_path):
    folder, port = tmp_path / "redis", free_port()
    folder.mkdir()
    keys = pa.RecordBatch.from_pydict({"k": ["a"]})
    with redis(folder, durable=True, port=port) as server:
        fill(server.url, steps())
        enrich = enrichment(tmp_path, server.url)
        expected = enrich(keys, enrich.columns).columns
    for _ in range(2):
        with pytest.raises(ServingError, match="the online store does not answer"):
            enrich(keys, enrich.columns)
        with redis(folder, durable=True, port=port):
            for _ in range(100):
                try:
                    assert enrich(keys, enrich.columns).columns == expected
                    break
                except ServingError:
                    time.sleep(0.1)
            else:
                pytest.fail("the store was not found again")
    enrich.close()
