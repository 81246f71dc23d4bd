"""The page that a run of the benchmarks writes: docs/benchmarks.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from tests.benchmarks import machine
from tests.benchmarks.figures import Figure, Sample
from tests.benchmarks.prose import (
    COMPARED,
    HEAD,
    INPUT,
    LIMITS,
    NO_PRISM,
    RUNNERS,
    WAYS,
    WIDE,
)
from tests.benchmarks.suites import GET_PRISM, PRISM
from tests.benchmarks.transform import MODULES, REPEATED

Agreement = dict[str, dict[str, dict[str, object]]]


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a run found.

    Args:
        samples: Every measurement.
        figures: What they come to.
        agreement: For each table, how the features of each variant differ.
        minutes: How long the run took.
        load: The machine's load average before and after.
    """

    samples: list[Sample]
    figures: list[Figure]
    agreement: Agreement
    minutes: float
    load: tuple[float, float]

    def value(self, suite: str, case: str, variant: str, rows: int, unit: str) -> float | None:
        """Return one figure, or None where there is none."""
        name = (suite, case, variant, rows)
        return next((f.value for f in self.figures if f[:4] == name and f.unit == unit), None)

    def failure(self, suite: str, case: str, variant: str, rows: int) -> str:
        """Return why a variant has no figures, in one line; empty where it was not asked."""
        name = (suite, case, variant, rows)
        words = [s.failure for s in self.samples if s[:4] == name and s.failure]
        return words[0].splitlines()[-1][:80] if words else ""

    def of(self, suite: str, case: str) -> tuple[list[str], list[int]]:
        """Return the variants and the sizes that were asked of a case."""
        asked = [s for s in self.samples if s.suite == suite and s.case == case]
        met = dict.fromkeys(s.variant for s in asked)
        # Not as they were measured, which is mixed.
        variants = [name for name in (*MODULES, *met) if name in met]
        return list(dict.fromkeys(variants)), sorted({s.rows for s in asked})


def as_markdown(report: Report) -> str:
    """Return the page."""
    return "\n".join([*_head(report), *_transform(report), *_input(report), *_runners(report)])


def disagreements(report: Report) -> list[str]:
    """Return the variants whose features are not those they are compared with."""
    return [
        f"{table}: {variant}"
        for table, variants in report.agreement.items()
        for variant, found in variants.items()
        if variant != "with" and not found["agrees"]
    ]


def failures(report: Report) -> list[str]:
    """Return what of skewless' own has no figures; that a peer has none is a result."""
    return [
        f"{s.case}, {s.rows:,} rows: {s.variant}: {s.failure}"
        for s in report.samples
        if s.failure and s.suite == "transform" and s.variant in REPEATED
    ]


def _head(report: Report) -> Iterator[str]:
    yield HEAD
    yield f"Machine: {machine.describe()}; {machine.versions()}. The run took"
    yield f"{report.minutes:.0f} minutes; the load average was {report.load[0]:.1f} before it and"
    yield f"{report.load[1]:.1f} after it, of which the run itself is 1 to 2."
    yield ""


def _transform(report: Report) -> Iterator[str]:
    variants, sizes = report.of("transform", "flights")
    if variants:
        yield "## From CSV to TFRecords\n"
        yield "Rows a second; in brackets how many times `canonical`.\n"
        yield from _table(["", *(f"{size:,} rows" for size in sizes)], _speeds(report))
        yield "\nSeconds, and the most memory resident in MB, of which the imports are the first.\n"
        header = ["", "imports", *(f"{size:,} rows" for size in sizes)]
        yield from _table(header, _costs(report))
        yield ""
    yield from _wide(report)
    if variants:
        yield COMPARED
        yield from _agreement(report)
        yield LIMITS


def _speeds(report: Report) -> Iterator[list[str]]:
    variants, sizes = report.of("transform", "flights")
    for variant in variants:
        cells = []
        for rows in sizes:
            name = ("transform", "flights", variant, rows)
            speed, ratio = report.value(*name, "rows/s"), report.value(*name, "ratio")
            times = "" if ratio is None else f" ({ratio:.1f}×)"
            shown = report.failure(*name) or "–"
            cells.append(shown if speed is None else f"{_round(speed)}{times}")
        yield [f"`{variant}`", *cells]


def _costs(report: Report) -> Iterator[list[str]]:
    variants, sizes = report.of("transform", "flights")
    for variant in variants:
        imported = [s.imported for s in report.samples if s.variant == variant and s.imported]
        cells = [f"{max(imported):,.0f} MB" if imported else "–"]
        for rows in sizes:
            name = ("transform", "flights", variant, rows)
            seconds, peak = report.value(*name, "s"), report.value(*name, "MB")
            cells.append("–" if seconds is None else f"{seconds:.1f} s, {peak:,.0f} MB")
        yield [f"`{variant}`", *cells]


def _wide(report: Report) -> Iterator[str]:
    variants, sizes = report.of("transform", "wide")
    if not variants:
        return
    yield "## 2,000 columns\n"
    yield WIDE.format(rows=sizes[0])
    rows = []
    for variant in variants:
        name = ("transform", "wide", variant, sizes[0])
        seconds, peak = report.value(*name, "s"), report.value(*name, "MB")
        known = [report.failure(*name), "–"] if seconds is None else None
        rows.append([f"`{variant}`", *(known or [f"{seconds:.1f} s", f"{peak:,.0f} MB"])])
    yield from _table(["", "time", "memory"], rows)
    yield ""


def _agreement(report: Report) -> Iterator[str]:
    for table, variants in report.agreement.items():
        if not variants:
            continue
        yield f"At {table}, compared with `{variants['with']}`:\n"
        for variant, found in variants.items():
            if variant == "with":
                continue
            differ = found["differ"]
            words = differ if isinstance(differ, str) else _differing(differ)
            yield f"- `{variant}`: {words}{'' if found['agrees'] else ' **It does not agree.**'}"
        yield ""


def _differing(found: object) -> str:
    if not isinstance(found, dict) or not found:
        return "all features are the same (numbers within 1e-4)."
    each = (
        f"`{name}` in {value['share']:.2%} of the rows, by at most {value['most']:.3g}"
        for name, value in sorted(found.items())
    )
    return f"the same, but {'; '.join(list(each)[:5])}."


def _input(report: Report) -> Iterator[str]:
    asked = [s for s in report.samples if s.suite == "training_input"]
    if not asked:
        return
    yield "## Feeding a network\n"
    yield INPUT
    rows = []
    for sample in asked:
        speed = report.value(*sample[:4], "examples/s")
        shown = sample.failure if speed is None else _round(speed)
        rows.append([f"`{sample.variant}`", WAYS[sample.variant], shown])
    yield from _table(["", "", "examples a second"], rows)
    yield ""


def _runners(report: Report) -> Iterator[str]:
    variants, sizes = report.of("runners", "flights")
    if not variants:
        return
    yield "## Which local runner\n"
    rows = []
    for variant in variants:
        name = ("runners", "flights", variant, sizes[0])
        seconds, peak = report.value(*name, "s"), report.value(*name, "MB")
        if seconds is None:
            rows.append([f"`{variant}`", report.failure(*name), "–", "–"])
        else:
            speed = _round(sizes[0] / seconds)
            rows.append([f"`{variant}`", f"{seconds:.1f} s", speed, f"{peak:,.0f} MB"])
    yield RUNNERS.format(rows=sizes[0])
    yield from _table(["", "time", "rows a second", "memory"], rows)
    yield ""
    if PRISM not in variants:
        command = GET_PRISM.format(version=machine.beam_version())
        yield NO_PRISM.format(command=command)


def _round(value: float) -> str:
    """Return a speed with three digits, which is more than there is to know."""
    return f"{float(f'{value:.3g}'):,.0f}"


def _table(header: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
