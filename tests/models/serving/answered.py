"""Requests and answers made by hand, as a model would give them."""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np
import pyarrow as pa

from skewless.arrays import raw_arrays
from skewless.models.raw_examples import raw_examples
from skewless.models.serving.logged import Entry
from skewless.models.serving.requests import Answer, Code, Request
from skewless.schema import Schema, make_feature, make_schema

SECONDS, MICROSECONDS = (pa.timestamp(unit, tz="UTC") for unit in ("s", "us"))
TYPES = {
    "x": (pa.float32(), True),
    "o": (pa.float32(), False),
    "n": (pa.int64(), False),
    "carrier": (pa.string(), False),
    "trip miles": (pa.string(), True),
    "at": (SECONDS, False),
    "when": (MICROSECONDS, False),
    "tags": (pa.list_(pa.string()), False),
    "codes": (pa.list_(pa.int64()), False),
    "shares": (pa.list_(pa.float32()), True),
}
SCHEMA = make_schema(make_feature(n, type_, required=r) for n, (type_, r) in TYPES.items())
COLUMNS = pa.schema([pa.field(name, type_) for name, (type_, _) in TYPES.items()])
_NOON = datetime.datetime(2013, 1, 1, 12, tzinfo=datetime.UTC)


def rows(count: int, seed: int = 0) -> pa.RecordBatch:
    """Raw rows with everything that may be missing missing now and then."""
    random = np.random.default_rng(seed)

    def some(value: object) -> object:
        return None if random.random() < 0.3 else value

    return pa.RecordBatch.from_pylist(
        [
            {
                "x": random.normal(),
                "o": some(random.normal()),
                "n": some(int(random.integers(-5, 5))),
                "carrier": some(str(random.choice(["AA", "B6", "Æ ✈"]))),
                "trip miles": "m",
                "at": some(_NOON),
                "when": some(_NOON + datetime.timedelta(microseconds=int(random.integers(1e12)))),
                "tags": some(["red"] * int(random.integers(1, 4))),
                "codes": some([7] * int(random.integers(1, 3))),
                "shares": [0.5] * int(random.integers(0, 3)),
            }
            for _ in range(count)
        ],
        COLUMNS,
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """What a log must know of a version."""

    version: int = 3
    task: str = "binary"
    name: str = "flights"
    schema: Schema = dataclasses.field(default_factory=lambda: SCHEMA)


def outputs(batch: pa.RecordBatch) -> dict:
    return {"prediction": np.linspace(0, 1, len(batch), dtype=np.float32)}


def of_rows(batch: pa.RecordBatch, version: int = 3, schema: Schema = SCHEMA) -> tuple:
    """A request of raw rows as JSON has them, and its answer."""
    answer = Answer(outputs(batch), len(batch), version, "predict_rows", raw_arrays(batch, schema))
    return Request(rows=[{}] * len(batch), protocol="rest"), answer


def of_examples(batch: pa.RecordBatch, version: int = 3) -> tuple:
    """A request of serialized Examples, and its answer."""
    examples = np.array(raw_examples(batch, SCHEMA), object)
    request = Request(arrays={"examples": examples}, protocol="grpc")
    return request, Answer(outputs(batch), len(batch), version, "serving_default")


def entry(request: Request, answer: Answer | None, code: Code | None = None) -> Entry:
    """The same as what a log takes, answered at noon."""
    return Entry(1_357_041_600_000_000, request, answer, code, 0.25)
