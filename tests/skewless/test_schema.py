import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError
from skewless.schema import (
    MISSING_INT,
    Schema,
    absent_at_serving,
    arrow_schema,
    arrow_type,
    column_names,
    drop_columns,
    find_feature,
    format_schema,
    is_list,
    is_required,
    make_feature,
    make_schema,
    missing_int,
    parse_schema,
    string_domain,
)

SCALARS = [pa.int64(), pa.float32(), pa.string()]
TIMES = [pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC")]
RAW_TYPES = [*SCALARS, *TIMES, *map(pa.list_, SCALARS)]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("type_", RAW_TYPES, ids=str)
def test_a_raw_type_makes_a_feature_of_that_type(type_, required):
    feature = make_feature("x", type_, required=required)
    assert arrow_type(feature) == type_
    assert is_list(feature) == pa.types.is_list(type_)
    assert is_required(feature) == required


@pytest.mark.parametrize(
    ("given_type", "raw_type"),
    [
        (pa.int8(), pa.int64()),
        (pa.bool_(), pa.int64()),
        (pa.float64(), pa.float32()),
        (pa.decimal128(9, 2), pa.float32()),
        (pa.null(), pa.string()),
        (pa.large_binary(), pa.string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.date32(), pa.timestamp("s", "UTC")),
        (pa.timestamp("ns"), pa.timestamp("us", "UTC")),
        (pa.large_list(pa.float64()), pa.list_(pa.float32())),
    ],
    ids=str,
)
def test_any_other_type_becomes_the_nearest_raw_type(given_type, raw_type):
    assert arrow_type(make_feature("x", given_type, required=False)) == raw_type


def test_a_type_without_a_feature_is_a_clear_error():
    with pytest.raises(RecipeError, match='column "x" has Arrow type struct'):
        make_feature("x", pa.struct([("a", pa.int64())]), required=False)
    with pytest.raises(RecipeError, match='column "x" has type TYPE_UNKNOWN; expected INT'):
        arrow_type(schema_pb2.Feature(name="x"))


names = st.lists(st.text("abcdé_ ", min_size=1), unique=True, min_size=1, max_size=5)


@given(names, st.data())
def test_a_written_schema_reads_back_the_same(columns, data):
    features = [
        make_feature(name, data.draw(st.sampled_from(RAW_TYPES)), required=data.draw(st.booleans()))
        for name in columns
    ]
    schema = absent_at_serving(make_schema(features), columns[:1])
    assert parse_schema(format_schema(schema)) == schema
    assert column_names(schema) == arrow_schema(schema).names == columns


def test_what_is_not_a_schema_names_the_file_and_the_line():
    with pytest.raises(RecipeError, match=r"schema\.pbtxt: not a .* Schema: 2:1"):
        parse_schema("feature { name: 'x' }\nfeatures {}", "schema.pbtxt")


def test_the_label_is_absent_at_serving_only():
    whole = make_schema([make_feature(name, pa.float32(), required=True) for name in "xy"])
    schema = absent_at_serving(absent_at_serving(whole, ["y", "z"]), ["y"])
    assert list(schema.default_environment) == ["TRAINING", "SERVING"]
    assert [list(f.not_in_environment) for f in schema.feature] == [[], ["SERVING"]]
    assert not any(f.not_in_environment for f in whole.feature)


def test_dropping_columns_leaves_the_original_alone():
    schema = make_schema([make_feature(name, pa.int64(), required=False) for name in "abc"])
    assert column_names(drop_columns(schema, ["b", "z"])) == ["a", "c"]
    assert column_names(schema) == ["a", "b", "c"]
    assert find_feature(schema, "b").name == "b"
    assert find_feature(schema, "z") is None


def test_the_missing_integer_is_the_schemas_own():
    feature = make_feature("n", pa.int64(), required=False)
    assert missing_int(feature) == MISSING_INT == int(float(MISSING_INT))
    feature.annotation.tag[:] = ["unit=km", "missing=-1"]
    assert missing_int(feature) == -1
    assert missing_int(schema_pb2.Feature()) == MISSING_INT


def test_a_string_domain_is_given_in_place_or_by_name():
    schema = Schema()
    schema.string_domain.add(name="airports", value=["EWR", "JFK"])
    schema.feature.add(name="origin", domain="airports")
    schema.feature.add(name="dest").string_domain.value.append("LAX")
    schema.feature.add(name="free")
    schema.feature.add(name="lost", domain="gone")
    origin, dest, free, lost = schema.feature
    assert make_schema([origin], domains=schema).string_domain == schema.string_domain
    assert string_domain(schema, origin) == ["EWR", "JFK"]
    assert string_domain(schema, dest) == ["LAX"]
    assert string_domain(schema, free) is None
    with pytest.raises(RecipeError, match='column "lost" has domain "gone"'):
        string_domain(schema, lost)
