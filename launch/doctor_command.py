"""`skewless doctor`: what a runner needs, what of it is there, and how to get the rest."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from skewless.errors import RunError
from skewless.launch.notices import quiet_libraries
from skewless.launch.runners.argument import add_runner
from skewless.launch.runners.flags import Finding, Flags

__all__ = ["add_doctor", "doctor"]


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    text = "see whether pipelines can run on a runner, and what is missing"
    command = commands.add_parser("doctor", help=text, description=text)
    add_runner(command)
    command.add_argument(
        "--streaming", action="store_true", help="for skewless stream, which needs more"
    )


def doctor(options: argparse.Namespace) -> int:
    """Do `skewless doctor`: 0 if all is there and a pipeline of one row ran, else 1."""
    from skewless.launch.display import Screen

    quiet_libraries()
    healthy = True
    with Screen() as screen:
        for finding in _findings(options):
            healthy = healthy and finding.ok
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            screen.console.print(mark, end=" ")
            told = finding.what if finding.ok else f"{finding.what}; {finding.repair}"
            screen.console.print(told, soft_wrap=True, markup=False, highlight=False)
    return int(not healthy)


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    """Yield all that was looked at; then what became of a pipeline of one row."""
    from skewless.launch.runners.choose import RUNNERS, prepared

    ready = True
    for finding in RUNNERS[options.runner].check(Flags(options.beam), streaming=options.streaming):
        ready = ready and finding.ok
        yield finding
    # A job on Dataflow takes minutes, and costs.
    if not ready or options.runner == "dataflow":
        return
    begun = time.monotonic()
    try:
        prepared(options.runner, options.beam, probing=True)
    except RunError as error:
        yield Finding("a pipeline of one row failed", False, str(error))
    else:
        yield Finding(f"a pipeline of one row ran in {time.monotonic() - begun:.1f} s")
