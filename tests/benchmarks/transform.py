"""The suite `transform`: the same work by everybody, from CSV to TFRecords."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

from tests.benchmarks.figures import Sample
from tests.benchmarks.measure import Measured, measure, prepare
from tests.benchmarks.work import Job

MODULES = {
    "canonical": "canonical",
    "mltransform": "mltransform",
    "tft_beam": "tft_beam",
    "skewless": "skewless_steps",
    "skewless_run": "skewless_run",
    "ceiling": "ceiling",
}
# Short ones are repeated, before, between and after the long ones, where a target is stated.
REPEATED = ("skewless", "skewless_run", "ceiling")
REPEATED_SIZES = (1_000, 1_000_000, 3_000_000)
REPEATS = 3
# Slow ones are left out where there are more rows than this.
SLOW_ROWS = 1_000_000
# `canonical` is left out: it is `tft_beam` with a slower reader, which is slow enough here.
WIDE = ("tft_beam", "skewless", "ceiling")
# Files stay for the comparison up to this many rows.
COMPARED_ROWS = 100_000
FLIGHTS_LIMIT, WIDE_LIMIT = 480.0, 720.0


@dataclasses.dataclass(frozen=True)
class Transform:
    """What to measure.

    Args:
        sizes: Rows of the table of flights.
        wide_rows: Rows of the wide table; 0 leaves it out.
        variants: Who.
        repeats: How often the short ones.
        folder: Where data and output go.
        say: Told of every measurement.
    """

    sizes: Sequence[int]
    wide_rows: int
    variants: Sequence[str]
    repeats: int
    folder: pathlib.Path
    say: Callable[[str], None]

    def run(self) -> tuple[list[Sample], dict[str, dict[str, dict[str, object]]]]:
        """Return every sample, and for each table how the features agree."""
        samples, agreement = [], {}
        compared = max((size for size in self.sizes if size <= COMPARED_ROWS), default=0)
        for work, rows in self._tables():
            compare = rows == compared or work == "wide"
            for variant in self._order(work, rows):
                samples.append(self._measure(variant, work, rows))
            if compare:
                agreement[f"{work}, {rows:,} rows"] = self._compare(work, rows)
            shutil.rmtree(self.folder / "out", ignore_errors=True)
        return samples, agreement

    def _tables(self) -> Iterator[tuple[str, int]]:
        yield from (("flights", size) for size in sorted(self.sizes))
        if self.wide_rows:
            yield "wide", self.wide_rows

    def _order(self, work: str, rows: int) -> list[str]:
        """Return who is measured in which order: the short ones around the long ones."""
        chosen = [v for v in self.variants if work != "wide" or v in WIDE]
        short = [v for v in chosen if v in REPEATED]
        long = [v for v in chosen if v not in REPEATED and rows <= SLOW_ROWS]
        order, rounds = list(short), self.repeats - 1 if rows in REPEATED_SIZES else 0
        for number, variant in enumerate(long):
            order.append(variant)
            if number < rounds:
                order += short
        return order + short * max(0, rounds - len(long))

    def _job(self, variant: str, work: str, rows: int) -> Job:
        return Job(work, rows, self.folder / "data", self.folder / "out" / variant)

    def _measure(self, variant: str, work: str, rows: int) -> Sample:
        job = self._job(variant, work, rows)
        prepare(job)
        limit = WIDE_LIMIT if work == "wide" else FLIGHTS_LIMIT
        found = measure(MODULES[variant], job, limit)
        self.say(f"{work} {rows:>9,} {variant:13} {line(found)}")
        return sample("transform", work, variant, rows, found)

    def _compare(self, work: str, rows: int) -> dict[str, dict[str, object]]:
        made = [v for v in self.variants if (self.folder / "out" / v / "measured.json").exists()]
        if len(made) < 2:
            return {}
        folders = tuple(str(self.folder / "out" / variant) for variant in made)
        output = self.folder / "out" / "agreement"
        job = Job(work, rows, self.folder / "data", output, folders)
        found = measure("agreement", job, FLIGHTS_LIMIT)
        if found.failure:
            raise SystemExit(f"the outputs cannot be compared: {found.failure}")
        return {"with": made[0], **found.found["agreement"]}


def sample(suite: str, case: str, variant: str, rows: int, found: Measured) -> Sample:
    return Sample(
        *(suite, case, variant, rows),
        *(found.seconds, found.megabytes, found.imported, found.failure),
    )


def line(found: Measured) -> str:
    """Return a measurement as a person reads it."""
    if found.seconds is None:
        return found.failure
    return f"{found.seconds:7.2f} s {found.megabytes:7,.0f} MB"
