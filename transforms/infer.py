"""The schema of rows that have none, from one pass over all of their rows."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PipelineOptions

from skewless import progress
from skewless.schema import (
    Feature,
    Schema,
    format_schema,
    make_feature,
    make_schema,
    parse_schema,
)
from skewless.transforms.sources.source import BatchSource, Reader, require_columns

__all__ = ["ALL_MISSING", "ColumnProfile", "InferSchema", "infer_schema", "profile_column"]

# The tag of a column in which not one row had a value.
ALL_MISSING = "all_missing"

# A type covers a column if so many of its cells have it; the rest is rejected when read.
_COVERS = 0.99

_INT, _FLOAT, _BOOL, _TIME, _TIME_US, _TEXT = "int", "float", "bool", "time", "time_us", "text"

_ZONE = r"(Z|[+-]\d\d(:?\d\d)?)?"
_DAY = r"\d{4}-\d\d-\d\d"
# Cells of CSV, and of JSON where a field has several types (there, text is quoted).
_KINDS = {
    _INT: r"^\s*-?\d+\s*$",
    _FLOAT: r"^\s*[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|(?i:inf|infinity))\s*$",
    _BOOL: r"^\s*(true|True|TRUE|false|False|FALSE)\s*$",
    _TIME_US: rf'^\s*"?{_DAY}[T ]\d\d:\d\d:\d\d\.\d*[1-9]\d*{_ZONE}"?\s*$',
    _TIME: rf'^\s*"?{_DAY}([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?{_ZONE})?"?\s*$',
}
_NOTHING = r'^(|""|\s*[+-]?(?i:nan)\s*)$'


class ColumnProfile(NamedTuple):
    """What the cells of a column are.

    Attributes:
        place: The first file that has the column, and where in it: the order of columns.
        present: How many rows have a value.
        lists: How many rows have a list.
        kinds: How many values are of each kind, the items of lists included.
    """

    place: tuple[str, int]
    present: int
    lists: int
    kinds: Counter[str]


class _Profile(NamedTuple):
    """What some rows are: how many, and each of their columns."""

    rows: int
    columns: dict[str, ColumnProfile]


@dataclasses.dataclass(eq=False)
class InferSchema(beam.PTransform):  # type: ignore[misc]
    """Infer the schema of a source's rows.

    The type of a column is the narrowest of integer, flag (true and false), float and
    timestamp that at least 99 % of its values have, else text: one bad cell in a million
    does not turn a number into a category, it is rejected when the row is read. A column
    without a missing value is required. Columns that no feature can hold, such as nested
    objects, are left out.

    Args:
        source: A batch source; its own schema, if any, plays no part.

    Returns:
        A PCollection of one Schema, its columns in the order of the first file.

    Raises:
        RecipeError: If the source asks for columns that do not exist.
        DataError: If a file is missing or empty.
    """

    source: BatchSource

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> beam.PCollection[Schema]:
        """Profile the pieces of all files, and merge the profiles."""
        source = self.source
        available = source.available_columns()
        if available and source.columns is not None:
            require_columns(source.columns, available, source.where)
        return (
            source.plan(pbegin)
            | "ProfilePieces" >> beam.ParDo(_ProfilePieces(source.reader()))
            | "MergeProfiles" >> beam.CombineGlobally(_MergeProfiles())
            | "MakeSchema" >> beam.Map(_make_schema, source.columns)
        )


def infer_schema(source: BatchSource, pipeline_options: PipelineOptions | None = None) -> Schema:
    """Infer the schema of a source's rows, in this process.

    Args:
        source: A batch source, e.g. `ReadCsv("flights.csv")`.
        pipeline_options: Options of the local pipeline.

    Returns:
        The schema; see `InferSchema`.

    Raises:
        RecipeError: If the source asks for columns that do not exist.
        DataError: If a file is missing or empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "schema.pbtxt"
        with beam.Pipeline("FnApiRunner", options=pipeline_options) as pipeline:
            _ = pipeline | InferSchema(source) | "Write" >> beam.Map(_write, str(path))
        return parse_schema(path.read_text())


def _write(schema: Schema, path: str) -> None:
    pathlib.Path(path).write_text(format_schema(schema))


def profile_column(column: pa.Array, place: tuple[str, int] = ("", 0)) -> ColumnProfile | None:
    """Return what the values of a column are.

    Args:
        column: The column; strings are cells whose type is to be found out.
        place: The file, and the column's position in it.

    Returns:
        The profile, or None for a type that no feature can hold.

    >>> profile_column(pa.array(["1", "2.5", "", "x"])).kinds
    Counter({'int': 1, 'float': 1, 'text': 1})
    """
    type_ = column.type
    if pa.types.is_dictionary(type_):
        return profile_column(column.cast(type_.value_type), place)
    if pa.types.is_null(type_):
        return ColumnProfile(place, 0, 0, Counter())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        items = profile_column(column.flatten(), place)
        full = pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() or 0
        return items and ColumnProfile(place, full, full, items.kinds)
    kinds = _kinds(column)
    return None if kinds is None else ColumnProfile(place, kinds.total(), 0, kinds)


def _kinds(column: pa.Array) -> Counter[str] | None:
    """Count the values of each kind, missing ones left out."""
    type_, present = column.type, len(column) - column.null_count
    if pa.types.is_string(type_):
        return _kinds_of_text(column)
    if pa.types.is_boolean(type_):
        return Counter({_BOOL: present})
    if pa.types.is_integer(type_):
        return Counter({_INT: present})
    if pa.types.is_floating(type_):
        nan = pc.sum(pc.is_nan(column)).as_py() or 0
        return Counter({_FLOAT: present - nan})
    if pa.types.is_decimal(type_):
        return Counter({_FLOAT: present})
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        empty = pc.sum(pc.equal(pc.binary_length(column), 0)).as_py() or 0
        return Counter({_TEXT: present - empty})
    if pa.types.is_date(type_):
        return Counter({_TIME: present})
    if pa.types.is_timestamp(type_):
        whole = column.cast(pa.timestamp("s", tz=type_.tz), safe=False).cast(type_)
        fractions = pc.sum(pc.not_equal(whole, column)).as_py() or 0
        return Counter({_TIME: present - fractions, _TIME_US: fractions})
    return None


def _kinds_of_text(cells: pa.Array) -> Counter[str]:
    distinct = cells.drop_null().value_counts()
    texts, counts = distinct.field("values"), distinct.field("counts")
    something = pc.invert(pc.match_substring_regex(texts, _NOTHING))
    texts, counts = texts.filter(something), counts.filter(something)
    kinds: Counter[str] = Counter()
    for kind, pattern in _KINDS.items():
        matches = pc.match_substring_regex(texts, pattern)
        kinds[kind] = pc.sum(counts.filter(matches)).as_py() or 0
        texts, counts = texts.filter(pc.invert(matches)), counts.filter(pc.invert(matches))
    kinds[_TEXT] = pc.sum(counts).as_py() or 0
    return +kinds


class _ProfilePieces(beam.DoFn):  # type: ignore[misc]
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def process(self, piece: Any) -> Iterator[_Profile]:
        for batch in self._reader.untyped(piece):
            progress.add("rows_read", batch.num_rows)
            columns = {}
            for i, name in enumerate(batch.schema.names):
                profile = profile_column(batch.column(i), (piece[0], i))
                if profile is not None:
                    columns[name] = profile
            yield _Profile(batch.num_rows, columns)


class _MergeProfiles(beam.CombineFn):  # type: ignore[misc]
    def create_accumulator(self) -> _Profile:
        return _Profile(0, {})

    def add_input(self, accumulator: _Profile, element: _Profile) -> _Profile:
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[_Profile]) -> _Profile:
        rows, columns = 0, dict[str, ColumnProfile]()
        for part in accumulators:
            rows += part.rows
            for name, profile in part.columns.items():
                columns[name] = _merge(columns[name], profile) if name in columns else profile
        return _Profile(rows, columns)

    def extract_output(self, accumulator: _Profile) -> _Profile:
        return accumulator


def _merge(one: ColumnProfile, other: ColumnProfile) -> ColumnProfile:
    return ColumnProfile(
        min(one.place, other.place),
        one.present + other.present,
        one.lists + other.lists,
        one.kinds + other.kinds,
    )


def _make_schema(profile: _Profile, wanted: tuple[str, ...] | None) -> Schema:
    """Return the schema of the profiled rows, in the order of the first file."""
    columns = profile.columns
    if wanted is not None:
        require_columns(wanted, list(columns), "columns=")
        columns = {name: columns[name] for name in wanted}
    names = sorted(columns, key=lambda name: columns[name].place)
    return make_schema(_make_feature(name, columns[name], profile.rows) for name in names)


def _make_feature(name: str, column: ColumnProfile, rows: int) -> Feature:
    type_ = _narrowest(column.kinds)
    if column.lists * 2 > column.present:
        type_ = pa.list_(type_)
    feature = make_feature(name, type_, required=0 < rows == column.present)
    if not column.present:
        feature.annotation.tag.append(ALL_MISSING)
    return feature


def _narrowest(kinds: Counter[str]) -> pa.DataType:
    """Return the first type that covers the values."""

    def cover(*some: str) -> bool:
        return sum(kinds[kind] for kind in some) >= _COVERS * kinds.total()

    if not kinds.total():
        return pa.string()
    if cover(_INT):
        return pa.int64()
    if cover(_INT, _BOOL):
        return pa.bool_()
    if cover(_INT, _FLOAT):
        return pa.float32()
    if cover(_TIME, _TIME_US):
        return pa.timestamp("us" if kinds[_TIME_US] else "s", tz="UTC")
    return pa.string()
