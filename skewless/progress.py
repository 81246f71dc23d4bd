"""Counts of what this process has done so far, for a progress display to poll.

They are for the eye only: the ledger is made of data, never of these.
"""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["add", "note", "noted", "reset", "snapshot"]

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_notes: list[str] = []


def add(name: str, n: int = 1) -> None:
    """Add `n` to the count `name`, for example `rows_read`."""
    with _lock:
        _counts[name] += n


def note(text: str) -> None:
    """Say in a few words how far it is, for example `epoch 3, loss 0.41`."""
    with _lock:
        _notes[:] = [text]


def snapshot() -> dict[str, int]:
    """Return all counts as they are now."""
    with _lock:
        return dict(_counts)


def noted() -> str:
    """Return the last note, empty when there is none."""
    with _lock:
        return _notes[0] if _notes else ""


def reset() -> None:
    """Forget every count and note, as at the start of a stage."""
    with _lock:
        _counts.clear()
        _notes.clear()
