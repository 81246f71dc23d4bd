import pickle

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.filter import Require, Where, field, keep_complete, keep_where
from skewless.transforms.rows import Count, Rows, with_origin

SCHEMA = make_schema(
    [
        make_feature("distance", pa.int64(), required=False),
        make_feature("dest", pa.string(), required=False),
        make_feature("tags", pa.list_(pa.string()), required=False),
    ]
)
BATCH = pa.record_batch(
    {"distance": [50, 150, None, 200], "dest": ["BOS", None, "BOS", "LAX"], "tags": [["a"]] * 4}
)


def test_require_keeps_complete_rows():
    kept, rejected, counts = keep_complete(BATCH, ["distance", "dest"])
    assert kept.column("distance").to_pylist() == [50, 200]
    assert (rejected, counts) == ([], {"filtered": 2})


def test_require_names_the_column_that_does_not_exist():
    message = r'Require\("distanc"\): there is no column "distanc"; did you mean "distance"'
    with pytest.raises(RecipeError, match=message):
        Require("distanc").output_schema(SCHEMA)
    with pytest.raises(RecipeError, match=message):
        keep_complete(BATCH, ["distanc"])
    assert Require("distance").output_schema(SCHEMA) == SCHEMA


def test_require_wants_names():
    for columns in ((), (["distance"],)):
        with pytest.raises(RecipeError, match="expected names of columns"):
            Require(*columns)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (field("distance") > 100, [150, 200]),
        ((field("distance") > 100) & (field("dest") == "LAX"), [200]),
        (~field("dest").isin(["BOS"]), [150, 200]),
        (field("distance").is_null(), [None]),
        (field("distance") > 1000, []),
    ],
)
def test_where_keeps_rows_for_which_the_condition_is_true(condition, expected):
    kept, rejected, counts = keep_where(BATCH, condition)
    assert kept.column("distance").to_pylist() == expected
    assert (rejected, counts) == ([], {"filtered": 4 - len(expected)})


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.none() | st.integers(-5, 5)), bound=st.integers(-5, 5))
def test_where_is_what_its_definition_says(values, bound):
    batch = pa.record_batch({"v": pa.array(values, pa.int64()), "n": range(len(values))})
    kept = keep_where(batch, field("v") >= bound).kept
    expected = [n for n, value in enumerate(values) if value is not None and value >= bound]
    assert kept.column("n").to_pylist() == expected


def test_where_keeps_the_order_of_many_rows():
    batch = pa.record_batch({"v": pa.array(range(200_000))})
    assert keep_where(batch, field("v") >= 0).kept == batch


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (field("distanc") > 100, 'no column "distanc"; did you mean "distance"'),
        (field("dest") > 100, "has no kernel matching input types"),
        (field("distance"), "gives int64; expected a condition"),
    ],
)
def test_where_refuses_what_has_no_answer(condition, message):
    with pytest.raises(RecipeError, match=message):
        Where(condition).output_schema(SCHEMA)
    with pytest.raises(RecipeError, match=message) as error:
        keep_where(BATCH, condition)
    assert "\n" not in str(error.value)


def test_where_wants_an_expression():
    with pytest.raises(RecipeError, match="expected a condition on columns"):
        Where(lambda row: row["distance"] > 100)
    assert Where(field("distance") > 1).output_schema(SCHEMA) == SCHEMA


def test_where_pickles():
    step = pickle.loads(pickle.dumps(Where(field("distance") > 100)))
    assert step.expression.equals(field("distance") > 100)


def test_steps_chain_and_no_row_is_lost(eager):
    batch = with_origin(BATCH, "f.csv", pa.array([0, 1, 2, 3]))
    result = eager(
        lambda p: (
            Rows(p | beam.Create([batch])) | Require("distance") | Where(field("distance") > 100)
        )
    )
    assert [batch.to_pylist() for batch in result.rows] == [
        [
            {"distance": d, "dest": s, "tags": ["a"], "_file": "f.csv", "_offset": n}
            for d, s, n in ((150, None, 1), (200, "LAX", 3))
        ]
    ]
    assert sorted(result.counts) == [
        Count("", "Require", "filtered", 1),
        Count("", "Where", "filtered", 1),
    ]
    alone = eager(lambda p: p | beam.Create([BATCH.slice(1, 2)]) | Require("distance", "dest"))
    assert alone.rows == []
    assert alone.counts == [Count("", "Require", "filtered", 2)]
