"""Run one variant on one job in this process, and say what it took.

Imports are done before the clock starts. What a variant's `run` returns, it has measured
itself. Run by `measure`, never by hand.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pathlib
import resource
import sys
import time

from tests.benchmarks.work import Job


def main(
    result: str, module_name: str, work: str, rows: str, data: str, output: str, *options: str
) -> None:
    job = Job(work, int(rows), pathlib.Path(data), pathlib.Path(output), options)
    logging.disable(logging.WARNING)
    module = importlib.import_module(f"tests.benchmarks.{module_name}")
    imported = _peak_megabytes()
    started, cpu = time.perf_counter(), time.process_time()
    own = module.run(job)
    measured = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_megabytes": _peak_megabytes(),
        "imported_megabytes": imported,
        **(own or {}),
    }
    pathlib.Path(result).write_text(json.dumps(measured))
    # What is measured is done; some runners crash while the interpreter goes down.
    os._exit(0)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
