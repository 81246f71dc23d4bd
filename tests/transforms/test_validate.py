import json
import math

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.schema import find_feature, format_schema, make_feature, make_schema
from skewless.transforms.rows import Rows, with_origin
from skewless.transforms.validate import Validate, validate_rows


def feature(type_, *, required=False, **domains):
    made = make_feature("x", type_, required=required)
    made.ClearField("float_domain")
    for name, values in domains.items():
        message = getattr(made, name)
        message.SetInParent()
        for key, value in values.items():
            if isinstance(value, list):
                getattr(message, key).extend(value)
            else:
                setattr(message, key, value)
    return made


def faults(column, made):
    """Validate one column; return the rows rejected and the distinct reasons."""
    batch = pa.record_batch({"x": column, "n": pa.array(range(len(column)))})
    kept, rejected, counts = validate_rows(batch, make_schema([made]))
    assert counts == {}
    bad = [json.loads(row.payload)["n"] for row in rejected]
    assert sorted([*kept.column("n").to_pylist(), *bad]) == list(range(len(column)))
    assert bad == sorted(bad)
    return bad, sorted({row.reason for row in rejected})


INF, NAN = float("inf"), float("nan")
FLOATS, STRINGS, INTS = pa.list_(pa.float32()), pa.list_(pa.string()), pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("column", "made", "bad", "reason"),
    [
        (
            pa.array(["JFK", "BOS", None, ""]),
            feature(pa.string(), string_domain={"value": ["EWR", "JFK", "LGA"]}),
            [1],
            "expected one of EWR, JFK, LGA",
        ),
        (
            pa.array([-1, 0, None]),
            feature(pa.int64(), int_domain={"min": 0}),
            [0],
            "expected at least 0 (schema: int_domain.min)",
        ),
        (
            pa.array([5, 2**62]),
            feature(pa.int64(), int_domain={"max": 2**62 - 1}),
            [1],
            "expected at most 4611686018427387903 (schema: int_domain.max)",
        ),
        (
            pa.array([0.25, -0.5, NAN], pa.float32()),
            feature(pa.float32(), float_domain={"min": 0.1}),
            [1],
            "expected at least 0.100000001 (schema: float_domain.min)",
        ),
        (
            pa.array([1, INF, -INF, None], pa.float32()),
            feature(pa.float32(), float_domain={"disallow_inf": True}),
            [1, 2],
            "expected a finite number (schema: float_domain.disallow_inf)",
        ),
        (
            pa.array([1, NAN, None], pa.float32()),
            feature(pa.float32(), float_domain={"disallow_nan": True}),
            [1],
            "expected a number (schema: float_domain.disallow_nan)",
        ),
        (
            pa.array([0, 1, 2, None]),
            feature(pa.int64(), bool_domain={}),
            [2],
            "expected 0 or 1 (schema: bool_domain)",
        ),
        (
            pa.array(["yes", "no", "maybe", None]),
            feature(pa.string(), bool_domain={"true_value": "yes", "false_value": "no"}),
            [2],
            "expected one of yes, no",
        ),
        (
            pa.array([1, None]),
            feature(pa.int64(), required=True),
            [1],
            "expected a value (schema: presence)",
        ),
        (
            pa.array([1, NAN], pa.float32()),
            feature(pa.float32(), required=True),
            [1],
            "expected a value (schema: presence)",
        ),
        (
            pa.array([["a"], [], ["a", "b", "c"], None], STRINGS),
            feature(STRINGS, value_count={"min": 1, "max": 2}),
            [1, 2],
            "expected 1 to 2 values (schema: value_count)",
        ),
        (
            pa.array([["a"], []], STRINGS),
            feature(STRINGS, value_count={"min": 1}),
            [1],
            "expected at least 1 values (schema: value_count)",
        ),
        (
            pa.array([[1], None, [], [2, INF], [3, 4]], FLOATS),
            feature(FLOATS, float_domain={"disallow_inf": True}),
            [3],
            "expected a finite number (schema: float_domain.disallow_inf)",
        ),
        (
            pa.array([[1], None, [-7, -8], [9]], INTS).slice(1),
            feature(INTS, int_domain={"min": 0}),
            [1],
            "expected at least 0 (schema: int_domain.min)",
        ),
        (pa.array(["5", "x", None]), feature(pa.int64()), [1], "expected a whole number"),
        (
            pa.array(["2013-01-01T10:00:00Z", "soon"]),
            feature(pa.timestamp("s", "UTC")),
            [1],
            "expected a time",
        ),
    ],
)
def test_each_rule_rejects_what_breaks_it(column, made, bad, reason):
    assert faults(column, made) == (bad, [reason])


def test_a_fixed_shape_is_a_number_of_values():
    made = make_feature("x", FLOATS, required=True)
    made.shape.dim.add(size=2)
    column = pa.array([[1, 2], [1], None], FLOATS)
    assert faults(column, made) == (
        [1, 2],
        ["expected 2 to 2 values (schema: shape)", "expected a value (schema: presence)"],
    )


def test_a_long_domain_is_not_told_in_full():
    names = [f"v{n}" for n in range(1000)]
    _, (reason,) = faults(pa.array(["w"]), feature(pa.string(), string_domain={"value": names}))
    assert reason.startswith("expected one of v0, v1, ")
    assert reason.endswith(", ... (1000 in all)")
    assert len(reason) < 200


@pytest.mark.parametrize(
    ("column", "type_"),
    [
        (pa.array([1, 2], pa.int8()), pa.int64()),
        (pa.array([0.5, None], pa.float64()), pa.float32()),
        (pa.array([2**24 + 1, 3]), pa.float32()),
        (pa.array(["a", "b"]).dictionary_encode(), pa.string()),
        (pa.array(["a"], pa.large_string()), pa.string()),
        (pa.array([0], pa.timestamp("us", "UTC")), pa.timestamp("s", "UTC")),
    ],
)
def test_types_of_the_same_kind_become_the_schemas(column, type_):
    kept, rejected, _ = validate_rows(pa.record_batch({"x": column}), make_schema([feature(type_)]))
    assert rejected == []
    assert kept.column("x").type == type_
    assert kept.num_rows == len(column)


def test_a_column_of_another_kind_or_none_at_all_stops_the_run():
    schema = make_schema([feature(pa.int64())])
    with pytest.raises(RecipeError, match=r'column "x" holds list<.*the schema says int64'):
        validate_rows(pa.record_batch({"x": [[1]]}), schema)
    with pytest.raises(RecipeError, match='there is no column "x"; the columns are y'):
        validate_rows(pa.record_batch({"y": [1]}), schema)


def two_columns():
    first = make_feature("a", pa.int64(), required=True)
    first.int_domain.min = 0
    second = make_feature("b", pa.float32(), required=True)
    return make_schema([first, second])


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(-2, 2), st.none() | st.sampled_from([0.0, INF, -INF, NAN])
        )
    )
)
def test_a_row_is_rejected_once_for_its_first_fault(rows):
    batch = pa.record_batch(
        {
            "a": pa.array([a for a, _ in rows], pa.int64()),
            "b": pa.array([b for _, b in rows], pa.float32()),
            "n": pa.array(range(len(rows)), pa.int64()),
        }
    )
    batch = with_origin(batch, "f.csv", pa.array([100 + n for n in range(len(rows))], pa.int64()))
    kept, rejected, _ = validate_rows(batch, two_columns())
    good = [a is not None and a >= 0 and b is not None and math.isfinite(b) for a, b in rows]
    assert kept.column("n").to_pylist() == [n for n, ok in enumerate(good) if ok]
    assert [row.offset - 100 for row in rejected] == [n for n, ok in enumerate(good) if not ok]
    for row in rejected:
        a, _ = rows[row.offset - 100]
        assert (row.step, row.file) == ("Validate", "f.csv")
        assert row.column == ("a" if a is None or a < 0 else "b")


def test_in_a_pipeline_with_a_schema_file(eager, tmp_path):
    path = tmp_path / "schema.pbtxt"
    path.write_text(format_schema(two_columns()))
    batch = pa.record_batch({"a": [1, -1], "b": [0.5, 0.5], "other": ["x", "y"]})
    result = eager(lambda p: Rows(p | beam.Create([batch])) | Validate(path))
    assert [b.to_pylist() for b in result.rows] == [[{"a": 1, "b": 0.5, "other": "x"}]]
    (rejected,) = result.rejected
    assert rejected.value == "-1"
    assert json.loads(rejected.payload) == {"a": -1, "b": 0.5, "other": "y"}
    assert result.counts == []


def test_schema_file_that_is_not_there_or_not_a_schema(tmp_path):
    schema = make_schema([])
    with pytest.raises(RecipeError, match=r"cannot read the schema .*none\.pbtxt"):
        Validate(tmp_path / "none.pbtxt").output_schema(schema)
    (tmp_path / "bad.pbtxt").write_text("feature {")
    with pytest.raises(RecipeError, match=r"bad\.pbtxt: not a tensorflow_metadata Schema"):
        Validate(tmp_path / "bad.pbtxt").output_schema(schema)


def test_output_schema_is_the_input_as_validated():
    loose = make_schema(
        [
            make_feature("a", pa.int64(), required=False),
            make_feature("c", pa.string(), required=False),
            make_feature("b", pa.float32(), required=False),
        ]
    )
    result = Validate(two_columns()).output_schema(loose)
    assert [f.name for f in result.feature] == ["a", "c", "b"]
    assert find_feature(result, "a") == two_columns().feature[0]
    assert find_feature(result, "c") == loose.feature[1]
    with pytest.raises(RecipeError, match='there is no column "b"'):
        Validate(two_columns()).output_schema(make_schema(loose.feature[:2]))
