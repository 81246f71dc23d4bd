"""What a run of the benchmarks ran on."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re

PACKAGES = (
    "apache-beam",
    "tensorflow",
    "tensorflow-transform",
    "tfx-bsl",
    "pyarrow",
    "numpy",
    "isal",
)


def processor() -> str:
    text = _read("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown processor"


def memory_gigabytes() -> float:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) / 2**20 if found else float("nan")


def beam_version() -> str:
    return importlib.metadata.version("apache-beam")


def versions() -> str:
    known = [f"Python {platform.python_version()}"]
    known += [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return ", ".join(known)


def describe() -> str:
    return f"{os.cpu_count()} cores ({processor()}), {memory_gigabytes():.0f} GiB of memory"


def _read(path: str) -> str:
    file = pathlib.Path(path)
    return file.read_text() if file.exists() else ""
