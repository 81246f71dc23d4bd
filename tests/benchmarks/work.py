"""What the variants are asked to do: two tables, their columns, their split, where files lie."""

from __future__ import annotations

import dataclasses
import pathlib

# Part of the split's keys that is training; the rest is eval.
TRAIN = 0.9
WIDE_COLUMNS = 2_000


@dataclasses.dataclass(frozen=True)
class Work:
    """A table and what is made of it.

    Args:
        name: `flights` or `wide`.
        needed: The raw columns that the features are made of, or the split.
        split_by: Neighbouring columns whose hash says train or eval.
        split_at: The position of the first of them in a line.
    """

    name: str
    needed: tuple[str, ...]
    split_by: tuple[str, ...]
    split_at: int


FLIGHTS = Work(
    "flights",
    needed=(
        *("month", "day", "dep_time", "sched_dep_time", "dep_delay", "sched_arr_time"),
        *("arr_delay", "carrier", "tailnum", "origin", "dest", "air_time", "distance"),
        *("hour", "minute"),
    ),
    split_by=("month", "day"),
    split_at=1,
)
WIDE = Work(
    "wide",
    needed=("key", *(f"x{number:04d}" for number in range(WIDE_COLUMNS))),
    split_by=("key",),
    split_at=0,
)
WORKS = {work.name: work for work in (FLIGHTS, WIDE)}


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing to measure.

    Args:
        work: The name of a work.
        rows: Rows of the table.
        data: The folder of tables, with their schemas and splits.
        output: An empty folder for all that is written.
        options: Further words for the variant: the runner and its options.
    """

    work: str
    rows: int
    data: pathlib.Path
    output: pathlib.Path
    options: tuple[str, ...] = ()

    @property
    def csv(self) -> pathlib.Path:
        """The table."""
        return self.data / f"{self.work}-{self.rows}.csv"

    @property
    def schema(self) -> pathlib.Path:
        """The table's columns, as a tensorflow_metadata Schema."""
        return self.data / f"{self.work}.pbtxt"

    @property
    def split(self) -> pathlib.Path:
        """A JSON object: the split's columns as a line has them -> is it a training row?"""
        return self.data / f"{self.work}-split.json"

    @property
    def transform_graph(self) -> pathlib.Path:
        """Where the transform graph goes."""
        return self.output / "transform_graph"

    @property
    def temporary(self) -> pathlib.Path:
        """Where a variant may leave temporary files."""
        return self.output / "tmp"
