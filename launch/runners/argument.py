"""`--runner`, for all commands that run pipelines."""

from __future__ import annotations

import argparse

__all__ = ["NAMES", "add_runner"]

NAMES = ("direct", "prism", "flink", "spark", "dataflow")


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command."""
    parser.add_argument(
        "--runner",
        choices=NAMES,
        default=NAMES[0],
        help="where pipelines run (default: direct, in this process); its own options, such as "
        "--flink_master=HOST:PORT, go to Beam; skewless doctor says what it lacks",
    )
