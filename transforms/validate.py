"""Validate: reject the rows that are not what the schema says."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError
from skewless.schema import (
    Feature,
    Schema,
    arrow_type,
    column_names,
    find_feature,
    is_list,
    is_required,
    parse_schema,
    string_domain,
)
from skewless.transforms.rows import Outcome, Rejected, Rows, each_batch, reject_rows
from skewless.transforms.shuffle import check_columns

__all__ = ["Validate", "validate_rows"]

_STEP = "Validate"
_NAMES_SHOWN = 20

Mask = npt.NDArray[np.bool_]


def validate_rows(batch: pa.RecordBatch, schema: Schema) -> Outcome:
    """Keep the rows that are as `schema` says; columns it does not name are not looked at.

    Args:
        batch: Rows with at least the schema's columns.
        schema: What is expected.

    Returns:
        The rows kept, their columns in the schema's types, and the others with the first
        fault of each in the schema's order.

    Raises:
        RecipeError: If a column is missing altogether, or of a type that cannot be meant.
    """
    check_columns(column_names(schema), batch.schema.names, _STEP)
    typed, sound = batch, np.ones(batch.num_rows, dtype=np.bool_)
    faults: dict[int, Rejected] = {}
    for feature in schema.feature:
        at = batch.schema.get_field_index(feature.name)
        column, castable = _as_type(batch.column(at), feature)
        typed = typed.set_column(at, feature.name, column)
        for bad, reason in _checks(column, castable, feature, schema):
            rows = np.flatnonzero(bad & sound)
            if len(rows):
                sound[rows] = False
                rejected = reject_rows(batch.take(pa.array(rows)), _STEP, feature.name, reason)
                faults.update(zip(rows.tolist(), rejected, strict=True))
    return Outcome(typed.filter(pa.array(sound)), [faults[row] for row in sorted(faults)], {})


def _as_type(column: pa.Array, feature: Feature) -> tuple[pa.Array, Mask]:
    """Return a column in the schema's type, null where a value has none, and where it has."""
    wanted = arrow_type(feature)
    castable = np.ones(len(column), dtype=np.bool_)
    if column.type == wanted:
        return column, castable
    # Whole numbers may lose digits as floats, just as those that are parsed as floats do.
    safe = not (pa.types.is_integer(column.type) and pa.types.is_floating(wanted))
    try:
        return column.cast(wanted, safe=safe), castable
    except pa.ArrowInvalid:
        pass
    except pa.ArrowNotImplementedError:
        raise RecipeError(
            f'Validate: column "{feature.name}" holds {column.type}; the schema says {wanted}'
        ) from None
    cells = [_cast_cell(column.slice(row, 1), wanted) for row in range(len(column))]
    castable = np.array([cell is not None for cell in cells], dtype=np.bool_)
    return pa.concat_arrays([pa.nulls(1, wanted) if c is None else c for c in cells]), castable


def _cast_cell(cell: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    try:
        return cell.cast(wanted)
    except pa.ArrowInvalid:
        return None


def _checks(
    column: pa.Array, castable: Mask, feature: Feature, schema: Schema
) -> Iterator[tuple[Mask, str]]:
    """Yield for each rule of a feature the rows that break it, and what was expected."""
    if not castable.all():
        yield ~castable, f"expected {_type_name(feature)}"
    if is_list(feature):
        yield from _length_checks(column, feature)
        values, parents = column.flatten(), pc.list_parent_indices(column).to_numpy()
    else:
        values, parents = column, None
    for bad, reason in _value_checks(values, feature, schema):
        broken = _mask(bad)
        if parents is not None:
            rows = np.zeros(len(column), dtype=np.bool_)
            rows[parents[broken]] = True
            broken = rows
        yield broken, reason
    if is_required(feature):
        yield _mask(pc.invert(_has_value(column))), "expected a value (schema: presence)"


def _length_checks(column: pa.Array, feature: Feature) -> Iterator[tuple[Mask, str]]:
    if feature.HasField("shape"):
        least = most = math.prod(dim.size for dim in feature.shape.dim)
        rule = "shape"
    else:
        least, most = feature.value_count.min, feature.value_count.max
        rule = "value_count"
    lengths = pc.list_value_length(column)
    bad = pc.less(lengths, least)
    if most:
        bad = pc.or_(bad, pc.greater(lengths, most))
    limits = f"{least} to {most}" if most else f"at least {least}"
    yield _mask(bad), f"expected {limits} values (schema: {rule})"


def _value_checks(
    values: pa.Array, feature: Feature, schema: Schema
) -> Iterator[tuple[pa.Array, str]]:
    """Yield for each rule about single values where it is broken, and what was expected."""
    if feature.type == schema_pb2.BYTES:
        allowed = _allowed_text(feature, schema)
        if allowed is not None:
            unknown = pc.invert(pc.is_in(values, pa.array(allowed, pa.string())))
            yield pc.and_(unknown, _has_value(values)), f"expected one of {_listed(allowed)}"
        return
    if feature.HasField("bool_domain"):
        unknown = pc.invert(pc.is_in(values, pa.array([0, 1]).cast(values.type)))
        yield pc.and_(unknown, _has_value(values)), "expected 0 or 1 (schema: bool_domain)"
    if feature.float_domain.disallow_nan:
        yield pc.is_nan(values), "expected a number (schema: float_domain.disallow_nan)"
    if feature.float_domain.disallow_inf:
        yield pc.is_inf(values), "expected a finite number (schema: float_domain.disallow_inf)"
    for name in ("int_domain", "float_domain"):
        domain = getattr(feature, name)
        if domain.HasField("min"):
            reason = f"expected at least {_number(domain.min)} (schema: {name}.min)"
            yield pc.less(values, pa.scalar(domain.min)), reason
        if domain.HasField("max"):
            reason = f"expected at most {_number(domain.max)} (schema: {name}.max)"
            yield pc.greater(values, pa.scalar(domain.max)), reason


def _allowed_text(feature: Feature, schema: Schema) -> list[str] | None:
    if feature.HasField("bool_domain"):
        return [feature.bool_domain.true_value, feature.bool_domain.false_value]
    return string_domain(schema, feature)


def _has_value(column: pa.Array) -> pa.Array:
    """Say where there is a value: what serving writes for a missing one is none."""
    if pa.types.is_string(column.type):
        return pc.fill_null(pc.not_equal(column, ""), False)
    return pc.invert(column.is_null(nan_is_null=pa.types.is_floating(column.type)))


def _mask(condition: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _type_name(feature: Feature) -> str:
    kind = arrow_type(feature)
    if pa.types.is_timestamp(kind):
        return "a time"
    return {"int64": "a whole number", "float": "a number"}.get(str(kind), str(kind))


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown}, ... ({len(names)} in all)"


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


@dataclasses.dataclass(eq=False)
class Validate(beam.PTransform):  # type: ignore[misc]
    """Reject the rows that are not what a schema says, each for its first fault.

    Checked are types, required values, domains of text, ranges and finiteness of numbers,
    and lengths of lists. Columns that the schema does not name pass as they are.

    Args:
        schema: What is expected, or the path of a `schema.pbtxt` on any Beam file system.

    >>> from skewless.schema import make_feature, make_schema
    >>> flights = make_schema([make_feature("distance", pa.float32(), required=True)])
    >>> batch = pa.record_batch({"distance": pa.array([733, None], pa.float32())})
    >>> [row.reason for row in validate_rows(batch, flights).rejected]
    ['expected a value (schema: presence)']
    """

    schema: Schema | str | os.PathLike[str]

    def output_schema(self, schema: Schema) -> Schema:
        """Return `schema` with the validated columns as the validating schema has them."""
        checked = self._read()
        check_columns(column_names(checked), column_names(schema), _STEP)
        result = Schema()
        result.CopyFrom(schema)
        for feature in result.feature:
            feature.CopyFrom(find_feature(checked, feature.name) or feature)
        known = {domain.name for domain in checked.string_domain}
        kept = [domain for domain in schema.string_domain if domain.name not in known]
        del result.string_domain[:]
        result.string_domain.extend([*kept, *checked.string_domain])
        return result

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Check every batch."""
        return each_batch(batches, functools.partial(validate_rows, schema=self._read()), _STEP)

    def _read(self) -> Schema:
        if not isinstance(self.schema, (str, os.PathLike)):
            return self.schema
        path = os.fspath(self.schema)
        try:
            with FileSystems.open(path) as file:
                return parse_schema(file.read().decode(), path)
        except (OSError, BeamIOError) as error:
            raise RecipeError(
                f"Validate: cannot read the schema {path}: {error}; give the path of a schema.pbtxt"
            ) from None
