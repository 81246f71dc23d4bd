"""What a model carries of its aggregates is all of it: tiles are read by it as by the recipe."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings

from skewless.errors import RecipeError
from skewless.schema import column_names, format_schema, make_feature, make_schema
from skewless.transforms.aggregate import functions
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.online import claim_tiles, holds_tiles
from skewless.transforms.aggregate.plans_json import plans_from_json, plans_to_json, read_schema
from skewless.transforms.expressions import expression_bytes, field
from skewless.transforms.online import open_store
from tests.transforms.aggregate.naive import KEYS, OVERS, SCHEMA, SPECS, aggregate

LATE = field("n") > 15
LONG = field("n").isin(list(range(500)))
DAY = datetime.timedelta(days=1, microseconds=0)
# One of every public function: a new one is to be put here.
EVERY: dict[str, Any] = {
    "count": functions.count(over=["1h", DAY]),
    "sum": functions.sum("f", over="1h"),
    "mean": functions.mean("f", over="1h", where=LONG),
    "variance": functions.variance("n", over=("1h", "2h")),
    "min": functions.min("n", over=DAY),
    "max": functions.max("f", over="1h"),
    "first": functions.first("s", over="1h"),
    "last": functions.last("w", over="1h", where=LATE & field("s").is_valid()),
    "last_n": functions.last_n("s", 3, over="1h"),
    "distinct_count": functions.distinct_count("s", over="1h", exact_up_to=64),
    "top_k": functions.top_k("n", 2, over=["1h"]),
    "time_since_last": functions.time_since_last(over="1h"),
    "ratio": functions.ratio(
        functions.count(over=["1h", "1d"], where=LATE), functions.count("n", over=["1h", "1d"])
    ),
}
KNOWN = {"known_at": "t", "at": "b", "tile": "5m"}


def plain(value: Any) -> Any:
    """Return a plan as something that is equal for equal ones."""
    if dataclasses.is_dataclass(value) and not hasattr(value, "text"):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return type(value), fields
    if isinstance(value, pa.compute.Expression) or hasattr(value, "text"):
        return str(value), expression_bytes(value)
    if isinstance(value, tuple):
        return tuple(plain(one) for one in value)
    return type(value), value


def back(step: Aggregate) -> Any:
    text = plans_to_json([step.plan], SCHEMA)
    (plan,), schema = plans_from_json(text)
    assert schema == SCHEMA
    assert plans_to_json([plan], schema) == text
    return plan


def test_there_is_an_example_of_every_function() -> None:
    public = {
        name
        for name in functions.__all__
        if callable(made := getattr(functions, name)) and not isinstance(made, type)
    } - {"columns_of", "Windowed"}
    assert set(EVERY) == public


@pytest.mark.parametrize("name", EVERY)
def test_every_function_comes_back_as_it_was(name: str) -> None:
    step = Aggregate(by=["k"], **KNOWN, made=EVERY[name])
    plan = back(step)
    assert plain(plan) == plain(step.plan)
    assert [p.key for p in plan.partials] == [p.key for p in step.plan.partials]
    types = pa.schema([("f", pa.float32()), ("n", pa.int64()), ("s", pa.string())])
    types = types.append(pa.field("w", pa.timestamp("s", "UTC")))
    for one, other in zip(plan.columns, step.plan.columns, strict=True):
        assert one.windowed.result_type(types) == other.windowed.result_type(types)


def test_all_arguments_of_a_step_come_back() -> None:
    later = field("t") + pa.scalar(DAY)
    step = Aggregate(
        by=["k", "i"],
        known_at=later,
        at="b",
        arrived_at=later,
        lateness="1h",
        tile="5m",
        name="né",
        without_store="empty",
        **EVERY,
    )
    plan = back(step)
    assert plain(plan) == plain(step.plan)
    # Windows of one aggregate are still windows of one.
    assert len({id(column.windowed) for column in plan.columns}) == len(EVERY)


@settings(max_examples=20, deadline=None)
@given(by=KEYS, specs=SPECS, overs=OVERS)
def test_any_step_comes_back(by: Any, specs: Any, overs: Any) -> None:
    step = aggregate(by, specs, overs)
    assert plain(back(step)) == plain(step.plan)


def test_a_store_tells_them_from_others(tmp_path: Any) -> None:
    step = Aggregate(by=["k"], **KNOWN, **EVERY)
    store = open_store(tmp_path / "store")
    claim_tiles(store, [step.plan])
    assert holds_tiles(store, [back(step)])
    # Fewer columns are of the same tiles.
    assert holds_tiles(store, [back(step).select(["max"])])
    store.close()


def test_some_columns_are_read_of_whole_tiles() -> None:
    plan = Aggregate(by=["k"], **KNOWN, **EVERY).plan
    fewer = plan.select(["max", "mean"])
    assert [column.name for column in fewer.columns] == ["mean", "max"]
    assert fewer.partials == plan.partials
    assert (fewer.longest, plan.longest) == (3_600_000_000, 86_400_000_000)


def test_the_schema_is_of_what_is_read() -> None:
    other = make_feature("other", pa.string(), required=True)
    schema = make_schema([*SCHEMA.feature, other])
    listed = next(feature for feature in schema.feature if feature.name == "s")
    listed.string_domain.value.extend(["a", "b"])
    plans = [Aggregate(by=["k"], **KNOWN, made=EVERY["last"], more=EVERY["first"]).plan]
    made = read_schema(plans, schema)
    assert column_names(made) == ["k", "s", "w"]
    assert "string_domain" not in format_schema(made)
    assert listed.string_domain.value  # the given one is as it was


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, "version 2, expected 1; serve the model with the release"),
        ({"aggregates": [{}]}, "KeyError: 'functions'"),
        ({"aggregates": 3}, "TypeError"),
        ({"schema": "?"}, "not a tensorflow_metadata Schema"),
    ],
)
def test_what_is_no_such_file_is_refused(change: dict[str, Any], expected: str) -> None:
    text = plans_to_json([Aggregate(by=["k"], **KNOWN, **EVERY).plan], SCHEMA)
    with pytest.raises(RecipeError, match="^the file: .*" + expected):
        plans_from_json(json.dumps({**json.loads(text), **change}), "the file")


def test_other_text_and_unknown_functions_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"aggregates.json: no aggregates of this release .*JSON"):
        plans_from_json("{")
    whole = json.loads(
        plans_to_json([Aggregate(by=["k"], **KNOWN, made=EVERY["max"]).plan], SCHEMA)
    )
    whole["aggregates"][0]["functions"][0]["function"] = "median"
    with pytest.raises(RecipeError, match=r"there is no function median.*; export the model again"):
        plans_from_json(json.dumps(whole))
    whole["aggregates"][0]["functions"][0]["function"] = "max"
    whole["aggregates"][0]["without_store"] = "guess"
    with pytest.raises(RecipeError, match="without_store=guess"):
        plans_from_json(json.dumps(whole))
