"""Stages of a run: done once, skipped when nothing they depend on has changed."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from skewless import progress
from skewless.errors import RunError
from skewless.pipeline.artifacts import RunPaths, digest_of, read_manifest, write_json
from skewless.transforms.sinks.files import is_disk_full, write_error

__all__ = ["Display", "Quiet", "Run"]

Work = Callable[[pathlib.Path], dict[str, Any]]


class Display(Protocol):
    """What a run tells whoever watches it."""

    def start(self, stage: str) -> None:
        """A stage begins."""

    def finish(self, stage: str, seconds: float) -> None:
        """A stage is done."""

    def skip(self, stage: str) -> None:
        """A stage is unchanged since the last time."""


class Quiet:
    """A display that shows nothing."""

    def start(self, stage: str) -> None:
        """Show nothing."""

    def finish(self, stage: str, seconds: float) -> None:
        """Show nothing."""

    def skip(self, stage: str) -> None:
        """Show nothing."""


@dataclasses.dataclass
class Run:
    """One run directory while stages are performed in it."""

    paths: RunPaths
    display: Display
    manifest: dict[str, Any]
    versions: dict[str, str]
    _met: set[str] = dataclasses.field(default_factory=set)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        root: pathlib.Path,
        display: Display,
        identity: dict[str, Any],
        versions: dict[str, str],
    ) -> Iterator[Run]:
        """Open a run directory for writing, alone.

        Args:
            root: The directory; made when absent.
            display: Told of every stage.
            identity: What the run is a run of; must be the same as long as it lives.
            versions: Of the packages; a stage that was done with others is done anew.

        Raises:
            RunError: If the directory holds another recipe's run or something else, or
                another process is writing to it.
        """
        paths = RunPaths(root)
        manifest = read_manifest(root)
        if manifest and manifest.get("identity") != identity:
            other = manifest.get("identity", {})
            raise RunError(
                f"{root} holds another run (recipe {other.get('recipe')}, digest "
                f"{str(other.get('recipe_digest'))[:12]}); choose another --run-id or --output"
            )
        if not manifest and not paths.work.exists() and root.exists() and any(root.iterdir()):
            raise RunError(f"{root} is not empty and not a run; choose another --output")
        try:
            paths.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(root, error) from error
        with (paths.work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"{root}: another process is writing to this run") from None
            held = manifest or {"identity": identity, "stages": {}}
            yield cls(paths, display, held, versions)

    def perform(
        self, stage: str, depends_on: Any, outputs: Sequence[pathlib.Path], work: Work
    ) -> dict[str, Any]:
        """Do a stage, unless it was done before with the very same dependencies.

        The work writes below a folder of its own, under the names of `outputs`; they are
        moved in place when all is well, and only then does the manifest tell of them. The
        folder outlives a killed process, so a stage may find there what it had done.

        Args:
            stage: Its name.
            depends_on: A JSON value; a stage with another value is done anew.
            outputs: Files or folders below the run that the stage makes.
            work: Given the folder to write to; returns a JSON object to remember.

        Returns:
            What the work returned, this time or the last.
        """
        key = digest_of({"depends_on": depends_on, "versions": self.versions})
        done = self.manifest["stages"].get(stage)
        self._met.add(stage)
        if done and done["key"] == key and all(path.exists() for path in outputs):
            self.display.skip(stage)
            result: dict[str, Any] = done["result"]
            return result
        folder = self.paths.work / f"{stage}-{key[:16]}"
        for stale in self.paths.work.glob(f"{stage}-*"):
            if stale != folder:
                shutil.rmtree(stale)
        started = time.monotonic()
        progress.reset()
        self.display.start(stage)
        try:
            folder.mkdir(exist_ok=True)
            result = work(folder)
            self._publish(stage, key, folder, outputs, result, time.monotonic() - started)
        except OSError as error:
            if not is_disk_full(error) and not isinstance(error, PermissionError):
                raise
            raise write_error(pathlib.Path(error.filename or folder), error) from error
        self.display.finish(stage, time.monotonic() - started)
        return result

    def _publish(
        self,
        stage: str,
        key: str,
        folder: pathlib.Path,
        outputs: Sequence[pathlib.Path],
        result: dict[str, Any],
        seconds: float,
    ) -> None:
        # Forget the old result first: a kill from here on means the stage is done anew. And
        # the later ones: they were made from outputs that were lost, not from these.
        stages = self.manifest["stages"]
        if stages.pop(stage, None):
            for later in set(stages) - self._met:
                del stages[later]
            write_json(self.paths.manifest, self.manifest)
        for path in outputs:
            made = folder / path.relative_to(self.paths.root)
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            made.replace(path)
        self.manifest["stages"][stage] = {
            "key": key,
            "result": result,
            "seconds": round(seconds, 3),
        }
        write_json(self.paths.manifest, self.manifest)
        shutil.rmtree(folder)

    def key_of(self, stage: str) -> str:
        """Return the key a finished stage was done with, for stages that build on it."""
        return str(self.manifest["stages"][stage]["key"])

    def record(self, name: str, value: Any) -> None:
        """Put a top-level entry into the manifest."""
        self.manifest[name] = value
        write_json(self.paths.manifest, self.manifest)
