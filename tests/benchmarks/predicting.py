"""Measure predictions in bulk beside Beam's RunInference: python -m tests.benchmarks.predicting.

Takes a finished run of the flights example, by default the newest in runs/. Prints a table,
and writes its figures into build/bench.json beside those that are there.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from skewless.pipeline.artifacts import RunPaths, latest_run
from skewless.storage import path_of
from tests.benchmarks import machine
from tests.benchmarks.figures import Figure, Sample, figures, write_json
from tests.benchmarks.measure import ROOT, measure
from tests.benchmarks.transform import line, sample
from tests.benchmarks.work import Job

# What tells a flight from all others.
KEY = ("carrier", "flight", "origin", "time_hour")
PEERS = ("run_inference", "run_inference_examples")
WORDS = {
    "skewless": "skewless predict",
    "run_inference": "RunInference, TFModelHandlerTensor, a row's columns",
    "run_inference_examples": "RunInference, TFModelHandlerNumpy, tf.train.Examples",
}
REPEATS = 3
TIMES = (1, 4)
TARGET = 10.0
LIMIT = 900.0
# Two batches of other sizes give predictions that differ in their last bits.
TOLERANCE = 1e-6


def main(arguments: list[str]) -> int:
    """Measure, check that all predict the same, and say whether the target is met."""
    asked = _parser().parse_args(arguments)
    run = RunPaths(latest_run(path_of(asked.run)))
    measured: list[Figure] = []
    ratios, same = [], True
    for times in asked.times:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            rows = _repeated(run, folder, times)
            samples, agreed = _measure(str(run.newest_model()), folder, rows, asked.repeats)
        found = figures(samples)
        speeds = {f.variant: f.value for f in found if f.unit == "rows/s"}
        ratios.append(speeds["skewless"] / max(speeds[name] for name in PEERS))
        found.append(Figure("predicting", "flights", "skewless", rows, ratios[-1], "ratio"))
        measured += found
        same &= agreed
    _keep(measured, asked.json)
    print(_markdown(measured))
    print("all predict the same" if same else "the predictions differ")
    if ratios[-1] < TARGET:
        print(f"missed: {ratios[-1]:.1f}x of {TARGET:.0f}x")
    return int(not same or ratios[-1] < TARGET)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.predicting")
    parser.add_argument("run", nargs="?", default="runs", help="a run, or a folder of runs")
    parser.add_argument(
        "--times",
        nargs="+",
        type=int,
        default=TIMES,
        help="how often the run's rows are there; the last one is to meet the target",
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of skewless; peers: 1")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench.json")
    return parser


def _repeated(run: RunPaths, folder: pathlib.Path, times: int) -> int:
    """Put a run's rows into a folder, again and again; return how many there are."""
    rows = 0
    for time in range(times):
        for path in sorted(run.rows.glob("*/part-*.parquet")):
            shutil.copy(str(path), folder / f"{time}-{path.parent.name}-{path.name}")
            rows += pq.read_metadata(str(path)).num_rows
    return rows


def _measure(
    model: str, folder: pathlib.Path, rows: int, repeats: int
) -> tuple[list[Sample], bool]:
    """Return what was measured, and whether all predicted the same."""
    samples, answers = [], {}
    # What takes minutes is measured once, between what takes seconds.
    for variant in ("skewless", *PEERS, *["skewless"] * (repeats - 1)):
        options = (variant, model, f"{folder}/*.parquet")
        job = Job("flights", rows, folder, folder / variant, options)
        found = measure("predict_work", job, LIMIT)
        print(f"predicting {rows:,} rows {variant:24} {line(found)}", flush=True)
        if found.failure:
            raise SystemExit(f"{variant}: {found.failure}")
        samples.append(sample("predicting", "flights", variant, rows, found))
        answers[variant] = _answers(job.output / "predicted")
    ours = answers["skewless"]
    agreed = all(
        len(answers[name]) == len(ours) == rows and np.abs(answers[name] - ours).max() <= TOLERANCE
        for name in PEERS
    )
    return samples, agreed


def _answers(folder: pathlib.Path) -> npt.NDArray[np.float32]:
    """Return the predictions in the order of their flights."""
    files = sorted(folder.rglob("part-*"))
    tables = [pq.read_table(file, columns=[*KEY, "prediction"]) for file in files]
    seconds = pa.timestamp("s", tz="UTC")
    at = KEY.index("time_hour")
    table = pa.concat_tables(
        [t.set_column(at, "time_hour", t["time_hour"].cast(seconds)) for t in tables]
    )
    # Of a flight that is there several times all have the same prediction.
    order = table.sort_by([(name, "ascending") for name in KEY])
    return np.asarray(order["prediction"].to_numpy(), np.float32)


def _keep(found: list[Figure], path: pathlib.Path) -> None:
    """Put the figures in the place of earlier ones of this suite."""
    others = json.loads(path.read_text()) if path.exists() else []
    kept = [Figure(**one) for one in others if one["suite"] != "predicting"]
    write_json([*kept, *found], path)


def _markdown(measured: list[Figure]) -> str:
    sizes = sorted({figure.rows for figure in measured})
    found = {(f.variant, f.rows): f.value for f in measured if f.unit == "rows/s"}
    ratios = {f.rows: f.value for f in measured if f.unit == "ratio"}
    lines = [
        f"Machine: {machine.describe()}; {machine.versions()}. Rows of the flights run, Parquet to",
        "Parquet on the in-process runner, the loading of the model included, in processes of "
        "their own.",
        "",
        f"| rows/s of | {' | '.join(f'{rows:,} rows' for rows in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for name, words in WORDS.items():
        cells = " | ".join(f"{found[name, rows]:,.0f}" for rows in sizes)
        lines.append(f"| {words} | {cells} |")
    cells = " | ".join(f"{ratios[rows]:.1f}×" for rows in sizes)
    return "\n".join([*lines, f"| times the faster RunInference | {cells} |", ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
