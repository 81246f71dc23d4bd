"""This process: Beam's in-process runner, for a laptop."""

from __future__ import annotations

import os
from collections.abc import Iterator

from skewless.launch.runners.flags import Finding, Flags

__all__ = ["BEAM", "check", "options"]

# Beam's `DirectRunner` tries Prism first, which it downloads.
BEAM = "FnApiRunner"


def options(given: Flags, *, streaming: bool) -> list[str]:
    """Return Beam's options: those that were given."""
    del streaming
    return list(given.words)


def check(given: Flags, *, streaming: bool) -> Iterator[Finding]:
    """There is nothing that could be missing."""
    del given, streaming
    yield Finding(f"runs in this process, on {os.cpu_count()} cores")
