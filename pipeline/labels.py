"""Labels of versions, beside them: which one is `stable`. A server watches the file."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import re
from collections.abc import Iterator

from skewless.errors import RecipeError
from skewless.models.serving.versions import LABELS, read_labels
from skewless.pipeline.artifacts import write_json
from skewless.storage import AnyPath, local_copy

__all__ = ["alone", "check_label", "labels_of", "set_label"]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def check_label(name: str) -> str:
    """Return the name of a label.

    Raises:
        RecipeError: If it could not be a part of an address.
    """
    if not _NAME.fullmatch(name):
        raise RecipeError(
            f'label "{name}": expected letters, digits, "-", "_" and "." only, as in stable'
        )
    return name


def labels_of(directory: AnyPath) -> dict[str, int]:
    """Return the labels of the versions in `directory`.

    Raises:
        RecipeError: If the file of labels is damaged.
    """
    with local_copy(directory / LABELS) as file:
        return read_labels(file.parent)


def set_label(directory: AnyPath, name: str, version: int) -> int | None:
    """Let a label stand for a version.

    Args:
        directory: The folder of versions.
        name: The label.
        version: A version that is there.

    Returns:
        The version that it stood for before.

    Raises:
        RecipeError: If it is no label, or there is no such version.
    """
    check_label(name)
    if not (directory / str(version) / "saved_model.pb").exists():
        there = sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())
        shown = ", ".join(map(str, there)) or "none"
        raise RecipeError(f"{directory}: there is no version {version}; the versions are {shown}")
    with alone(directory):
        labels = labels_of(directory)
        before = labels.get(name)
        write_json(directory / LABELS, {**labels, name: version})
    return before


@contextlib.contextmanager
def alone(directory: AnyPath) -> Iterator[None]:
    """Let nobody else of this machine change what is in `directory`, for the block."""
    if not isinstance(directory, pathlib.Path):
        yield  # no file can be locked there: the last to write a label has it
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
