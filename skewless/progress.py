"""Counts of what this process has done so far, for a progress display to poll.

They are for the eye only: the ledger is made of data, never of these.
"""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["add", "reset", "snapshot"]

_lock = threading.Lock()
_counts: Counter[str] = Counter()


def add(name: str, n: int = 1) -> None:
    """Add `n` to the count `name`, for example `rows_read` or `epochs`."""
    with _lock:
        _counts[name] += n


def snapshot() -> dict[str, int]:
    """Return all counts as they are now."""
    with _lock:
        return dict(_counts)


def reset() -> None:
    """Set every count to zero, as at the start of a stage."""
    with _lock:
        _counts.clear()
