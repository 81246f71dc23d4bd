"""The versions of a model below one folder: loaded beside each other, swapped, and taken away."""

from __future__ import annotations

import collections
import dataclasses
import gc
import json
import logging
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from skewless.errors import RecipeError, SkewlessError
from skewless.models.export import versions
from skewless.models.serving.requests import Code, ServingError

__all__ = ["LABELS", "Loaded", "VersionStatus", "Versions", "Watching", "read_labels"]

_log = logging.getLogger(__name__)

# Which version each label stands for, beside the versions.
LABELS = "labels.json"
_ENDED_SHOWN = 16


@dataclasses.dataclass(frozen=True)
class Watching:
    """Which versions are served.

    Attributes:
        newest: How many of the newest versions; those that a label stands for are served too.
        seconds: How often the folder is looked at.
        labels: Labels that hold whatever `labels.json` says.
    """

    newest: int = 1
    seconds: float = 2.0
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.newest < 1:
            raise RecipeError(f"newest={self.newest}; expected at least 1 version")
        if self.seconds <= 0:
            raise RecipeError(f"seconds={self.seconds}; expected more than 0")


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version, in TensorFlow Serving's words."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


class Loaded(Protocol):
    """What stands for a version while it is served."""

    def close(self) -> None:
        """Finish what was taken, and let go of the model."""


class Versions:
    """Watches a folder of versions, and keeps those loaded that are to be served.

    A new version is loaded and warmed up beside the old one, which is closed only when
    nothing new goes to it. One that cannot be loaded is refused until its files change,
    and the old one stays.

    Args:
        folder: The folder of versions, or a version itself.
        load: Returns what a version's directory holds, warmed up; raises if it is no good.
        watching: Which versions.
        changed: Is told the states, when one changes.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        load: Callable[[pathlib.Path], Loaded],
        watching: Watching,
        changed: Callable[[Mapping[int, str]], None] | None = None,
    ) -> None:
        self._folder = folder
        self._single = (folder / "saved_model.pb").is_file()
        self._load = load
        self._watching = watching
        self._changed = changed
        self._served: dict[int, Loaded] = {}
        self._states: collections.OrderedDict[int, VersionStatus] = collections.OrderedDict()
        self._refused: dict[int, float] = {}
        self._told_labels: dict[str, int] = {}
        self._given_labels: dict[str, int] = dict(watching.labels)
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="versions", daemon=True)

    def start(self) -> None:
        """Load what is there, and watch from now on.

        Raises:
            RecipeError: If there is no version that can be served.
        """
        self.look()
        if not self._served:
            failed = [s for s in self._states.values() if s.error_message]
            why = (
                failed[-1].error_message
                if failed
                else ("expected a SavedModel, or a folder of numbered versions of one")
            )
            raise RecipeError(f"model {self._folder}: nothing to serve: {why}")
        if not self._single:
            self._thread.start()

    def close(self) -> None:
        """Stop watching, and close all versions."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._looking:
            served, self._served = self._served, {}
            for version, loaded in served.items():
                self._close(version, loaded)

    def get(self, version: int | None = None, label: str | None = None) -> Loaded:
        """Return what is served as a version, a label, or the newest.

        Raises:
            ServingError: If it is not served.
        """
        served = self._served
        if label is not None:
            version = self.labels.get(label)
            if version is None:
                raise ServingError(
                    Code.NOT_FOUND,
                    f'there is no label "{label[:80]}"; the labels are '
                    f"{', '.join(sorted(self.labels)) or 'none'}",
                )
        if version is None:
            if not served:
                raise ServingError(
                    Code.UNAVAILABLE, "no version is loaded; try again later", retry_after=1.0
                )
            return served[max(served)]
        if version not in served:
            raise ServingError(
                Code.NOT_FOUND,
                f"version {version} is not served; versions "
                f"{', '.join(map(str, sorted(served))) or 'none'} are",
            )
        return served[version]

    @property
    def labels(self) -> Mapping[str, int]:
        """The labels, and the version of each."""
        return {**self._told_labels, **self._given_labels}

    def set_labels(self, labels: Mapping[str, int]) -> None:
        """Let labels stand for versions that are served.

        Raises:
            ServingError: If a version is not.
        """
        for label, version in labels.items():
            if version not in self._served:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f'label "{label[:80]}": version {version} is not served; load it first',
                )
        self._given_labels = dict(labels)

    def statuses(self) -> list[VersionStatus]:
        """Return the states of all versions, the newest first."""
        return sorted(self._states.copy().values(), key=_by_version, reverse=True)

    def look(self) -> None:
        """Look at the folder once: load what is new, close what is no longer served."""
        with self._looking:
            before = self._served
            self._read_labels()
            wanted = self._wanted()
            for version in sorted(set(self._served) - wanted):
                loaded = self._served[version]
                self._served = {v: s for v, s in self._served.items() if v != version}
                self._close(version, loaded)
                del loaded
            if self._served is not before:
                _settle()

    def _wanted(self) -> set[int]:
        """Load the newest versions that can be, and those of labels; return which."""
        there = {int(self._folder.name) if self._folder.name.isdecimal() else 0}
        if not self._single:
            there = set(versions(str(self._folder)))
        wanted = {v for v in self.labels.values() if v in there and self._is_served(v)}
        newest: list[int] = []
        for version in sorted(there, reverse=True):
            if len(newest) == self._watching.newest:
                break
            if self._is_served(version):
                newest.append(version)
        if not (wanted or newest) and self._served:
            # An empty folder is somebody's mistake sooner than a wish to serve nothing.
            return set(self._served)
        return wanted | set(newest)

    def _is_served(self, version: int) -> bool:
        """Say whether a version is served, after loading it if need be."""
        if version in self._served:
            return True
        path = self._folder if self._single else self._folder / str(version)
        try:
            written = (path / "saved_model.pb").stat().st_mtime
        except OSError:
            return False  # being written, or taken away
        if self._refused.get(version) == written:
            return False
        self._note(VersionStatus(version, "LOADING"))
        try:
            loaded = self._load(path)
        except Exception as error:
            # Whatever is wrong with it, the other versions go on.
            line = " ".join(str(error).split())[:500] or type(error).__name__
            _log.error("version %d is refused: %s", version, line)
            self._refused[version] = written
            shown = line if isinstance(error, SkewlessError) else f"cannot be loaded: {line}"
            self._note(VersionStatus(version, "END", "INTERNAL", shown))
            return False
        self._refused.pop(version, None)
        self._served = {**self._served, version: loaded}
        self._note(VersionStatus(version, "AVAILABLE"))
        return True

    def _close(self, version: int, loaded: Loaded) -> None:
        self._note(VersionStatus(version, "UNLOADING"))
        loaded.close()
        self._note(VersionStatus(version, "END"))

    def _note(self, status: VersionStatus) -> None:
        states = self._states.copy()
        states[status.version] = status
        states.move_to_end(status.version)
        ended = [v for v, s in states.items() if s.state == "END"]
        for version in ended[:-_ENDED_SHOWN]:
            del states[version]
        self._states = states
        if self._changed is not None:
            self._changed({v: s.state for v, s in states.items()})

    def _read_labels(self) -> None:
        if self._single:
            return
        try:
            self._told_labels = read_labels(self._folder)
        except RecipeError as error:
            _log.error("%s; the labels stay as they were", error)

    def _watch(self) -> None:
        while not self._stop.wait(self._watching.seconds):
            try:
                self.look()
            except Exception:
                _log.exception("the versions could not be looked at; they stay as they are")


def _settle() -> None:
    """Let go of what a version left behind, and spare the collector what stays.

    A collection looks at every object of TensorFlow, for a fifth of a second, in the middle of
    requests.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def read_labels(folder: pathlib.Path) -> dict[str, int]:
    """Return which version each label stands for; none where no file says so.

    Raises:
        RecipeError: If the file is not an object of labels and versions.
    """
    path = folder / LABELS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: no JSON: {error}") from None
    if not isinstance(found, dict) or any(type(v) is not int for v in found.values()):
        raise RecipeError(f'{path}: expected an object of labels and versions: {{"stable": 3}}')
    return found


def _by_version(status: VersionStatus) -> int:
    return status.version
