"""What a log of requests holds: each request, and which columns of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import pyarrow as pa

from skewless.arrays import argument_names
from skewless.models.serving.requests import Answer, Code, Request
from skewless.schema import Schema, arrow_type, column_names, drop_columns

__all__ = ["ABOUT", "EXAMPLES", "Described", "Entry", "LoggedModel"]

# What is logged of each row beside its columns.
ABOUT = {
    "serving_time": pa.timestamp("us", tz="UTC"),
    "serving_version": pa.int64(),
    "serving_signature": pa.string(),
    "serving_protocol": pa.string(),
    "serving_method": pa.string(),
    "serving_code": pa.string(),
    "serving_seconds": pa.float32(),
    "serving_request": pa.string(),
    "serving_row": pa.int64(),
}
# The input of the signature that takes Examples.
EXAMPLES = "examples"


class Described(Protocol):
    """A version of a model, as far as a log must know it."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version."""

    @property
    def task(self) -> str:
        """`binary`, `multiclass` or `regression`."""

    @property
    def schema(self) -> Schema:
        """The raw columns."""


class Entry(NamedTuple):
    """A request that is to be logged.

    Attributes:
        time: When it was answered, in microseconds since 1970.
        request: The request.
        answer: Its answer, or None.
        code: Why there is none.
        seconds: How long it took.
    """

    time: int
    request: Request
    answer: Answer | None
    code: Code | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class LoggedModel:
    """A version of a model in a log. It does not keep the model itself alive.

    Attributes:
        name: The model's name.
        version: The version.
        schema: The raw columns that are logged.
        excluded: The raw columns that are not.
        arguments: What each of them is called as an input of a signature.
        columns: The columns of a table: `ABOUT`, the raw ones, and the outputs. Where a raw
            column has the name of another, the other gets a `_`.
        names: The name in `columns` of each of `ABOUT` and the outputs.
    """

    name: str
    version: int
    schema: Schema
    excluded: frozenset[str]
    arguments: Mapping[str, str]
    columns: pa.Schema
    names: Mapping[str, str]

    @classmethod
    def of(cls, model: Described, exclude: Collection[str] = ()) -> LoggedModel:
        """Return what is logged of a version.

        Args:
            model: The version.
            exclude: Raw columns that are not to be logged.
        """
        outputs: dict[str, pa.DataType] = {"prediction": pa.float32()}
        if model.task == "multiclass":
            outputs = {"prediction": pa.list_(pa.float32()), "classes": pa.list_(pa.string())}
        schema = drop_columns(model.schema, exclude)
        taken, names = set(column_names(model.schema)), {}
        for name in (*ABOUT, *outputs):
            names[name] = name
            while names[name] in taken:
                names[name] += "_"
        columns = pa.schema(
            [pa.field(names[name], type_) for name, type_ in ABOUT.items()]
            + [pa.field(f.name, arrow_type(f)) for f in schema.feature]
            + [pa.field(names[name], type_) for name, type_ in outputs.items()]
        )
        arguments = argument_names(model.schema)
        return cls(model.name, model.version, schema, frozenset(exclude), arguments, columns, names)
