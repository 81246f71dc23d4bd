"""The small suites: feeding a network, and the local runners."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

from tests.benchmarks.figures import Sample
from tests.benchmarks.measure import measure, prepare
from tests.benchmarks.transform import line, sample
from tests.benchmarks.work import Job

WAYS = ("per_record", "batched_features", "skewless_files", "cached", "skewless_memory")
RUNNERS = {
    "in_process": ("FnApiRunner",),
    "multi_threading": (
        *("FnApiRunner", "--direct_running_mode=multi_threading"),
        "--direct_num_workers=2",
    ),
    "multi_processing": (
        *("FnApiRunner", "--direct_running_mode=multi_processing"),
        "--direct_num_workers=2",
    ),
}
PRISM = "prism"
GET_PRISM = "go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{version}"
LIMIT = 300.0

Say = Callable[[str], None]


def training_input(rows: int, folder: pathlib.Path, say: Say) -> list[Sample]:
    """Measure every way to read the training part of `rows` flights."""
    made = Job("flights", rows, folder / "data", folder / "out" / "examples")
    prepare(made)
    written = measure("skewless_steps", made, LIMIT)
    if written.failure:
        raise SystemExit(f"training_input: there are no examples to read: {written.failure}")
    samples = []
    for way in WAYS:
        output = folder / "out" / way
        job = Job("flights", rows, made.data, output, (str(made.output), way))
        found = measure("training_input", job, LIMIT)
        say(f"training input {way:16} {line(found)}")
        read = int(found.found.get("rows", 0)) if not found.failure else rows
        samples.append(sample("training_input", "flights", way, read, found))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return samples


def find_prism() -> str | None:
    """Return the path of Prism where Go would have put it, or where the shell finds it."""
    places = [
        os.environ.get("PATH", ""),
        os.environ.get("GOBIN", ""),
        str(pathlib.Path(os.environ.get("GOPATH", pathlib.Path.home() / "go")) / "bin"),
    ]
    return shutil.which(PRISM, path=os.pathsep.join(places))


def runners(rows: int, folder: pathlib.Path, say: Say) -> list[Sample]:
    """Measure skewless' own pipelines on every local runner that is here."""
    known = dict(RUNNERS)
    if prism := find_prism():
        known[PRISM] = ("PrismRunner", f"--prism_location={prism}")
    samples = []
    for name, options in known.items():
        job = Job("flights", rows, folder / "data", folder / "out" / name, options)
        prepare(job)
        found = measure("skewless_steps", job, LIMIT)
        say(f"runner {name:18} {line(found)}")
        samples.append(sample("runners", "flights", name, rows, found))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return samples
