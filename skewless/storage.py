"""Paths wherever they are: a `pathlib.Path` on this machine, else a `RemotePath`.

What reads or writes by a file's name alone (TensorFlow does) is given one on this machine:
`local_copy`, `local_output`, `local_scratch`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from apache_beam.io.filesystems import FileSystems

from skewless.remote_path import SCHEME, RemotePath, client_errors

__all__ = [
    "AnyPath",
    "RemotePath",
    "client_errors",
    "files_below",
    "is_remote",
    "local_copy",
    "local_output",
    "local_scratch",
    "move",
    "move_files",
    "path_of",
    "paths_in",
    "remove_tree",
    "send_file",
]

AnyPath = pathlib.Path | RemotePath

_CHUNK = 4 << 20


def is_remote(path: str | os.PathLike[str] | AnyPath) -> bool:
    """Say whether a path is on another file system than this machine's.

    >>> is_remote("gs://bucket/runs"), is_remote("/data/runs"), is_remote("runs")
    (True, False, False)
    """
    return isinstance(path, RemotePath) or bool(SCHEME.match(os.fspath(path)))


def path_of(path: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """Return a path by which files are reached, wherever they are.

    >>> path_of("s3://bucket/runs") / "flights", path_of("runs").name
    (RemotePath('s3://bucket/runs/flights'), 'runs')
    """
    if isinstance(path, RemotePath):
        return path
    return RemotePath(os.fspath(path)) if is_remote(path) else pathlib.Path(path)


def paths_in(directory: AnyPath, pattern: str) -> list[AnyPath]:
    """Return what is in a directory and has such a name, sorted."""
    found: Iterable[AnyPath] = directory.glob(pattern)
    return sorted(found, key=str)


def files_below(directory: AnyPath, pattern: str) -> list[AnyPath]:
    """Return the files in a directory, and those below it, that have such a name, sorted."""
    found: Iterable[AnyPath] = directory.rglob(pattern)
    return sorted(found, key=str)


def move(source: AnyPath, target: AnyPath) -> None:
    """Move a file or directory to where nothing is, or a file, on the same file system."""
    if isinstance(target, pathlib.Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)  # type: ignore[arg-type]


def move_files(moves: Sequence[tuple[AnyPath, AnyPath]]) -> None:
    """Move files of one file system to where nothing is; in an object store many at once.

    Args:
        moves: Pairs of a file and where it is to be.
    """
    first = moves[0][0] if moves else None
    if isinstance(first, RemotePath) and not first.has_directories():
        with client_errors(first):
            FileSystems.rename([str(one) for one, _ in moves], [str(to) for _, to in moves])
        return
    for source, target in moves:
        move(source, target)


def remove_tree(path: AnyPath) -> None:
    """Delete a directory with all that is in it, if it is there."""
    if isinstance(path, pathlib.Path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.has_directories():
        path.unlink(missing_ok=True)
    elif files := path.files():
        with client_errors(path):
            FileSystems.delete([str(file) for file in files])


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[pathlib.Path]:
    """Give a file or directory on this machine: itself, or a copy for the block."""
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="skewless-") as folder:
        target = pathlib.Path(folder) / path.name
        files = [path] if path.is_file() else path.files()
        for file in files:
            local = target if file == path else target / file.relative_to(path)
            local.parent.mkdir(parents=True, exist_ok=True)
            with client_errors(file), file.open() as source, local.open("wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK)
        yield target


@contextlib.contextmanager
def local_output(path: AnyPath) -> Iterator[pathlib.Path]:
    """Give a place on this machine to write a file or directory to: itself, or to be sent there.

    What the block wrote goes to `path` when it is done, and nowhere when it fails.
    """
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="skewless-") as folder:
        source = pathlib.Path(folder) / path.name
        yield source
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in files:
            if file.is_file():
                target = path if file == source else path / file.relative_to(source)
                send_file(file, target)


def send_file(source: pathlib.Path, target: RemotePath) -> None:
    """Copy a file of this machine to another file system, in the place of one that is there.

    Raises:
        OSError: If it is empty, and the other file system S3.
    """
    if not source.stat().st_size and str(target).startswith("s3:"):
        raise OSError(f"{target}: Beam cannot write an empty file to S3")
    if target.has_directories():
        target.unlink(missing_ok=True)
        target.parent.mkdir()
    with client_errors(target), source.open("rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, _CHUNK)


@contextlib.contextmanager
def local_scratch(directory: str) -> Iterator[str]:
    """Give a directory on this machine for what no other machine reads.

    Args:
        directory: Where temporary files go: itself if it is on this machine.
    """
    if not is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="skewless-") as folder:
        yield folder
