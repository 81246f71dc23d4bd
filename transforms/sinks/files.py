"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import pathlib
import uuid
from collections.abc import Iterator

from skewless.errors import RunError
from skewless.storage import AnyPath, local_output

__all__ = ["is_disk_full", "named_errors", "whole_file", "write_error"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def whole_file(path: AnyPath) -> Iterator[pathlib.Path]:
    """Give a temporary path, moved to `path` on success and removed on failure.

    Raises:
        RunError: If the file cannot be written, for example because the disk is full.
    """
    if not isinstance(path, pathlib.Path):
        with named_errors(path), local_output(path) as local:
            yield local
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with named_errors(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: AnyPath | str) -> Iterator[None]:
    """Turn any failure of the file system into the error of `write_error`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def is_disk_full(error: OSError) -> bool:
    """Say whether `error` means that there is no room to write."""
    return error.errno in _DISK_FULL


def write_error(path: AnyPath | str, error: OSError) -> RunError:
    """Return the error for a file that could not be written, with the repair."""
    repair = "check the directory and its permissions"
    if is_disk_full(error):
        repair = "free some space and run the same command again: it goes on where it stopped"
    return RunError(f"cannot write {path}: {error.strerror or error}; {repair}")
