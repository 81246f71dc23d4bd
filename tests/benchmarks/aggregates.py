"""Measure windowed aggregates beside pandas and Polars: python -m tests.benchmarks.aggregates.

18 aggregates of flights, from Parquet to Parquet; and 1,000 aggregates of 17,000 rows, which a
feature store was reported to need 30 minutes and 50 GB for. With `--docs PATH`, what is
measured goes into that page, between its `<!-- history -->` and `<!-- end -->`.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.benchmarks import aggregates_work as work
from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT, Measured, measure
from tests.benchmarks.transform import line
from tests.benchmarks.work import Job

SIZES = (336_776, 1_000_000, 3_000_000)
REPEATS = 3
LIMIT = 900.0
TIMES_PANDAS = 5.0
GROWTH = 1.2
FLAT = 1.1
MEGABYTES = 1000.0
_TABLE = re.compile(r"(<!-- history -->\n).*?(<!-- end -->\n)", re.DOTALL)

Found = dict[tuple[str, int], list[Measured]]


def main(arguments: list[str]) -> int:
    """Measure, check that all agree, and say which targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--docs", type=pathlib.Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = _flights(pathlib.Path(folder), asked.sizes, asked.repeats)
        wide = _wide(pathlib.Path(folder))
    targets = [*_targets(found, sorted(asked.sizes)), _wide_target(wide)]
    text = "\n".join([*_markdown(found), *(f"- {target}" for target in targets), ""])
    print(text)
    if asked.docs is not None:
        page = asked.docs.read_text()
        asked.docs.write_text(_TABLE.sub(lambda match: match[1] + text + match[2], page))
    return int(any("not met" in target for target in targets))


def _flights(folder: pathlib.Path, sizes: list[int], repeats: int) -> Found:
    """Measure every contender at every size, in turn."""
    found: Found = {}
    for rows in sizes:
        data = folder / f"flights-{rows}.parquet"
        _apart("write", folder, rows)
        for again in range(repeats):
            for name in work.CONTENDERS:
                job = Job("flights", rows, data, folder / name)
                one = _measured(name, job)
                found.setdefault((name, rows), []).append(one)
            if not again:
                _apart("agree", folder, rows)
                print(f"flights  {rows:9,} rows: all agree in every column", flush=True)
    return found


def _measured(name: str, job: Job) -> Measured:
    found = measure(f"aggregates_{name}", job, LIMIT)
    cpu = found.found.get("cpu_seconds", 0.0)
    print(f"{job.work:8} {job.rows:9,} rows {name:8} {line(found)}, {cpu:.2f} s of CPU", flush=True)
    if found.failure:
        raise SystemExit(f"{name}: {found.failure}")
    return found


def _apart(what: str, folder: pathlib.Path, rows: int) -> None:
    """Do something of `aggregates_work` in a process of its own, for this one to stay small."""
    words = ["tests.benchmarks.aggregates_work", what, str(folder), str(rows)]
    if subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=False).returncode:
        raise SystemExit(f"{what}: failed")


def _wide(folder: pathlib.Path) -> Measured:
    data = folder / f"wide-{work.WIDE_ROWS}.parquet"
    _apart("write-wide", folder, work.WIDE_ROWS)
    return _measured("skewless", Job("wide", work.WIDE_ROWS, data, folder / "wide"))


def _seconds(found: Found, name: str, rows: int) -> float:
    return statistics.median(one.seconds or 0.0 for one in found[name, rows])


def _megabytes(found: Found, name: str, rows: int) -> float:
    return statistics.median(one.megabytes or 0.0 for one in found[name, rows])


def _targets(found: Found, sizes: list[int]) -> Iterator[str]:
    """Yield what was to be reached, and whether it was."""
    least, most = sizes[0], sizes[-1]
    ours = _seconds(found, "skewless", most)
    times = _seconds(found, "pandas", most) / ours
    yield _said(f"{times:.1f} times as fast as pandas", times >= TIMES_PANDAS, f"{TIMES_PANDAS:g}")
    growth = (ours / most) / (_seconds(found, "skewless", least) / least)
    yield _said(f"time a row grows {growth:.2f} times", growth <= GROWTH, f"at most {GROWTH}")
    peak = _megabytes(found, "skewless", most)
    yield _said(f"peak memory {peak:,.0f} MB", peak <= MEGABYTES, f"at most {MEGABYTES:,.0f}")
    middle = sizes[len(sizes) // 2]
    flat = peak / _megabytes(found, "skewless", middle)
    words = f"{flat:.2f} times the peak memory of {middle:,} rows"
    yield _said(words, flat <= FLAT, f"at most {FLAT}")


def _wide_target(wide: Measured) -> str:
    peak = wide.megabytes or 0.0
    words = f"1,000 aggregates of {work.WIDE_ROWS:,} rows: {wide.seconds:.1f} s, {peak:,.0f} MB"
    return _said(words, peak <= MEGABYTES, f"at most {MEGABYTES:,.0f} MB")


def _said(words: str, is_met: bool, target: str) -> str:
    return f"{words}; target {target}: {'met' if is_met else 'not met'}"


def _markdown(found: Found) -> Iterator[str]:
    sizes = sorted({rows for _, rows in found})
    repeats = len(next(iter(found.values())))
    yield f"Machine: {machine.describe()}; {machine.versions()}. Flights,"
    yield f"18 aggregates, from Parquet to Parquet: the median of {repeats} runs each, in turn, in"
    yield "processes of their own; in brackets how many times as fast skewless is."
    yield ""
    yield "| | " + " | ".join(f"{rows:,} rows" for rows in sizes) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for name in work.CONTENDERS:
        cells = []
        for rows in sizes:
            seconds, peak = _seconds(found, name, rows), _megabytes(found, name, rows)
            times = seconds / _seconds(found, "skewless", rows)
            shown = "" if name == "skewless" else f" ({times:.1f}×)"
            cells.append(f"{seconds:.2f} s{shown}, {peak:,.0f} MB")
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
