"""The definition of aggregates as a file beside a model, so that a server can read them."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from skewless.errors import RecipeError
from skewless.schema import Schema, format_schema, make_schema, parse_schema
from skewless.transforms.aggregate.functions import Ratio, Statistic, Windowed
from skewless.transforms.aggregate.kinds import KINDS
from skewless.transforms.aggregate.tiles import Column, TilePlan, Time, WithoutStore
from skewless.transforms.durations import Duration
from skewless.transforms.expressions import WrittenExpression, expression_bytes

__all__ = ["AGGREGATES_FILE", "plans_from_json", "plans_to_json", "read_schema"]

# Its name, in a model's `assets.extra`.
AGGREGATES_FILE = "aggregates.json"
_VERSION = 1


def plans_to_json(plans: Sequence[TilePlan], schema: Schema) -> str:
    """Return plans as text, equal for equal plans.

    Args:
        plans: The plans.
        schema: The schema of the events; see `read_schema`.
    """
    written = [_plan_to_json(plan) for plan in plans]
    whole = {"version": _VERSION, "schema": format_schema(schema), "aggregates": written}
    return json.dumps(whole, indent=1)


def plans_from_json(text: str, where: str = AGGREGATES_FILE) -> tuple[list[TilePlan], Schema]:
    """Return the plans and the schema that `plans_to_json` was called with.

    Tiles are read by them as by the recipe's own. Events are not merged by them: expressions
    are only what tells them from others.

    Raises:
        RecipeError: If the text is something else; the message names `where`.
    """
    try:
        whole = json.loads(text)
        if whole["version"] != _VERSION:
            raise RecipeError(
                f"{where}: the file is of version {whole['version']}, expected {_VERSION}; serve "
                "the model with the release of skewless that exported it"
            )
        plans = [_plan_from_json(plan) for plan in whole["aggregates"]]
        return plans, parse_schema(whole["schema"], where)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: no aggregates of this release of skewless ({type(error).__name__}: "
            f"{error}); export the model again"
        ) from None


def read_schema(plans: Sequence[TilePlan], schema: Schema) -> Schema:
    """Return what reading windows needs of the events' schema: keys, and what is aggregated."""
    needed = {name for plan in plans for name in plan.by}
    needed |= {p.column for plan in plans for p in plan.partials if p.column is not None}
    made = make_schema(feature for feature in schema.feature if feature.name in needed)
    for feature in made.feature:
        # Which texts there may be is of no use here, and may be long.
        for domain in ("domain", "string_domain"):
            feature.ClearField(domain)
    return made


def _plan_to_json(plan: TilePlan) -> dict[str, Any]:
    # Columns that are windows of one aggregate are made together.
    distinct = {id(column.windowed): column.windowed for column in plan.columns}
    place = {key: i for i, key in enumerate(distinct)}
    return {
        "name": plan.name,
        "by": list(plan.by),
        "known_at": _time_to_json(plan.known_at),
        "arrived_at": None if plan.arrived_at is None else _time_to_json(plan.arrived_at),
        "lateness": plan.lateness,
        "tile": plan.tile,
        "without_store": plan.without_store,
        "functions": [_windowed_to_json(one) for one in distinct.values()],
        "columns": [[c.name, c.over, place[id(c.windowed)]] for c in plan.columns],
    }


def _plan_from_json(plan: Mapping[str, Any]) -> TilePlan:
    functions = [_windowed_from_json(one) for one in plan["functions"]]
    if plan["without_store"] not in get_args(WithoutStore):
        raise ValueError(f"without_store={plan['without_store']}")
    return TilePlan(
        name=plan["name"],
        by=tuple(plan["by"]),
        known_at=_time_from_json(plan["known_at"]),
        arrived_at=None if plan["arrived_at"] is None else _time_from_json(plan["arrived_at"]),
        lateness=plan["lateness"],
        tile=plan["tile"],
        columns=tuple(Column(name, over, functions[at]) for name, over, at in plan["columns"]),
        without_store=plan["without_store"],
    )


def _windowed_to_json(windowed: Windowed) -> dict[str, Any]:
    if isinstance(windowed, Ratio):
        return {
            "function": "ratio",
            "numerator": _windowed_to_json(windowed.numerator),
            "denominator": _windowed_to_json(windowed.denominator),
        }
    return {
        "function": windowed.name,
        "column": windowed.column,
        "over": [_duration_to_json(over) for over in windowed.over],
        "labelled": windowed.labelled,
        "where": None if windowed.where is None else _expression_to_json(windowed.where),
        "size": windowed.size,
    }


def _windowed_from_json(written: Mapping[str, Any]) -> Windowed:
    if written["function"] == "ratio":
        return Ratio(_statistic(written["numerator"]), _statistic(written["denominator"]))
    return _statistic(written)


def _statistic(written: Mapping[str, Any]) -> Statistic:
    if written["function"] not in KINDS:
        raise ValueError(f"there is no function {written['function']}")
    return Statistic(
        name=written["function"],
        column=written["column"],
        over=tuple(_duration_from_json(over) for over in written["over"]),
        labelled=written["labelled"],
        where=None if written["where"] is None else _expression_from_json(written["where"]),
        size=written["size"],
    )


def _duration_to_json(over: Duration) -> str | int:
    return over if isinstance(over, str) else over // datetime.timedelta(microseconds=1)


def _duration_from_json(over: str | int) -> Duration:
    return over if isinstance(over, str) else datetime.timedelta(microseconds=over)


def _time_to_json(time: Time) -> Any:
    return time if isinstance(time, str) else _expression_to_json(time)


def _time_from_json(time: Any) -> Any:
    return time if isinstance(time, str) else _expression_from_json(time)


def _expression_to_json(expression: Any) -> dict[str, str]:
    content = base64.b64encode(expression_bytes(expression)).decode()
    return {"text": str(expression), "content": content}


def _expression_from_json(written: Mapping[str, str]) -> WrittenExpression:
    return WrittenExpression(written["text"], base64.b64decode(written["content"]))
