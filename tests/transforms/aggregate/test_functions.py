"""What a recipe says of aggregates: arguments, names of columns, and their types."""

import datetime

import pyarrow as pa
import pytest

from skewless.errors import RecipeError
from skewless.schema import arrow_type, is_required, make_feature, make_schema, missing_int
from skewless.transforms.aggregate import functions as f
from skewless.transforms.aggregate.functions import Statistic, columns_of
from skewless.transforms.expressions import field

SCHEMA = make_schema(
    [
        make_feature("dest", pa.string(), required=False),
        make_feature("delay", pa.float32(), required=False),
        make_feature("distance", pa.int64(), required=True),
        make_feature("at", pa.timestamp("s", "UTC"), required=True),
        make_feature("tags", pa.list_(pa.string()), required=False),
    ]
)
EVENTS = pa.schema(
    [
        ("dest", pa.dictionary(pa.int32(), pa.string())),
        ("delay", pa.float32()),
        ("distance", pa.int64()),
        ("at", pa.timestamp("s", "UTC")),
    ]
)


def message(call):
    with pytest.raises(RecipeError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda: f.mean(5, over="1h"),
            'mean(5): expected the name of a column, as in "delay"',
        ),
        (
            lambda: f.last(None, over="1h"),
            'last(None): expected the name of a column, as in "delay"',
        ),
        (
            lambda: f.count(field("a") > 1, over="1h"),
            "count(<pyarrow.compute.Expression (a > 1)>): expected the name of a column, "
            'as in "delay"',
        ),
        (
            lambda: f.count(over="1h", where="delay > 5"),
            "count(where='delay > 5'): expected a condition on columns, "
            'as in where=field("distance") > 100',
        ),
        (
            lambda: f.sum("a", over=[]),
            'sum(over=[]): expected at least one window, as in over="1h"',
        ),
        (
            lambda: f.sum("a", over=["1h", "an hour"]),
            "sum: over='an hour'; expected a timedelta, or a number and one of "
            'us, ms, s, m, h, d, w, as in "6h"',
        ),
        (
            lambda: f.max("a", over=3600),
            "max: over=3600; expected a timedelta, or a number and one of "
            'us, ms, s, m, h, d, w, as in "6h"',
        ),
        (lambda: f.last_n("a", 0, over="1h"), "last_n(n=0): expected a whole number from 1 on"),
        (lambda: f.top_k("a", True, over="1h"), "top_k(k=True): expected a whole number from 1 on"),
        (lambda: f.top_k("a", 1.5, over="1h"), "top_k(k=1.5): expected a whole number from 1 on"),
        (
            lambda: f.distinct_count("a", over="1h", exact_up_to=2),
            "distinct_count(exact_up_to=2): expected a whole number from 3 on",
        ),
        (
            lambda: f.ratio("late", f.count(over="1h")),
            "ratio: got 'late'; expected an aggregate, as in count(over=\"1h\")",
        ),
        (
            lambda: f.ratio(f.sum("a", over="1h"), f.count(over=["1h", "3h"])),
            "ratio(sum(\"a\", over='1h'), count(over=['1h', '3h'])): expected the same windows; "
            "give both over='1h'",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(call, expected):
    assert message(call) == expected


def test_a_ratio_is_not_of_a_ratio():
    one = f.count(over="1h")
    assert message(lambda: f.ratio(f.ratio(one, one), one)).startswith("ratio: got Ratio(")


def names(windowed):
    return list(columns_of("delay", windowed))


def test_one_window_has_the_name_and_more_have_theirs_too():
    hour = 3_600_000_000
    assert names(f.mean("a", over="1h")) == [("delay", hour)]
    assert names(f.mean("a", over=["1h"])) == [("delay_1h", hour)]
    assert names(f.mean("a", over=("1 h", "90m"))) == [
        ("delay_1h", hour),
        ("delay_90m", hour * 1.5),
    ]
    assert names(f.mean("a", over=datetime.timedelta(hours=1))) == [("delay", hour)]
    spans = [datetime.timedelta(hours=1), datetime.timedelta(milliseconds=1500)]
    assert names(f.mean("a", over=spans)) == [("delay_3600s", hour), ("delay_1500000us", 1_500_000)]
    both = ["1h", "3h"]
    share = f.ratio(f.count("a", over=both), f.count(over=both))
    assert names(share) == [("delay_1h", hour), ("delay_3h", 3 * hour)]


OVER = {"over": "1h"}
TEXTS, FLOATS = pa.list_(pa.string()), pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("windowed", "type_", "required"),
    [
        (f.count(**OVER), pa.int64(), True),
        (f.count("dest", **OVER), pa.int64(), True),
        (f.distinct_count("dest", **OVER), pa.int64(), True),
        (f.sum("distance", **OVER), pa.float32(), True),
        (f.mean("distance", **OVER), pa.float32(), False),
        (f.variance("delay", **OVER), pa.float32(), False),
        (f.min("distance", **OVER), pa.int64(), False),
        (f.max("delay", **OVER), pa.float32(), False),
        (f.first("dest", **OVER), pa.string(), False),
        (f.last("delay", **OVER), pa.float32(), False),
        (f.last("at", **OVER), pa.timestamp("s", "UTC"), False),
        (f.last_n("dest", 3, **OVER), TEXTS, False),
        (f.top_k("delay", 3, **OVER), FLOATS, False),
        (f.time_since_last(**OVER), pa.float32(), False),
        (f.time_since_last("at", **OVER), pa.float32(), False),
        (f.ratio(f.count(**OVER), f.max("distance", **OVER)), pa.float32(), False),
    ],
)
def test_features_have_the_type_of_the_values(windowed, type_, required):
    feature = windowed.feature("made", SCHEMA)
    assert (feature.name, arrow_type(feature), is_required(feature)) == ("made", type_, required)
    assert windowed.result_type(EVENTS) == type_
    if type_ == pa.int64() and not required:
        assert missing_int(feature) == -(2**63)


@pytest.mark.parametrize(
    ("windowed", "expected"),
    [
        (
            f.mean("dely", **OVER),
            'Aggregate(made=mean("dely", over=\'1h\')): there is no column "dely"; '
            'did you mean "delay"?',
        ),
        (
            f.sum("dest", **OVER),
            "Aggregate(made=sum(\"dest\", over='1h')): the column holds string; expected numbers",
        ),
        (
            f.max("at", **OVER),
            "Aggregate(made=max(\"at\", over='1h')): the column holds timestamp[s, tz=UTC]; "
            "expected numbers",
        ),
        (
            f.last_n("at", 2, **OVER),
            "Aggregate(made=last_n(\"at\", over='1h')): a list of times is no feature; "
            "name another column",
        ),
        (
            f.count("tags", **OVER),
            'Aggregate(made=count("tags", over=\'1h\')): column "tags" holds lists; name another',
        ),
        (
            f.ratio(f.last("dest", **OVER), f.count(**OVER)),
            "Aggregate(made=ratio(last(\"dest\", over='1h'), ...)): not a number; name one",
        ),
        (
            f.ratio(f.count(**OVER), f.last("at", **OVER)),
            "Aggregate(made=ratio(last(\"at\", over='1h'), ...)): not a number; name one",
        ),
    ],
)
def test_columns_that_cannot_be_aggregated_so_are_named(windowed, expected):
    assert message(lambda: windowed.feature("made", SCHEMA)) == expected


def keys(*windowed):
    return [partial.key for one in windowed for partial in one.partials]


def test_parts_are_shared_by_aggregates_of_the_same_events_alone():
    long = field("a") > 1
    assert keys(f.mean("a", over="1h")) == keys(f.sum("a", over="2h"), f.count("a", over="3h"))
    assert keys(f.count(over="1h", where=long)) == keys(f.count(over="1h", where=field("a") > 1))
    different = [
        f.count(over="1h"),
        f.count("a", over="1h"),
        f.count(over="1h", where=long),
        f.count("a", over="1h", where=long),
        f.count(over="1h", where=field("a") > pa.scalar(0.1)),
        f.count(over="1h", where=field("a") > pa.scalar(0.1, pa.float32())),
        f.min("a", over="1h"),
        f.max("a", over="1h"),
        f.first("a", over="1h"),
        f.last("a", over="1h"),
        f.last_n("a", 2, over="1h"),
        f.time_since_last("a", over="1h"),
    ]
    assert len(set(keys(*different))) == len(different)


def test_an_aggregate_is_printed_as_it_is_written():
    assert repr(f.count(over="1h")) == "count(over='1h')"
    assert repr(f.mean("a", over=["1h", "2h"])) == "mean(\"a\", over=['1h', '2h'])"
    assert isinstance(f.mean("a", over="1h"), Statistic)
