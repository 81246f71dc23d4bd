"""The figures that a run of the benchmarks comes to."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import NamedTuple


class Figure(NamedTuple):
    """One number of the result.

    Attributes:
        suite: `transform`, `training_input` or `runners`.
        case: The table: `flights` or `wide`.
        variant: Who.
        rows: Rows of the table.
        value: The number.
        unit: Of the number; `ratio` is rows/s over the rows/s of `canonical`.
    """

    suite: str
    case: str
    variant: str
    rows: int
    value: float
    unit: str


class Sample(NamedTuple):
    """One measurement: the same names, seconds and megabytes, or why there are none."""

    suite: str
    case: str
    variant: str
    rows: int
    seconds: float | None
    megabytes: float | None
    imported: float | None
    failure: str


def figures(samples: list[Sample]) -> list[Figure]:
    """Return the medians of repeated samples, as time, speed, memory and ratio."""
    found = list(_medians(samples))
    speed = {f[:4]: f.value for f in found if f.unit == "rows/s"}
    for (suite, case, variant, rows), value in speed.items():
        base = speed.get((suite, case, "canonical", rows))
        if base:
            found.append(Figure(suite, case, variant, rows, value / base, "ratio"))
    return found


def _medians(samples: list[Sample]) -> Iterator[Figure]:
    for name in dict.fromkeys(sample[:4] for sample in samples):
        good = [s for s in samples if s[:4] == name and s.seconds is not None]
        if not good:
            continue
        seconds = statistics.median(s.seconds for s in good)
        per_second = "examples/s" if name[0] == "training_input" else "rows/s"
        yield Figure(*name, seconds, "s")
        yield Figure(*name, name[3] / seconds, per_second)
        yield Figure(*name, statistics.median(s.megabytes for s in good), "MB")


def write_json(found: list[Figure], path: pathlib.Path) -> None:
    """Write the figures as a list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = [f._replace(value=round(f.value, 4))._asdict() for f in found]
    path.write_text(json.dumps(objects, indent=1) + "\n")
