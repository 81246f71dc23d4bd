"""The `tensorflow_metadata` Schema proto as the type of a table of rows.

Arrow types of raw columns are five: int64, float32, string, timestamp (s or us, UTC), and
lists of the first three. A missing value is an Arrow null inside Beam, and has one written
form per type at serving: NaN, the empty string, and for integers the number in the
feature's tag `missing=<n>` (default -2**63, exact as a float64, so any JSON client can
write it).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import pyarrow as pa
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError

__all__ = [
    "MISSING_INT",
    "Schema",
    "absent_at_serving",
    "arrow_schema",
    "arrow_type",
    "column_names",
    "drop_columns",
    "find_feature",
    "format_schema",
    "is_list",
    "is_required",
    "make_feature",
    "make_schema",
    "missing_int",
    "parse_schema",
    "string_domain",
]

Schema: TypeAlias = schema_pb2.Schema
Feature: TypeAlias = schema_pb2.Feature

MISSING_INT = -(2**63)
_MISSING_TAG = "missing="
_SERVING = "SERVING"

_ARROW = {
    schema_pb2.INT: pa.int64(),
    schema_pb2.FLOAT: pa.float32(),
    schema_pb2.BYTES: pa.string(),
}
_TEXT_KINDS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)
_UNITS = {
    schema_pb2.TimeDomain.UNIX_SECONDS: "s",
    schema_pb2.TimeDomain.UNIX_MICROSECONDS: "us",
}


def parse_schema(text: str, where: str = "schema") -> Schema:
    """Return the Schema written in `text` (protobuf text format, `schema.pbtxt`).

    Raises:
        RecipeError: If `text` is not a Schema; the message names `where` and the line.
    """
    try:
        return text_format.Parse(text, Schema())
    except text_format.ParseError as error:
        raise RecipeError(f"{where}: not a tensorflow_metadata Schema: {error}") from None


def format_schema(schema: Schema) -> str:
    """Return `schema` in protobuf text format."""
    return str(text_format.MessageToString(schema))


def column_names(schema: Schema) -> list[str]:
    """Return the names of all columns, in the schema's order."""
    return [feature.name for feature in schema.feature]


def find_feature(schema: Schema, name: str) -> Feature | None:
    """Return the feature called `name`, or None."""
    return next((f for f in schema.feature if f.name == name), None)


def is_required(feature: Feature) -> bool:
    """Say whether every row must have a value (`presence.min_fraction` is 1)."""
    return bool(feature.presence.min_fraction == 1)


def is_list(feature: Feature) -> bool:
    """Say whether a row holds a list of values rather than at most one."""
    if feature.HasField("shape"):
        return any(dim.size != 1 for dim in feature.shape.dim)
    return bool(feature.HasField("value_count") and feature.value_count.max != 1)


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the Arrow type of a raw column.

    Raises:
        RecipeError: If the feature has no type, or is a struct.
    """
    if feature.type not in _ARROW:
        raise RecipeError(
            f'schema: column "{feature.name}" has type '
            f"{schema_pb2.FeatureType.Name(feature.type)}; expected INT, FLOAT or BYTES"
        )
    unit = _UNITS.get(feature.time_domain.integer_format)
    if feature.type == schema_pb2.INT and unit:
        return pa.timestamp(unit, tz="UTC")
    return pa.list_(_ARROW[feature.type]) if is_list(feature) else _ARROW[feature.type]


def arrow_schema(schema: Schema) -> pa.Schema:
    """Return the Arrow schema of a RecordBatch of raw rows (without origin columns)."""
    return pa.schema([pa.field(f.name, arrow_type(f)) for f in schema.feature])


def missing_int(feature: Feature) -> int:
    """Return the integer that stands for a missing value of `feature` at serving."""
    for tag in feature.annotation.tag:
        if tag.startswith(_MISSING_TAG):
            return int(tag[len(_MISSING_TAG) :])
    return MISSING_INT


def string_domain(schema: Schema, feature: Feature) -> list[str] | None:
    """Return the strings a BYTES column may hold, or None where any will do."""
    if feature.HasField("string_domain"):
        return list(feature.string_domain.value)
    if feature.HasField("domain"):
        for domain in schema.string_domain:
            if domain.name == feature.domain:
                return list(domain.value)
        raise RecipeError(
            f'schema: column "{feature.name}" has domain "{feature.domain}", '
            "but no string_domain has that name; add it or remove the reference"
        )
    return None


def make_feature(name: str, type_: pa.DataType, *, required: bool) -> Feature:
    """Return the feature for a raw column of Arrow type `type_`.

    A required scalar is dense in tf.Transform (`FixedLenFeature([])`), everything else is
    a `VarLenFeature`, which is what `schema_utils.schema_as_feature_spec` makes of it.

    Raises:
        RecipeError: If there is no raw column type for `type_`.
    """
    feature = Feature(name=name)
    listed = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    value = type_.value_type if listed else type_
    if pa.types.is_timestamp(value) or pa.types.is_date(value):
        feature.type = schema_pb2.INT
        whole = pa.types.is_date32(value) or (pa.types.is_timestamp(value) and value.unit == "s")
        feature.time_domain.integer_format = (
            schema_pb2.TimeDomain.UNIX_SECONDS if whole else schema_pb2.TimeDomain.UNIX_MICROSECONDS
        )
    elif pa.types.is_integer(value) or pa.types.is_boolean(value):
        feature.type = schema_pb2.INT
        if pa.types.is_boolean(value):
            feature.int_domain.min, feature.int_domain.max = 0, 1
    elif pa.types.is_floating(value) or pa.types.is_decimal(value):
        feature.type = schema_pb2.FLOAT
        feature.float_domain.disallow_inf = True
    elif any(is_kind(value) for is_kind in _TEXT_KINDS):
        feature.type = schema_pb2.BYTES
    elif pa.types.is_dictionary(value):
        return make_feature(name, value.value_type, required=required)
    else:
        raise RecipeError(f'column "{name}" has Arrow type {type_}, which has no feature type')
    if required:
        feature.presence.min_fraction = 1.0
        feature.presence.min_count = 1
    if listed:
        feature.value_count.min = 0
    elif required:
        feature.shape.SetInParent()
    else:
        feature.value_count.min, feature.value_count.max = 1, 1
    if feature.type == schema_pb2.INT and not required and not listed:
        feature.annotation.tag.append(f"{_MISSING_TAG}{MISSING_INT}")
    return feature


def make_schema(features: Iterable[Feature], *, domains: Schema | None = None) -> Schema:
    """Return a Schema of `features`, with the named string domains of `domains`."""
    schema = Schema(default_environment=["TRAINING", _SERVING])
    schema.feature.extend(features)
    if domains is not None:
        schema.string_domain.extend(domains.string_domain)
    return schema


def absent_at_serving(schema: Schema, names: Iterable[str]) -> Schema:
    """Return a copy of `schema` in which the columns in `names` are not in SERVING."""
    copy = make_schema(schema.feature, domains=schema)
    for name in names:
        feature = find_feature(copy, name)
        if feature is not None and _SERVING not in feature.not_in_environment:
            feature.not_in_environment.append(_SERVING)
    return copy


def drop_columns(schema: Schema, names: Iterable[str]) -> Schema:
    """Return a copy of `schema` without the columns in `names`."""
    dropped = set(names)
    kept = Schema()
    kept.CopyFrom(schema)
    del kept.feature[:]
    kept.feature.extend(f for f in schema.feature if f.name not in dropped)
    return kept
