"""Windowed aggregates with skewless: Parquet, `Aggregate` steps, Parquet."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa

import skewless as sk
from skewless.pipeline.execution import Execution
from skewless.schema import Schema, make_feature, make_schema
from skewless.transforms.aggregate import functions
from skewless.transforms.aggregate.aggregate import Aggregate
from skewless.transforms.aggregate.together import AggregateTogether
from skewless.transforms.sinks.parquet import WriteParquet
from tests.benchmarks import aggregates_work as work
from tests.benchmarks.work import Job


def run(job: Job) -> None:
    build = {"flights": _flights, "wide": _wide}[job.work]
    schema, steps = build()
    Execution().run(_Aggregates(job, schema, steps))


@dataclasses.dataclass(eq=False)
class _Aggregates(beam.PTransform):  # type: ignore[misc]
    job: Job
    schema: Schema
    steps: list[Aggregate]

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        rows = begin | sk.ReadParquet(self.job.data, schema=self.schema)
        together = AggregateTogether(self.steps, directory=str(self.job.temporary))
        return (rows | together).rows | WriteParquet(str(self.job.output / "rows"))


def _minutes_after(*columns: str) -> Any:
    minutes = sk.field(columns[0])
    for column in columns[1:]:
        minutes = minutes + sk.field(column)
    return sk.field("time_hour") + (minutes * 60).cast(pa.int64()).cast(pa.duration("s"))


def _flights() -> tuple[Schema, list[Aggregate]]:
    numbers = {"minute": True, "dep_delay": False}
    schema = make_schema(
        [
            make_feature("time_hour", pa.timestamp("us", "UTC"), required=True),
            *(make_feature(n, pa.int64(), required=must) for n, must in numbers.items()),
            *(make_feature(key, pa.string(), required=False) for key in work.KEYS),
        ]
    )
    return schema, [_departures(key) for key in work.KEYS]


def _departures(key: str) -> Aggregate:
    windows = list(work.WINDOWS)
    aggregates: dict[str, Any] = {
        f"{key}_mean": functions.mean("dep_delay", over=windows),
        f"{key}_count": functions.count(over=windows),
    }
    return Aggregate(
        by=[key],
        known_at=_minutes_after("minute", "dep_delay"),
        at=_minutes_after("minute"),
        tile=work.TILE,
        **aggregates,
    )


def _wide() -> tuple[Schema, list[Aggregate]]:
    schema = make_schema(
        [
            make_feature("time", pa.timestamp("us", "UTC"), required=True),
            make_feature("key", pa.string(), required=True),
            *(make_feature(name, pa.float32(), required=True) for name in work.wide_names()),
        ]
    )
    windows = [f"{hours}h" for hours in range(1, work.WIDE_WINDOWS + 1)]
    aggregates: dict[str, Any] = {}
    for name in work.wide_names():
        aggregates[f"{name}_mean"] = functions.mean(name, over=windows)
        aggregates[f"{name}_max"] = functions.max(name, over=windows)
    step = Aggregate(by=["key"], known_at="time", at="time", tile=work.TILE, **aggregates)
    return schema, [step]
