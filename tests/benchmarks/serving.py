"""Measure `skewless serve` beside its peers: python -m tests.benchmarks.serving.

One client beside the exported signature called directly; 32 clients beside a server that calls
the model for each request, MLServer, BentoML and Ray Serve; and the transform of a raw row. Every
server is asked for the same rows by the same clients, in turn, and its answers are checked first.
The figures go into build/bench.json beside those that are there, and with `--docs PATH` into that
page, between its `<!-- serving -->` and `<!-- end -->`.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest

from tests.benchmarks import serving_contenders, serving_rows
from tests.benchmarks.figures import Figure, write_json
from tests.benchmarks.measure import ROOT
from tests.benchmarks.serving_contenders import NAIVE, OURS, PEERS, Contender
from tests.benchmarks.serving_load import check, load, one_client
from tests.benchmarks.serving_report import Found, figures, markdown, targets
from tests.benchmarks.streaming import flights_run

REPEATS = 3
SECONDS = 8.0
WARM_UP = 3.0
ROWS = 1_000
CALLS, FIRST_CALLS = 2_000, 200
_TABLE = re.compile(r"(<!-- serving -->\n).*?(<!-- end -->\n)", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Measure, write, and say whether the targets were met."""
    asked = _parser().parse_args(arguments)
    contenders = [OURS, NAIVE, *(peer for peer in PEERS if peer.name in asked.peers)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = asked.run or _newest_run() or flights_run(folder, "run")[0]
        model = max(run.glob("model/[0-9]*"), key=_version)
        rows = folder / "asked"
        _python("serving_rows", str(run), str(model), str(rows), str(ROWS))
        found = Found()
        for _ in range(asked.repeats):
            found.add("direct", _python("serving_direct", str(model), str(rows)))
            for contender in contenders:
                _measure(contender, model, rows, folder, asked.seconds, found)
    text = "\n".join([*markdown(found), ""])
    print(f"\n{text}")
    _keep(figures(found), asked.json)
    if asked.docs is not None:
        page = asked.docs.read_text()
        asked.docs.write_text(_TABLE.sub(lambda match: match[1] + text + match[2], page))
    return int(any("not met" in target for target in targets(found)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=pathlib.Path, help="of flights (default: the newest, or one)")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of 32 clients")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--docs", type=pathlib.Path, help="write the table there, too")
    return parser


def _newest_run() -> pathlib.Path | None:
    runs = (ROOT / "runs" / "flights").glob("*/model")
    return max((model.parent for model in runs), key=lambda run: run.stat().st_mtime, default=None)


def _version(path: pathlib.Path) -> int:
    return int(path.name)


def _measure(
    contender: Contender,
    model: pathlib.Path,
    rows: pathlib.Path,
    folder: pathlib.Path,
    seconds: float,
    found: Found,
) -> None:
    """Start a server, check and measure it, and stop it; a peer may fail."""
    if contender.name in found.failures:
        return
    asked = serving_rows.read(rows)
    place = folder / contender.name.replace(" ", "_")
    try:
        with serving_contenders.started(contender, model, asked.rows, place) as (target, grpc):
            check(target, asked.expected)
            load(target, min(WARM_UP, seconds), folder)
            one = {"one": one_client(target, FIRST_CALLS + CALLS)[FIRST_CALLS:]}
            many = load(target, seconds, folder)._asdict()
            found.add(contender.name, {**one, **many})
            if contender is OURS:
                found.add("grpc", _python("serving_grpc", str(grpc), str(rows), str(seconds)))
    except (RuntimeError, OSError, pytest.skip.Exception, pytest.fail.Exception) as error:
        if contender not in PEERS:
            raise
        found.failures[contender.name] = str(error).strip()
    print(f"serving {contender.name:10} {found.line(contender.name)}", flush=True)


def _python(module: str, *words: str) -> dict[str, object]:
    """Run a module of this folder in a process of its own; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module}: {done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout or "{}")
    return found


def _keep(found: list[Figure], path: pathlib.Path) -> None:
    """Put the figures in the place of earlier ones of this suite."""
    others = json.loads(path.read_text()) if path.exists() else []
    kept = [Figure(**one) for one in others if one["suite"] != "serving"]
    write_json([*kept, *found], path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
