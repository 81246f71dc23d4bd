"""What libraries tell without need, kept from the screen."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = [
    "job_messages_hidden",
    "lost_connections_hidden",
    "native_notices_hidden",
    "quiet_libraries",
]


@contextlib.contextmanager
def native_notices_hidden() -> Iterator[None]:
    """Hide what C++ code writes to standard error, unless the block fails.

    While it is loaded, TensorFlow writes a screenful about this machine's hardware, before
    any setting of its log can take effect.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as notices:
        kept = os.dup(2)
        os.dup2(notices.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            notices.seek(0)
            sys.stderr.write(notices.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quiet_libraries() -> None:
    """Keep libraries' notices from the screen; their errors stay."""
    import absl.logging

    for name in ("apache_beam", "tensorflow", "absl", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    absl.logging.set_verbosity(absl.logging.ERROR)


def job_messages_hidden() -> None:
    """Hide, from now on, what job servers tell of a job: why it failed is raised as well."""
    logging.getLogger().addFilter(_is_no_job_message)


def _is_no_job_message(record: logging.LogRecord) -> bool:
    return (record.module, record.funcName) != ("portable_runner", "read_messages")


def lost_connections_hidden() -> None:
    """Hide, from now on, that threads of this process lost the runner when a job was done.

    Their threads end with the runner's connection, each with a stack of its own.
    """
    if not isinstance(threading.excepthook, _UnlessLost):
        threading.excepthook = _UnlessLost(threading.excepthook)


@dataclasses.dataclass(frozen=True)
class _UnlessLost:
    shown: Callable[[Any], Any]

    def __call__(self, told: Any) -> None:
        import grpc

        lost = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        if not isinstance(told.exc_value, grpc.Call) or told.exc_value.code() not in lost:
            self.shown(told)
