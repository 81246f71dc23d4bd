"""What an `Aggregate` means, in plain Python: every row looks at every event."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import math
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st

from skewless.schema import make_feature, make_schema
from skewless.transforms.aggregate import functions
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.tiles import (
    Tiles,
    merge_tiles,
    tile_events,
    times_of,
)
from skewless.transforms.aggregate.together import add_columns
from skewless.transforms.aggregate.windows import windows_at
from skewless.transforms.expressions import field
from skewless.transforms.rows import data_columns
from skewless.transforms.shuffle import key_values

# Microseconds.
TILE = 1000

UTC = pa.timestamp("us", "UTC")
TYPES = {
    "k": pa.string(),
    "i": pa.int64(),
    "t": UTC,
    "arrived": UTC,
    "b": UTC,
    "f": pa.float32(),
    "n": pa.int64(),
    "s": pa.string(),
    "w": pa.timestamp("s", "UTC"),
}
SCHEMA = make_schema([make_feature(name, kind, required=False) for name, kind in TYPES.items()])
EMPTY = pa.RecordBatch.from_pylist([], schema=pa.schema(list(TYPES.items())))

HUGE, TINY, TENTH = (
    float(number)
    for number in (
        np.finfo(np.float32).max,
        np.finfo(np.float32).smallest_subnormal,
        np.float32(0.1),
    )
)


def random_rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Make rows of which many have the same key and values, and some have none."""
    chance = random.Random(seed)

    def cell(*values: Any) -> Any:
        return None if chance.random() < 0.1 else chance.choice(values)

    def time(first: int, last: int) -> Any:
        at = chance.randint(first, last) * TILE
        return cell(at, at + chance.randrange(TILE))

    return [
        {
            "k": cell("a", "a", "a", "b"),
            "i": cell(7, 7, 7, -(2**63)),
            "t": time(-3, 2),
            "arrived": time(-3, 2),
            "b": time(-1, 3),
            "f": cell(TENTH, 0.0, -0.0, HUGE, -HUGE, TINY, 1.5, 1.5, math.nan),
            "n": cell(1, 2, 3, 3, -1, 2**63 - 1),
            "s": cell("x", "x", "y", "y", "é", "z"),
            "w": cell(0, 5),
        }
        for _ in range(n)
    ]


def some(*cells: Any) -> Any:
    """Return a strategy that gives null now and then."""
    return st.one_of(*cells * 6, st.none())


def times(first: int, last: int) -> Any:
    """Return a strategy of times in some tiles, most of them on an edge."""
    rest = st.sampled_from([0, 0, 1, 500, 999])
    return some(st.builds(lambda n, us: n * TILE + us, st.integers(first, last), rest))


CELLS = {
    "k": some(st.sampled_from(["a", "a", "a", "b", ""])),
    "i": some(st.sampled_from([7, 7, 7, -(2**63)])),
    "t": times(-2, 1),
    "arrived": times(-2, 1),
    "b": times(-2, 3),
    "f": some(
        st.sampled_from([0.0, -0.0, 1.0, TENTH, HUGE, -HUGE, TINY, -TINY, math.nan, math.inf]),
        st.floats(-8, 8, width=32),
    ),
    "n": some(st.integers(-1, 2), st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1])),
    "s": some(
        st.sampled_from(["x", "y"]),
        st.sampled_from(["", "x", "y", "é", "\U0001f40d", '"\\', "\x00", "\uffff"]),
    ),
    "w": some(st.integers(-2, 2)),
}
ROW = st.fixed_dictionaries(CELLS)
SEEDS = st.integers(0, 2**32)
EVENTS = st.lists(ROW, max_size=5) | st.builds(random_rows, st.integers(5, 50), SEEDS)
ROWS = st.lists(ROW, max_size=5) | st.builds(random_rows, st.integers(5, 20), SEEDS)

# A condition as a recipe writes it, and what it says of a row.
CONDITIONS: dict[str, tuple[pc.Expression | None, Callable[[dict[str, Any]], bool]]] = {
    "all": (None, lambda row: True),
    "positive": (field("n") > 0, lambda row: row["n"] is not None and row["n"] > 0),
    "named": (field("s").isin(["x", "é"]), lambda row: row["s"] in ("x", "é")),
    "small": (field("f") <= 1, lambda row: row["f"] is not None and row["f"] <= 1),
    "nothing": (field("n") != field("n"), lambda row: False),
}

NUMBERS, COLUMNS = ("f", "n"), ("f", "n", "s", "w")


@dataclasses.dataclass(frozen=True)
class Spec:
    """An aggregate as a test names it: one thing to build and to define it by."""

    kind: str
    column: str | None
    condition: str = "all"
    size: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.column}_{self.condition}_{self.size}".lower()

    def statistic(self, over: list[str]) -> functions.Statistic:
        given = {
            "last_n": {"n": self.size},
            "top_k": {"k": self.size},
            "distinct_count": {"exact_up_to": self.size},
        }.get(self.kind, {})
        columns = () if self.column is None else (self.column,)
        where = CONDITIONS[self.condition][0]
        make = getattr(functions, self.kind)
        made: functions.Statistic = make(*columns, over=over, where=where, **given)
        return made

    def define(self, events: list[dict[str, Any]], now: int | None) -> Any:
        """Return the value of a window that holds the events."""
        meets = CONDITIONS[self.condition][1]
        pairs = [
            (event["known"], 0 if self.column is None else event[self.column])
            for event in events
            if meets(event) and (self.column is None or counts(event[self.column]))
        ]
        return DEFINITIONS[self.kind]([v for _, v in pairs], sorted(pairs), self, now)


def counts(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def single(number: Fraction | float) -> float | None:
    """Return a number rounded to float64 and then to float32; None beyond its range."""
    try:
        number = number.numerator / number.denominator if isinstance(number, Fraction) else number
    except OverflowError:
        return None
    with np.errstate(over="ignore"):
        rounded = float(np.float32(number)) + 0.0
    return rounded if math.isfinite(rounded) else None


def mean_of(values: list[Any]) -> Fraction:
    return sum(map(Fraction, values), Fraction(0)) / len(values)


def variance_of(values: list[Any]) -> Fraction:
    return mean_of([(Fraction(value) - mean_of(values)) ** 2 for value in values])


def most_common(values: list[Any], k: int) -> list[Any]:
    found = collections.Counter(values)
    return sorted(found, key=lambda value: (-found[value], value))[:k]


DEFINITIONS: dict[str, Callable[[list[Any], list[Any], Spec, int | None], Any]] = {
    "count": lambda values, pairs, spec, now: len(values),
    "sum": lambda values, pairs, spec, now: single(sum(map(Fraction, values), Fraction(0))),
    "mean": lambda values, pairs, spec, now: single(mean_of(values)) if values else None,
    "variance": lambda values, pairs, spec, now: single(variance_of(values)) if values else None,
    "min": lambda values, pairs, spec, now: min(values, default=None),
    "max": lambda values, pairs, spec, now: max(values, default=None),
    "first": lambda values, pairs, spec, now: pairs[0][1] if pairs else None,
    "last": lambda values, pairs, spec, now: pairs[-1][1] if pairs else None,
    "last_n": lambda values, pairs, spec, now: [value for _, value in pairs[-spec.size :]],
    "distinct_count": lambda values, pairs, spec, now: len(set(values)),
    "top_k": lambda values, pairs, spec, now: most_common(values, spec.size),
    "time_since_last": lambda values, pairs, spec, now: (
        single(Fraction(now - pairs[-1][0], 10**6)) if pairs and now is not None else None
    ),
}

CONDITION = st.sampled_from(sorted(CONDITIONS))
SPEC = st.one_of(
    st.builds(Spec, st.sampled_from(["count", "time_since_last"]), st.none(), CONDITION),
    st.builds(Spec, st.sampled_from(["count", "time_since_last"]), st.sampled_from(COLUMNS)),
    st.builds(
        Spec,
        st.sampled_from(["sum", "mean", "variance", "min", "max"]),
        st.sampled_from(NUMBERS),
        CONDITION,
    ),
    st.builds(Spec, st.sampled_from(["first", "last"]), st.sampled_from(COLUMNS), CONDITION),
    st.builds(
        Spec,
        st.sampled_from(["last_n", "top_k"]),
        st.sampled_from(["f", "n", "s"]),
        CONDITION,
        st.integers(1, 3),
    ),
    st.builds(Spec, st.just("distinct_count"), st.sampled_from(COLUMNS), CONDITION, st.just(100)),
)
# In tiles.
OVERS = st.lists(st.integers(1, 6), min_size=1, max_size=2, unique=True)
KEYS = st.sampled_from([(), ("k",), ("i",), ("k", "i")])

# Each kind once: what few large examples take.
EVERY = [
    Spec("count", None),
    Spec("count", "s", "positive"),
    Spec("sum", "f"),
    Spec("sum", "n", "small"),
    Spec("mean", "f", "named"),
    Spec("variance", "n"),
    Spec("variance", "f", "positive"),
    Spec("min", "f"),
    Spec("max", "n"),
    Spec("first", "s"),
    Spec("last", "w"),
    Spec("last", "f"),
    Spec("last_n", "s", size=3),
    Spec("last_n", "f", size=2),
    Spec("distinct_count", "s", size=100),
    Spec("top_k", "s", size=2),
    Spec("top_k", "n", size=2),
    Spec("time_since_last", None),
    Spec("time_since_last", "f", "positive"),
]


SPECS = st.lists(SPEC, min_size=4, max_size=12, unique_by=lambda spec: spec.name) | st.just(EVERY)


def over_label(tiles: int) -> str:
    return f"{tiles * TILE}us"


def aggregate(by: tuple[str, ...], specs: list[Spec], overs: list[int], **given: Any) -> Aggregate:
    """Build the step; a ratio of the first numbers is a column too."""
    over = [over_label(tiles) for tiles in overs]
    made: dict[str, Any] = {spec.name: spec.statistic(over) for spec in specs}
    made["ratio"] = functions.ratio(*[spec.statistic(over) for spec in RATIO])
    known: dict[str, Any] = {"known_at": "t", "at": "b", **given}
    return Aggregate(by=by, tile=f"{TILE}us", **known, **made)


RATIO = (Spec("sum", "n"), Spec("count", "f", "small"))


def naive(
    by: tuple[str, ...],
    specs: list[Spec],
    overs: list[int],
    events: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    known: Callable[[dict[str, Any]], int | None] = lambda event: event["t"],
) -> dict[str, list[Any]]:
    """Return the columns of `rows` by their definition."""
    names = [*[spec.name for spec in specs], "ratio"]
    found: dict[str, list[Any]] = {
        f"{name}_{over_label(tiles)}": [] for name in names for tiles in overs
    }
    counting = [
        {**event, "known": known(event)}
        for event in events
        if known(event) is not None and None not in [event[name] for name in by]
    ]
    for row in rows:
        key, at = [row[name] for name in by], row["b"]
        for tiles in overs:
            inside = []
            for event in counting if at is not None and None not in key else []:
                now, start = at // TILE * TILE, event["known"] // TILE * TILE
                seen = now - tiles * TILE <= start and start + TILE <= now
                if seen and [event[name] for name in by] == key:
                    inside.append(event)
            for spec in specs:
                found[f"{spec.name}_{over_label(tiles)}"].append(spec.define(inside, at))
            above, below = (spec.define(inside, at) for spec in RATIO)
            quotient = single(float(above) / below) if below and above is not None else None
            found[f"ratio_{over_label(tiles)}"].append(quotient)
    return found


# --- Rows as batches, in pieces, and what comes out -------------------------------------


def as_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    columns = [pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()]
    return pa.RecordBatch.from_arrays(columns, names=list(TYPES))


def pieces(rows: list[Any], chance: Any) -> list[list[Any]]:
    """Split rows in random order into random pieces, of which some are empty."""
    rows = list(rows)
    chance.shuffle(rows)
    found: list[list[Any]] = [[]]
    for row in rows:
        if chance.random() < 0.3:
            found.append([])
        found[-1].append(row)
    chance.shuffle(found)
    return found


def merge_in_a_tree(tables: list[Tiles], plan: Any, chance: Any) -> Tiles:
    """Merge tables two or more at a time, in random order."""
    tables = list(tables)
    while len(tables) > 1:
        chance.shuffle(tables)
        some = chance.randint(2, len(tables))
        tables = [*tables[some:], merge_tiles(tables[:some], plan)]
    return merge_tiles(tables, plan)


def tiles_of(step: Aggregate, parts: list[list[dict[str, Any]]]) -> list[Tiles]:
    return [tile_events(as_batch(part), step.plan) for part in parts]


def columns_at(step: Aggregate, tiles: Tiles, rows: list[dict[str, Any]]) -> dict[str, pa.Array]:
    """Return the columns that rows get from tiles."""
    batch = as_batch(rows)
    keys = [key_values(batch.column(name)) for name in step.by]
    assert step.at is not None
    found = windows_at(tiles, keys, times_of(step.at, batch, "at"), step.plan)
    wide = add_columns(batch, [step.plan], found)
    return {name: wide.column(name) for name in step.column_names}


def bits(value: Any) -> Any:
    """Return what two values are equal by: floats by every bit."""
    if isinstance(value, pa.Array):
        if pa.types.is_timestamp(value.type):
            value = value.cast(pa.int64())
        return [bits(one) for one in value.to_pylist()]
    if isinstance(value, list):
        return [bits(one) for one in value]
    if isinstance(value, float):
        # No aggregate gives -0.0: the values of a column are compared as keys are.
        return struct.pack("<d", value)
    return value


def bits_of(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: bits(values) for name, values in columns.items()}


def expected_bits(columns: dict[str, list[Any]]) -> dict[str, Any]:
    def positive(value: Any) -> Any:
        if isinstance(value, list):
            return [positive(one) for one in value]
        return value + 0.0 if isinstance(value, float) else value

    return {name: bits(positive(values)) for name, values in columns.items()}


def batch_rows(batches: list[pa.RecordBatch]) -> list[tuple[Any, ...]]:
    """Return the rows of batches as tuples of bits, in their order."""
    found: list[tuple[Any, ...]] = []
    for batch in batches:
        columns = [bits(batch.column(name)) for name in data_columns(batch)]
        found += zip(*columns, strict=True)
    return found


def hours(n: float) -> datetime.timedelta:
    return datetime.timedelta(hours=n)
