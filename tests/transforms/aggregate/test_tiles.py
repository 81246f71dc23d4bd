"""Tiles and windows against the definition of every aggregate, bit for bit."""

import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import arrow_type
from skewless.transforms.aggregate.functions import count, first, max, mean, ratio, time_since_last
from skewless.transforms.aggregate.tiles import (
    Tiles,
    entities,
    merge_tiles,
    pack_tiles,
    times_of,
    unpack_tiles,
)
from skewless.transforms.expressions import field
from tests.transforms.aggregate.naive import (
    EVENTS,
    EVERY,
    KEYS,
    OVERS,
    ROWS,
    SCHEMA,
    SPECS,
    TILE,
    Spec,
    aggregate,
    as_batch,
    bits_of,
    columns_at,
    expected_bits,
    merge_in_a_tree,
    naive,
    pieces,
    tiles_of,
)

CHANCE = st.randoms(use_true_random=False)
ROW = dict.fromkeys(["k", "i", "t", "arrived", "b", "f", "n", "s", "w"])


def row(at, **cells):
    return {**ROW, "t": at, "b": at, "k": "a", **cells}


@settings(max_examples=80)
@given(by=KEYS, specs=SPECS, overs=OVERS, events=EVENTS, rows=ROWS, chance=CHANCE)
def test_windows_are_what_their_definition_says(by, specs, overs, events, rows, chance):
    step = aggregate(by, specs, overs)
    tiles = merge_tiles(tiles_of(step, pieces(events, chance)), step.plan)
    found = columns_at(step, tiles, rows)
    assert bits_of(found) == expected_bits(naive(by, specs, overs, events, rows))
    typed = step.output_schema(SCHEMA).feature[len(SCHEMA.feature) :]
    assert [(f.name, arrow_type(f)) for f in typed] == [(n, c.type) for n, c in found.items()]


@settings(max_examples=20)
@given(by=KEYS, specs=SPECS, overs=OVERS, events=EVENTS, rows=ROWS)
def test_events_count_from_when_they_were_known_and_had_arrived(by, specs, overs, events, rows):
    def known(event):
        both = (event["t"], event["arrived"])
        return None if None in both else sorted([both[0] + 1000, both[1]])[1]

    later = field("t") + pa.scalar(datetime.timedelta(milliseconds=1))
    step = aggregate(by, specs, overs, known_at=later, arrived_at="arrived")
    found = columns_at(step, merge_tiles(tiles_of(step, [events]), step.plan), rows)
    assert bits_of(found) == expected_bits(naive(by, specs, overs, events, rows, known))


def packed_of(tiles: Tiles):
    """Return the bytes of tiles by their place."""
    found = entities(tiles.keys, len(tiles.starts))
    places = list(zip(found, tiles.starts.tolist(), strict=True))
    assert len(set(places)) == len(places)
    return dict(zip(places, pack_tiles(tiles), strict=True))


def unpacked(step, tiles, packed):
    types = {name: key.type for name, key in zip(step.by, tiles.keys, strict=True)}
    found, starts = [place[0] for place in packed], [place[1] for place in packed]
    return unpack_tiles(list(packed.values()), found, starts, step.plan, types)


@settings(max_examples=25)
@given(by=KEYS, specs=SPECS, events=EVENTS, rows=ROWS, chance=CHANCE)
def test_any_split_in_any_order_merged_in_any_tree_gives_equal_bytes(
    by, specs, events, rows, chance
):
    step = aggregate(by, specs, [1, 4])
    whole = merge_tiles(tiles_of(step, [events]), step.plan)
    tables = tiles_of(step, pieces(events, chance))
    merged = merge_in_a_tree(tables, step.plan, chance)
    expected = packed_of(whole)
    assert packed_of(merged) == expected

    # The same through Arrow and through bytes, of every table alone and of all at once.
    arrow = [Tiles.from_arrow(table.to_arrow(), step.plan) for table in tables]
    assert packed_of(merge_in_a_tree(arrow, step.plan, chance)) == expected
    cells = [unpacked(step, table, packed_of(table)) for table in tables]
    assert packed_of(merge_in_a_tree(cells, step.plan, chance)) == expected

    columns = bits_of(columns_at(step, whole, rows))
    for tiles in (
        merged,
        merge_tiles(arrow, step.plan),
        merge_tiles(cells, step.plan),
        unpacked(step, whole, expected),
    ):
        found = columns_at(step, tiles, rows)
        assert bits_of(found) == columns
        types = [array.type for array in columns_at(step, whole, rows).values()]
        assert [array.type for array in found.values()] == types


@settings(max_examples=25)
@given(
    by=KEYS,
    past=EVENTS,
    events=st.lists(ROWS, min_size=2, max_size=2),
    asked=ROWS,
    now=st.integers(-3, 3),
    chance=CHANCE,
)
def test_nothing_of_the_tile_in_progress_or_later_is_seen(by, past, events, asked, now, chance):
    floor = now * TILE
    asked = [{**one, "b": floor + chance.randrange(TILE)} for one in asked]
    # Whatever was known before stays; from the tile in progress on, everything is different.
    past = [one for one in past if one["t"] is not None and one["t"] < floor]
    futures = [
        [{**one, "t": abs(one["t"] or 0) % (3 * TILE) + floor} for one in some] for some in events
    ]
    step = aggregate(by, EVERY, [1, 3])
    found = [
        columns_at(step, merge_tiles(tiles_of(step, [past + future]), step.plan), asked)
        for future in ([], *futures)
    ]
    assert bits_of(found[0]) == bits_of(found[1]) == bits_of(found[2])


def windows(step, rows):
    return {
        name: values.to_pylist()
        for name, values in columns_at(
            step, merge_tiles(tiles_of(step, [rows]), step.plan), rows
        ).items()
    }


def step_of(**aggregates):
    from skewless.transforms.aggregate.aggregate import Aggregate

    return Aggregate(by=["k"], known_at="t", at="b", tile="1ms", **aggregates)


def test_a_window_is_made_of_whole_tiles():
    step = step_of(events=count(over="2ms"))
    # An event on the edge of a tile is in the tile that begins there.
    rows = [row(0), row(999), row(1000), row(1999), row(2000), row(2999), row(3000)]
    assert windows(step, rows)["events"] == [0, 0, 2, 2, 4, 4, 4]
    rows = [row(-3000), row(-2001), row(-2000), row(-1), row(0)]
    assert windows(step, rows)["events"] == [0, 0, 2, 3, 2]


def test_a_row_without_a_time_has_empty_windows_though_others_ask_at_1970():
    step = step_of(events=count(over="2ms"), top=max("n", over="2ms"))
    rows = [row(-1, n=3), row(0), {**row(0), "b": None}, row(0), {**row(0), "k": None}]
    assert windows(step, rows)["events"] == [0, 1, 0, 1, 0]
    assert windows(step, rows[::-1])["events"] == [0, 1, 0, 1, 0]
    assert windows(step, rows)["top"] == [None, 3, None, 3, None]


def test_time_since_last_is_as_of_the_exact_time():
    step = step_of(seconds=time_since_last(over="4ms"))
    rows = [row(250), {**row(1999), "t": None}, {**row(3750), "t": None}]
    found = windows(step, rows)["seconds"]
    assert found == [None, pytest.approx(0.001749), pytest.approx(0.0035)]


def test_a_ratio_of_nothing_is_missing():
    events, late = count(over="2ms"), count(over="2ms", where=field("n") > 0)
    step = step_of(share=ratio(late, events), odds=ratio(events, late))
    rows = [row(0, n=1), row(1, n=0), row(1000), row(2500)]
    assert windows(step, rows) == {
        "share": [None, None, 0.5, pytest.approx(1 / 3)],
        "odds": [None, None, 2.0, 3.0],
    }


def test_a_ratio_takes_whole_numbers_that_floats_do_not_hold():
    step = step_of(share=ratio(max("n", over="1ms"), count(over="1ms")))
    rows = [row(0, n=2**63 - 1), row(1000)]
    assert windows(step, rows)["share"] == [None, 2.0**63]


def test_long_lists_of_a_condition_that_differ_in_their_middle_are_two_conditions():
    some = [*range(20), *range(100, 200), *range(500, 520)]
    others = [*range(20), *range(200, 300), *range(500, 520)]
    step = step_of(
        these=count(over="1ms", where=field("n").isin(some)),
        those=count(over="1ms", where=field("n").isin(others)),
    )
    rows = [row(0, n=150), row(0, n=150), row(0, n=250), row(1000)]
    assert windows(step, rows) == {"these": [0, 0, 0, 2], "those": [0, 0, 0, 1]}


def test_many_windows_and_kinds_share_their_parts():
    step = step_of(
        mean=mean("f", over=["1ms", "2ms"]),
        count=count("f", over="1ms"),
        first=first("f", over="1ms"),
    )
    assert [partial.kind.__name__ for partial in step.plan.partials] == ["Sums", "Counts", "Latest"]


def test_times_of_a_column_or_of_an_expression():
    batch = as_batch([row(5), row(None)])
    assert times_of("t", batch, "at").to_pylist() == [5, None]
    hour = pa.scalar(datetime.timedelta(hours=1))
    assert times_of(field("t") + hour, batch, "at").to_pylist() == [3_600_000_005, None]
    with pytest.raises(RecipeError, match='at: there is no column "tt"; did you mean "t"'):
        times_of("tt", batch, "at")
    with pytest.raises(RecipeError, match='at: there is no column "tt"; did you mean "t"'):
        times_of(field("tt") + hour, batch, "at")
    with pytest.raises(RecipeError, match='at: column "n" holds int64, not times'):
        times_of("n", batch, "at")


def test_entities_are_the_json_of_the_key():
    keys = [pa.array(["é", 'a"b']), pa.array([1, -2])]
    assert entities(keys, 2) == [b'["\\u00e9",1]', b'["a\\"b",-2]']
    assert entities([], 2) == [b"[]", b"[]"]


def test_no_tiles_and_no_rows():
    step = aggregate(("k", "i"), EVERY, [2])
    none = merge_tiles(tiles_of(step, [[]]), step.plan)
    assert pack_tiles(none) == []
    assert unpacked(step, none, {}).starts.tolist() == []
    assert all(len(column) == 0 for column in columns_at(step, none, []).values())
    asked = bits_of(columns_at(step, unpacked(step, none, {}), [row(0)]))
    assert asked == expected_bits(naive(step.by, EVERY, [2], [], [row(0)]))


def test_one_spec_is_named_once():
    assert len({spec.name for spec in EVERY}) == len(EVERY)
    assert {spec.kind for spec in EVERY} >= {Spec("mean", "f").kind, "last_n", "top_k"}
