"""Compare skewless with its peers: python -m tests.benchmarks, or make bench.

One run on one machine, side by side: only ratios within a run mean anything.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time

from tests.benchmarks import figures, report, suites
from tests.benchmarks.measure import ROOT
from tests.benchmarks.transform import MODULES, REPEATS, Transform

SUITES = ("transform", "training_input", "runners")
SIZES = (1_000, 100_000, 1_000_000, 3_000_000)
WIDE_ROWS = 20_000
INPUT_ROWS = 300_000
RUNNER_ROWS = 1_000_000


def main(arguments: list[str]) -> int:
    asked = _parser().parse_args(arguments)
    started, load = time.monotonic(), os.getloadavg()[0]
    samples: list[figures.Sample] = []
    agreement: dict[str, dict[str, dict[str, object]]] = {}
    if "transform" in asked.suites:
        suite = Transform(
            tuple(asked.sizes),
            asked.wide_rows,
            tuple(asked.variants),
            asked.repeats,
            asked.folder,
            _say,
        )
        found, agreement = suite.run()
        samples += found
    if "training_input" in asked.suites:
        samples += suites.training_input(asked.input_rows, asked.folder, _say)
    if "runners" in asked.suites:
        samples += suites.runners(asked.runner_rows, asked.folder, _say)
    result = report.Report(
        samples,
        figures.figures(samples),
        agreement,
        minutes=(time.monotonic() - started) / 60,
        load=(load, os.getloadavg()[0]),
    )
    text = report.as_markdown(result)
    print(f"\n{text}")
    figures.write_json(result.figures, asked.json)
    if asked.docs:
        asked.docs.write_text(text)
    return 1 if report.disagreements(result) or report.failures(result) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES)
    parser.add_argument("--variants", nargs="+", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="rows of flights")
    parser.add_argument("--wide-rows", type=int, default=WIDE_ROWS, help="0: no wide table")
    parser.add_argument("--input-rows", type=int, default=INPUT_ROWS, help="of training_input")
    parser.add_argument("--runner-rows", type=int, default=RUNNER_ROWS, help="of runners")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of what takes seconds")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "bench")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--docs", type=pathlib.Path, help="write the page there, too")
    return parser


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
