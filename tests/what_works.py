"""The table of what works on which runner: from the results of tests, not by hand.

A test says with `works` what it shows. `make integration` keeps what came of it in
`build/what_works.json`, and then sees that docs/runners.md says the same:

    python -m tests.what_works docs/runners.md            # write the table
    python -m tests.what_works --check docs/runners.md    # compare it
"""

from __future__ import annotations

import fcntl
import json
import pathlib
import sys
from collections.abc import Sequence

import pytest

RESULTS = pathlib.Path(__file__).parents[1] / "build" / "what_works.json"
BEGIN, END = "<!-- what works -->", "<!-- end -->"

FAILS = "fails"
RUNNERS = (
    "in process",
    "Prism",
    "Flink alone",
    "Flink cluster",
    "Spark alone",
    "Spark cluster",
    "Dataflow",
)


def works(what: str, on: str, *, says: str = "yes") -> pytest.MarkDecorator:
    """Return the mark of a test that shows what a runner does.

    Args:
        what: A row of the table.
        on: Its column.
        says: What stands there when the test passes.
    """
    assert on in RUNNERS, on
    return pytest.mark.works(what, on, says)


def keep(marks: Sequence[pytest.Mark], passed: bool) -> None:
    """Write down what a test has shown; tests run in several processes."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for mark in marks:
            what, on, says = mark.args
            row = found.setdefault(what, {})
            # One test that fails is enough, until the results are begun anew.
            row[on] = says if passed and row.get(on) != FAILS else FAILS
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True))


def table() -> str:
    """Return the results as a table of Markdown."""
    found = json.loads(RESULTS.read_text())
    lines = [f"| | {' | '.join(RUNNERS)} |", "|---" * (len(RUNNERS) + 1) + "|"]
    lines += [
        f"| {what} | {' | '.join(found[what].get(on, '') for on in RUNNERS)} |"
        for what in sorted(found)
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Write or compare the table."""
    page = pathlib.Path(arguments[-1])
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" not in arguments:
        page.write_text(text)
    elif text != page.read_text():
        sys.stderr.write(f"{page} does not say what the tests have shown:\n{table()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
