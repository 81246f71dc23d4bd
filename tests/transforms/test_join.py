import collections
import dataclasses
import datetime
import random

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless import ReadCsv
from skewless.errors import RecipeError
from skewless.schema import Schema, arrow_type, find_feature, make_feature, make_schema, missing_int
from skewless.transforms import join
from skewless.transforms.join import JoinAsOf
from skewless.transforms.rows import Count, Rejected, Rows, with_origin
from tests.transforms.test_join_rows import CELL, definition

UTC_SECONDS = pa.timestamp("s", "UTC")
HOUR = 3600
LEFT = make_schema(
    [
        make_feature("origin", pa.string(), required=False),
        make_feature("at", pa.timestamp("us", "UTC"), required=False),
        make_feature("n", pa.int64(), required=True),
    ]
)
RIGHT = make_schema(
    [
        make_feature("origin", pa.string(), required=True),
        make_feature("time", UTC_SECONDS, required=True),
        make_feature("temp", pa.float32(), required=False),
        make_feature("wind", pa.int64(), required=True),
    ]
)
RIGHT.feature[0].string_domain.value.extend(["EWR", "JFK"])
RIGHT.feature[3].int_domain.min = 0


@dataclasses.dataclass(eq=False)
class Weather(beam.PTransform):
    """A source as `JoinAsOf` takes it."""

    batches: list
    schema: Schema = dataclasses.field(default_factory=lambda: RIGHT)
    event_time: str | None = "time"
    input_name: str = "weather"

    def expand(self, root):
        rejected = root | "Faulty" >> beam.Create(
            [Rejected("Parse", "w.csv", 7, "temp", "x", "expected a number", b"x")]
        )
        read = Count("", "Read", "read", 1 + sum(batch.num_rows for batch in self.batches))
        # A batch of no rows: Create of nothing would not say what its elements are.
        empty = right([])
        rows = root | beam.Create([*self.batches, empty])
        return Rows(rows, (rejected,), (root | "Count" >> beam.Create([read]),))


def left(rows):
    """Make left rows of (origin, second)."""
    batch = pa.record_batch(
        {
            "origin": pa.array([origin for origin, _ in rows], pa.string()),
            "at": pa.array(
                [None if t is None else t * 1_000_000 for _, t in rows], pa.timestamp("us", "UTC")
            ),
            "n": pa.array(range(len(rows)), pa.int64()),
        }
    )
    return with_origin(batch, "l.csv", pa.array(range(len(rows)), pa.int64()))


def right(rows):
    """Make right rows of (origin, second)."""
    batch = pa.record_batch(
        {
            "origin": pa.array([origin for origin, _ in rows], pa.string()),
            "time": pa.array([time for _, time in rows], UTC_SECONDS),
            "temp": pa.array([n / 2 for n in range(len(rows))], pa.float32()),
            "wind": pa.array(range(len(rows)), pa.int64()),
        }
    )
    return with_origin(batch, "w.csv", pa.array(range(len(rows)), pa.int64()))


def sharded(batch, chance):
    rows = list(range(batch.num_rows))
    chance.shuffle(rows)
    parts = []
    while rows:
        size = chance.randint(1, len(rows))
        parts.append(batch.take(pa.array(rows[:size])))
        rows = rows[size:]
    return parts


def run(eager, left_batches, step):
    result = eager(lambda p: p | beam.Create([*left_batches, left([])]) | step)
    rows = [row for batch in result.rows for row in batch.to_pylist()]
    counts = collections.Counter()
    for count in result.counts:
        counts[count.input, count.kind] += count.n
    return sorted(rows, key=lambda row: row["n"]), result, counts


@settings(max_examples=8, deadline=None)
@given(
    left_rows=st.lists(CELL, max_size=20),
    right_rows=st.lists(CELL, max_size=20),
    tolerance=st.none() | st.integers(0, 3),
    seed=st.integers(),
    how=st.just({"broadcast": True})
    | st.fixed_dictionaries({"partitions": st.none() | st.integers(1, 3)}),
    at_once=st.sampled_from([1, 128 << 20]),
)
def test_join_is_what_its_definition_says(
    eager, left_rows, right_rows, tolerance, seed, how, at_once
):
    chance = random.Random(seed)
    step = JoinAsOf(
        Weather(sharded(right(right_rows), chance)),
        by=["origin"],
        on="at",
        tolerance=None if tolerance is None else f"{tolerance}s",
        **how,
    )
    # The left rows of a part are joined all at once, or batch by batch.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "_LEFT_BYTES", at_once)
        rows, result, counts = run(eager, sharded(left(left_rows), chance), step)
    assert [row["n"] for row in rows] == list(range(len(left_rows)))
    assert [row["wind"] for row in rows] == list(definition(left_rows, right_rows, tolerance))
    assert all(row["temp"] == (None if row["wind"] is None else row["wind"] / 2) for row in rows)
    # No right row is lost either.
    assert counts["weather", "read"] == counts["weather", "joined"] + len(result.rejected)
    assert {row.input for row in result.rejected} == {"weather"}
    for batch in result.rows:
        assert batch.column("_offset").to_pylist() == sorted(batch.column("_offset").to_pylist())


def test_result_has_the_schema_it_says(eager):
    step = JoinAsOf(Weather([right([("JFK", 0)])]), by=["origin"], on="at", prefix="w_")
    schema = step.output_schema(LEFT)
    assert [feature.name for feature in schema.feature] == ["origin", "at", "n", "w_temp", "w_wind"]
    _, result, _ = run(eager, [left([("JFK", 5), ("EWR", 5)])], step)
    for batch in result.rows:
        assert batch.schema.names == ["origin", "at", "n", "w_temp", "w_wind", "_file", "_offset"]
        for feature in schema.feature:
            assert batch.schema.field(feature.name).type == arrow_type(feature)


def test_joined_columns_are_optional_and_keep_their_domains():
    schema = JoinAsOf(Weather([]), by=["origin"], on="at").output_schema(LEFT)
    wind = find_feature(schema, "wind")
    assert wind == _optional("wind", pa.int64(), lambda f: f.int_domain.__setattr__("min", 0))
    assert missing_int(wind) == -(2**63)
    assert find_feature(schema, "temp") == RIGHT.feature[2]
    named = make_schema([*RIGHT.feature[:2], make_feature("sky", pa.string(), required=True)])
    named.feature[2].domain = "skies"
    named.string_domain.add(name="skies", value=["clear", "rain"])
    joined = JoinAsOf(Weather([], named), by=["origin"], on="at").output_schema(LEFT)
    assert list(joined.feature[-1].string_domain.value) == ["clear", "rain"]


def _optional(name, type_, change):
    feature = make_feature(name, type_, required=False)
    change(feature)
    return feature


def test_rows_need_no_origin_and_ties_go_to_the_last_by_content(eager):
    rights = right([("JFK", 0), ("JFK", 0), ("JFK", 9)]).drop_columns(["_file", "_offset"])
    lefts = left([("JFK", 1)]).drop_columns(["_file", "_offset"])
    for order in ([0, 1, 2], [2, 1, 0]):
        source = _Plain([rights.take(pa.array([n])) for n in order])
        step = JoinAsOf(source, by=["origin"], on="at", right_on="time")
        result = eager(lambda p: p | beam.Create([lefts]) | step)  # noqa: B023
        assert [batch.to_pylist()[0]["wind"] for batch in result.rows] == [1]
        assert [count[:3] for count in result.counts] == [("right", "JoinAsOf", "joined")] * 3


class _Plain(beam.PTransform):
    """Any PTransform from the root that has a schema."""

    schema = RIGHT

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def expand(self, root):
        return root | beam.Create(self.batches)


def test_a_step_can_be_used_in_more_than_one_pipeline(eager):
    step = JoinAsOf(Weather([right([("JFK", 0)])]), by=["origin"], on="at")
    for _ in range(2):
        rows, _, _ = run(eager, [left([("JFK", 1)])], step)
        assert [row["wind"] for row in rows] == [0]


def test_only_the_columns_named_are_joined():
    step = JoinAsOf(Weather([]), by=["origin"], on="at", columns=["temp"])
    assert [feature.name for feature in step.output_schema(LEFT).feature][3:] == ["temp"]


def test_on_is_called_like_the_right_time_when_not_given():
    schema = make_schema([LEFT.feature[0], RIGHT.feature[1]])
    assert JoinAsOf(Weather([]), by=["origin"]).output_schema(schema)
    with pytest.raises(RecipeError, match=r'JoinAsOf\(on=...\) of weather.*no column "time"'):
        JoinAsOf(Weather([]), by=["origin"]).output_schema(LEFT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": ["orign"]}, 'of weather: there is no column "orign"; did you mean "origin"'),
        ({"columns": ["tmp"]}, 'there is no column "tmp"; did you mean "temp"'),
        ({"columns": ["origin"]}, 'two columns "origin"; give prefix='),
        ({"right_on": "wind"}, '"wind" holds int64, not times'),
        ({"on": "n"}, '"n" holds int64, not times'),
        ({"by": ["wind"]}, "no column"),
        ({"right": Weather([], event_time=None)}, "weather has no column of times"),
        ({"right": beam.Create([1])}, "the columns of right are not known"),
    ],
)
def test_wrong_columns(arguments, message):
    step = JoinAsOf(**{"right": Weather([]), "by": ["origin"], "on": "at", **arguments})
    with pytest.raises(RecipeError, match=message):
        step.output_schema(LEFT)


def test_keys_of_two_types_are_refused():
    other = make_schema([make_feature("origin", pa.int64(), required=True), LEFT.feature[1]])
    with pytest.raises(RecipeError, match="is int64 on the left and string on the right"):
        JoinAsOf(Weather([]), by=["origin"], on="at").output_schema(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "origin"}, "by='origin'"),
        ({"by": []}, "expected a list"),
        ({"by": ["origin"], "columns": "temp"}, 'columns="temp"'),
        ({"by": ["origin"], "tolerance": "6 parsecs"}, "tolerance='6 parsecs'"),
        ({"by": ["origin"], "tolerance": -datetime.timedelta(1)}, "expected a timedelta"),
        ({"by": ["origin"], "partitions": 0}, "partitions=0"),
        ({"by": ["origin"], "partitions": 2, "broadcast": True}, "leave one of them out"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(RecipeError, match=message):
        JoinAsOf(Weather([]), **arguments)


def test_a_right_side_that_is_small_goes_to_all_workers(tmp_path):
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    small.write_bytes(bytes(16 << 20))
    large.write_bytes(bytes((16 << 20) + 1))

    def is_broadcast(path, **arguments):
        right = ReadCsv(str(path), schema=RIGHT, event_time="time")
        return bool(JoinAsOf(right, by=["origin"], on="at", **arguments).sized(None).broadcast)

    assert is_broadcast(small)
    assert not is_broadcast(small, partitions=2)
    assert not is_broadcast(small, broadcast=False)
    assert not is_broadcast(large)
    assert is_broadcast(large, broadcast=True)
    # Nobody knows how large it is.
    assert not JoinAsOf(Weather([]), by=["origin"], on="at").sized(None).broadcast


def test_tolerance_belongs_to_what_is_joined(eager):
    step = JoinAsOf(Weather([right([("JFK", 0)])]), by=["origin"], on="at", tolerance="1h")
    rows, _, _ = run(eager, [left([("JFK", HOUR), ("JFK", HOUR + 1)])], step)
    assert [row["wind"] for row in rows] == [0, None]


def test_tolerance_is_a_text_or_a_timedelta():
    for tolerance in ("1h", "60 m", "3600s", datetime.timedelta(hours=1)):
        step = JoinAsOf(Weather([]), by=["origin"], on="at", tolerance=tolerance)
        assert step.tolerance == datetime.timedelta(hours=1)
