"""`Aggregate` through Beam: however rows are split and ordered, the same bits come out."""

import datetime
import json
import pickle
import random

import apache_beam as beam
import pyarrow as pa
import pytest

from skewless.errors import RecipeError
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.functions import count, last, max, mean, sum, time_since_last
from skewless.transforms.aggregate.late import late_rows
from skewless.transforms.aggregate.tiles import merge_tiles
from skewless.transforms.aggregate.together import AggregateTogether, add_columns
from skewless.transforms.expressions import field
from skewless.transforms.rows import ORIGIN, with_origin
from tests.transforms.aggregate.naive import (
    EVERY,
    SCHEMA,
    TYPES,
    aggregate,
    as_batch,
    bits_of,
    columns_at,
    expected_bits,
    naive,
    random_rows,
    tiles_of,
)

SECOND = 1_000_000


def in_batches(rows, size, seed=1):
    """Return rows in batches of at most `size`, in random order, each with its origin."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    whole = with_origin(as_batch(rows), "r.csv", pa.array(range(len(rows)), pa.int64()))
    return [whole.take(pa.array(order[at : at + size])) for at in range(0, len(rows), size)]


def run(eager, batches, *steps):
    def build(pipeline):
        rows = pipeline | beam.Create(batches)
        for n, step in enumerate(steps):
            rows = rows | f"Step{n}" >> step
        return rows

    result = eager(build)
    rows = pa.Table.from_batches(result.rows).sort_by("_offset").combine_chunks().to_batches()
    return rows[0], sorted(result.rejected)


def columns_of(batch, names):
    return {name: batch.column(name) for name in names}


@pytest.mark.parametrize(("size", "partitions"), [(1, 1), (4, 16), (30, 1), (30, 16)])
def test_batches_order_and_partitions_change_no_bit(eager, size, partitions):
    rows, by = random_rows(30, seed=0), ("k",)
    step = aggregate(by, EVERY, [1, 4], partitions=partitions)
    found, rejected = run(eager, in_batches(rows, size), step)
    assert rejected == []
    assert found.schema.names == [*TYPES, *step.column_names, *ORIGIN]
    assert found.column("_offset").to_pylist() == list(range(30))
    assert bits_of(columns_of(found, TYPES)) == bits_of(columns_of(as_batch(rows), TYPES))
    expected = naive(by, EVERY, [1, 4], rows, rows)
    assert bits_of(columns_of(found, step.column_names)) == expected_bits(expected)


def lateness_steps(**given):
    first = {"known_at": "t", "at": "b", "tile": "1ms"}
    return [
        Aggregate(by=["k"], **first, **given, key_count=count(over=["2ms", "8ms"])),
        Aggregate(
            by=[], **first, arrived_at="arrived", lateness="2ms", all_sum=sum("f", over="3ms")
        ),
        Aggregate(
            by=["k", "i"],
            **{**first, "tile": "2ms", "known_at": field("t")},
            both_last=last("s", over="4ms"),
            both_since=time_since_last(over="2ms", where=field("n") > 1),
        ),
    ]


def test_steps_together_are_the_same_as_one_after_the_other(eager):
    steps, rows = lateness_steps(), random_rows(40, seed=3)
    assert all(AggregateTogether(steps[:1]).takes(step) for step in steps)
    together, rejected = run(eager, in_batches(rows, 7), AggregateTogether(steps, partitions=3))
    apart, rejected_apart = run(eager, in_batches(rows, 11), *steps)
    assert together.schema.names == apart.schema.names
    names = together.schema.names[:-2]
    assert bits_of(columns_of(together, names)) == bits_of(columns_of(apart, names))
    assert together.column("_offset").equals(apart.column("_offset"))
    kinds = [(one.step, one.offset, one.reason, one.value) for one in rejected]
    assert kinds == [(one.step, one.offset, one.reason, one.value) for one in rejected_apart]
    assert 0 < len(rejected) < 20
    assert together.num_rows + len(rejected) == 40


def test_only_steps_of_one_time_and_of_equal_partitions_are_done_together():
    one = aggregate((), EVERY, [1])
    together = AggregateTogether((one,), 16)
    assert together.takes(aggregate(("k",), EVERY, [3], partitions=16))
    assert not together.takes(aggregate((), EVERY, [1], partitions=8))
    assert not together.takes(aggregate((), EVERY, [1], at="t"))
    assert not together.takes(aggregate((), EVERY, [1], at=field("b") + pa.scalar(hour())))


def hour():
    return datetime.timedelta(hours=1)


def test_a_key_that_all_rows_have_is_no_different(eager):
    rows = [
        {**dict.fromkeys(TYPES), "k": "a", "t": n * 100, "b": n * 100, "n": n} for n in range(600)
    ]
    step = Aggregate(
        by=["k"], known_at="t", at="b", tile="1ms", seen=count(over="8ms"), top=max("n", over="8ms")
    )
    found, _ = run(eager, in_batches(rows, 100), step)
    # Ten rows a tile, of which the one in progress is not seen.
    tiles = [n // 10 for n in range(600)]
    assert found.column("seen").to_pylist() == [min(tile, 8) * 10 for tile in tiles]
    assert found.column("top").to_pylist() == [tile * 10 - 1 if tile else None for tile in tiles]


def min(one, other):
    return one if one < other else other


LATE_ROWS = [
    {**dict.fromkeys(TYPES), "k": key, "t": known, "arrived": arrived, "b": at, "s": text}
    for key, known, arrived, at, text in [
        ("a", 0, 500, 0, "at once"),
        ("a", 999, 3000, 1000, "as late as may be"),
        ("a", 0, 3001, 3000, "too late"),
        ("a", 1000, None, 4000, "never"),
        ("a", None, 9000, 5000, "unknown"),
    ]
]


def late_step(**given):
    return Aggregate(
        by=["k"],
        known_at="t",
        at="b",
        tile="1ms",
        arrived_at="arrived",
        lateness="2ms",
        seen=count(over="8ms"),
        **given,
    )


def test_late_rows_are_kept_aside_with_their_reason(eager):
    found, rejected = run(eager, in_batches(LATE_ROWS, 2), late_step())
    # An event counts from when it had arrived; one of which that is not known never does.
    assert found.column("s").to_pylist() == ["at once", "as late as may be", "never", "unknown"]
    assert found.column("seen").to_pylist() == [0, 1, 2, 2]
    (late,) = rejected
    assert (late.step, late.file, late.offset, late.column) == ("Late", "r.csv", 2, "arrived")
    assert late.value == "1970-01-01T00:00:00.003001Z"
    assert late.reason == "arrived more than 0.002 s after the end of its tile of 0.001 s"
    payload = json.loads(late.payload)
    assert list(payload) == list(TYPES)
    assert (payload["s"], payload["arrived"]) == ("too late", "1970-01-01T00:00:00.003001Z")


def test_corrected_history_has_every_event_from_when_it_was_known(eager):
    found, rejected = run(eager, in_batches(LATE_ROWS, 5), late_step(corrected=True))
    assert rejected == []
    assert found.column("seen").to_pylist() == [0, 3, 4, 4, 4]


def test_a_row_is_late_by_itself_alone():
    whole = as_batch(LATE_ROWS)
    plan = late_step().plan
    kept, late = late_rows(whole, [plan])
    assert (kept.num_rows, len(late)) == (4, 1)
    for n in range(whole.num_rows):
        kept, late = late_rows(whole.slice(n, 1), [plan, plan])
        assert (kept.num_rows, len(late)) == ((0, 1) if n == 2 else (1, 0))
    assert late_rows(whole, [late_step(corrected=True).plan]) == (whole, [])
    before = [{**LATE_ROWS[0], "t": -1, "arrived": arrived} for arrived in (2000, 2001)]
    assert [one.value[-9:] for one in late_rows(as_batch(before), [plan])[1]] == ["0.002001Z"]


def test_columns_are_added_before_those_of_origin_and_never_twice():
    step = aggregate(("k",), EVERY, [1])
    rows = random_rows(3, seed=0)
    found = columns_at(step, merge_tiles(tiles_of(step, [rows]), step.plan), rows)
    batch = with_origin(as_batch(rows), "r.csv", pa.array([0, 1, 2]))
    wide = add_columns(batch, [step.plan], list(found.values()))
    assert wide.schema.names == [*TYPES, *step.column_names, *ORIGIN]
    with pytest.raises(RecipeError, match="there are two columns"):
        add_columns(wide, [step.plan], list(found.values()))


def test_a_step_can_be_sent_to_workers():
    step = aggregate(("k",), EVERY, [1, 3], known_at=field("t"))
    sent = pickle.loads(pickle.dumps(step.plan))
    assert [partial.key for partial in sent.partials] == [p.key for p in step.plan.partials]
    assert sent.columns[0].name == step.column_names[0]


GIVEN = {"by": ["k"], "known_at": "t", "tile": "5m", "departures": count(over="1h")}


def message(given, schema=SCHEMA):
    with pytest.raises(RecipeError) as error:
        Aggregate(**{**GIVEN, **given}).output_schema(schema)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"by": "k"}, 'Aggregate: by="k"; expected a list of columns: by=["k"]'),
        (
            {"departures": "1h"},
            'Aggregate "k@5m": departures=\'1h\'; expected an aggregate, as in count(over="1h")',
        ),
        (
            {"known_at": None},
            'Aggregate "k@5m": known_at=None; expected a column of times, '
            "or an expression of columns",
        ),
        (
            {"at": 5},
            'Aggregate "k@5m": at=5; expected a column of times, or an expression of columns',
        ),
        (
            {"lateness": "1h", "name": "mine"},
            "Aggregate \"mine\": lateness='1h' without arrived_at=; name the column that says "
            "when an event arrived",
        ),
        (
            {"corrected": True, "by": ["k", "i"]},
            'Aggregate "k,i@5m": corrected=True without arrived_at= changes nothing; leave it out',
        ),
        ({"partitions": 0, "by": []}, 'Aggregate "all@5m": partitions=0; expected at least 1'),
        (
            {"tile": "five"},
            "Aggregate \"k@five\": tile='five'; expected a timedelta, or a number and one of "
            'us, ms, s, m, h, d, w, as in "6h"',
        ),
        (
            {"tile": "7m"},
            'Aggregate "k@7m": departures is over 3600 s, which is no multiple of '
            "tile='7m'; choose another tile or window",
        ),
        (
            {"tile": "0s"},
            'Aggregate "k@0s": departures is over 3600 s, which is no multiple of '
            "tile='0s'; choose another tile or window",
        ),
        (
            {"delay": mean("f", over=["1h"]), "delay_1h": mean("n", over="1h")},
            'Aggregate "k@5m": there are two columns "delay_1h"; call one otherwise',
        ),
        (
            {"delay": mean("f", over=["1h", "1h"])},
            'Aggregate "k@5m": there are two columns "delay_1h"; call one otherwise',
        ),
    ],
)
def test_wrong_arguments_are_refused(given, expected):
    assert message(given) == expected


def test_a_step_without_aggregates_is_refused():
    with pytest.raises(RecipeError, match=r"names no aggregate; expected some, as in departures"):
        Aggregate(by=[], known_at="t", tile="5m")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"by": ["kk"]}, 'Aggregate "kk@5m" by=: there is no column "kk"; did you mean "k"?'),
        (
            {"at": None},
            'Aggregate "k@5m": as of when rows are to know is not said; give at= here, '
            "or event_time= to the source",
        ),
        ({"at": "n"}, 'Aggregate "k@5m" at=: column "n" holds int64, not times; name a column'),
        ({"known_at": "tt"}, 'Aggregate "k@5m" known_at=: there is no column "tt"; did you mean'),
        (
            {"arrived_at": field("arived")},
            'Aggregate "k@5m" arrived_at=: there is no column "arived"; did you mean "arrived"?',
        ),
        (
            {"n": count(over="1h")},
            'Aggregate "k@5m": there are two columns "n"; call one otherwise',
        ),
        (
            {"delay": mean("ff", over="1h")},
            'Aggregate(delay=mean("ff", over=\'1h\')): there is no column "ff"; did you mean',
        ),
        (
            {"late": count(over="1h", where=field("nn").isin([1, 2]))},
            'Aggregate "k@5m" where=is_in(nn, {value_set=int64:[ 1, 2 ], '
            'null_matching_behavior=MATCH}): there is no column "nn"; did you mean "n"?',
        ),
        (
            {"late": count(over="1h", where=field("n") + 1)},
            'Aggregate "k@5m" where=add_checked(n, 1): gives int64; expected a condition',
        ),
    ],
)
def test_what_rows_do_not_have_is_refused_before_anything_is_read(given, expected):
    assert message({"at": "b", **given}, SCHEMA).startswith(expected)


def test_the_time_that_rows_ask_for_can_be_filled_in():
    step = Aggregate(**GIVEN, partitions=4, name="mine", arrived_at="arrived", lateness="1h")
    filled = step.as_of("b")
    assert (filled.at, filled.partitions, filled.plan.lateness) == ("b", 4, 3600 * SECOND)
    assert (filled.name, filled.column_names) == ("mine", ("departures",))
    added = filled.output_schema(SCHEMA).feature[-1]
    assert added.name == "departures"
