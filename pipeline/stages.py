"""Stages of a run: done once, skipped when nothing they depend on has changed."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from skewless import progress
from skewless.errors import RunError
from skewless.pipeline.artifacts import RunPaths, digest_of, read_manifest, write_json
from skewless.storage import AnyPath, RemotePath, move, remove_tree
from skewless.transforms.sinks.files import is_disk_full, write_error

__all__ = ["Display", "Quiet", "Run", "locked"]

Work = Callable[[AnyPath], dict[str, Any]]


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
    _token: str = ""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        root: AnyPath,
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
        held = manifest or {"identity": identity, "stages": {}}
        with locked(paths.work / "lock", root) as token:
            yield cls(paths, display, held, versions, _token=token)

    def perform(
        self, stage: str, depends_on: Any, outputs: Sequence[AnyPath], work: Work
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
        if done and done["key"] == key and self._are_there(done, outputs):
            self.display.skip(stage)
            result: dict[str, Any] = done["result"]
            return result
        folder = self.paths.work / f"{stage}-{key[:16]}"
        for stale in self.paths.work.glob(f"{stage}-*"):
            if stale != folder:
                remove_tree(stale)
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
            raise write_error(error.filename or folder, error) from error
        self.display.finish(stage, time.monotonic() - started)
        return result

    def _publish(
        self,
        stage: str,
        key: str,
        folder: AnyPath,
        outputs: Sequence[AnyPath],
        result: dict[str, Any],
        seconds: float,
    ) -> None:
        self._check_lock()
        # Forget the old result first: a kill from here on means the stage is done anew. And
        # the later ones: they were made from outputs that were lost, not from these.
        stages = self.manifest["stages"]
        if stages.pop(stage, None):
            for later in set(stages) - self._met:
                del stages[later]
            write_json(self.paths.manifest, self.manifest)
        for path in outputs:
            _move(folder / str(path).removeprefix(f"{self.paths.root}/"), path)
        self.manifest["stages"][stage] = {
            "key": key,
            "result": result,
            "seconds": round(seconds, 3),
            "outputs": [path.name for path in outputs if path.exists()],
        }
        write_json(self.paths.manifest, self.manifest)
        remove_tree(folder)

    @staticmethod
    def _are_there(done: dict[str, Any], outputs: Sequence[AnyPath]) -> bool:
        """Say whether what a stage made is still there; an object store has no empty folders."""
        made = done.get("outputs", [path.name for path in outputs])
        return all(path.exists() for path in outputs if path.name in made)

    def _check_lock(self) -> None:
        """See that no other process has taken the run over, where files cannot be locked."""
        lock = self.paths.work / "lock"
        if isinstance(lock, RemotePath) and lock.read_text() != self._token:
            raise RunError(
                f"{self.paths.root}: another process has begun to write to this run; nothing "
                "more is published by this one"
            )

    def key_of(self, stage: str) -> str:
        """Return the key a finished stage was done with, for stages that build on it."""
        return str(self.manifest["stages"][stage]["key"])

    def record(self, name: str, value: Any) -> None:
        """Put a top-level entry into the manifest."""
        self.manifest[name] = value
        write_json(self.paths.manifest, self.manifest)


@contextlib.contextmanager
def locked(lock: AnyPath, root: AnyPath) -> Iterator[str]:
    """Hold the lock of a run, or of another folder that is written to, for the block.

    Elsewhere than on this machine no file can be locked, and a process that was killed would
    leave its mark for ever. So the last to come has the run, and others find out before they
    publish.

    Yields:
        What the lock holds; empty on this machine.

    Raises:
        RunError: If another process of this machine has it.
    """
    if isinstance(lock, RemotePath):
        token = uuid.uuid4().hex
        lock.write_text(token)
        yield token
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{root}: another process is writing to it") from None
        yield ""


def _move(made: AnyPath, path: AnyPath) -> None:
    """Move what a stage made to where it belongs, in the place of an earlier one."""
    if isinstance(path, RemotePath) or path.is_dir():
        remove_tree(path)
    move(made, path)
