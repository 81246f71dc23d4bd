"""Where everything of a run lies: the only place that names a path of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Collection
from typing import Any

from skewless.errors import RunError
from skewless.storage import AnyPath, RemotePath, client_errors, paths_in
from skewless.transforms.split import SPLITS

__all__ = [
    "SPLITS",
    "RunPaths",
    "digest_file",
    "digest_of",
    "digest_tree",
    "file_digests",
    "latest_run",
    "read_manifest",
    "write_json",
]

_MANIFEST = "manifest.json"
_ROW_PARTS = "part-*.parquet"


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """The files and folders of one run, below `root`."""

    root: AnyPath

    @property
    def manifest(self) -> AnyPath:
        """Inputs, versions, seeds, stages and the ledger."""
        return self.root / _MANIFEST

    @property
    def schema(self) -> AnyPath:
        """The schema of the rows that enter the graph."""
        return self.root / "schema.pbtxt"

    @property
    def input_schemas(self) -> AnyPath:
        """The schema of each input, `<input>.pbtxt`."""
        return self.root / "schemas"

    @property
    def rows(self) -> AnyPath:
        """What enters the graph: `<split>/part-*.parquet`."""
        return self.root / "rows"

    @property
    def examples(self) -> AnyPath:
        """What leaves the graph: `<split>/part-*.tfrecord.gz`, part by part as `rows`."""
        return self.root / "examples"

    @property
    def rejected(self) -> AnyPath:
        """Rejected rows: `rows/*.jsonl` before the graph, `transform/*.jsonl` by the graph."""
        return self.root / "rejected"

    @property
    def repaired(self) -> AnyPath:
        """The repaired rows that the run was given, as they were in `rejected/`."""
        return self.root / "repaired.jsonl"

    @property
    def transform_graph(self) -> AnyPath:
        """The transform graph in tf.Transform's own layout."""
        return self.root / "transform_graph"

    @property
    def training(self) -> AnyPath:
        """The trained Keras model and its history."""
        return self.root / "training"

    @property
    def model(self) -> AnyPath:
        """SavedModels, `<version>/`."""
        return self.root / "model"

    @property
    def sample(self) -> AnyPath:
        """A few raw test rows as JSON, as a client would send them."""
        return self.root / "sample.jsonl"

    @property
    def evaluation(self) -> AnyPath:
        """Metrics, in TFMA's format and as `metrics.json`."""
        return self.root / "evaluation"

    @property
    def verify_report(self) -> AnyPath:
        """What `skewless verify` found last, and of which model."""
        return self.root / "verify.json"

    @property
    def work(self) -> AnyPath:
        """Unfinished stages; never read by anybody else."""
        return self.root / ".work"

    def row_parts(self, split: str) -> list[AnyPath]:
        """Return the parts of rows of a split, in order."""
        return paths_in(self.rows / split, _ROW_PARTS)

    def rows_of(self, split: str) -> str:
        """Return the pattern of the parts of rows of a split, however many there are."""
        return str(self.rows / split / _ROW_PARTS)

    def example_parts(self, split: str) -> list[AnyPath]:
        """Return the parts of features of a split, in order."""
        return paths_in(self.examples / split, "part-*.tfrecord.gz")

    def newest_model(self) -> AnyPath:
        """Return the newest model version.

        Raises:
            RunError: If no model was exported.
        """
        versions = [p for p in self.model.glob("*") if p.name.isdigit()]
        if not versions:
            raise RunError(f"{self.root}: there is no exported model; run `skewless export`")
        return max(versions, key=lambda p: int(p.name))


def read_manifest(root: AnyPath) -> dict[str, Any]:
    """Return the manifest of the run at `root`, empty where there is none yet.

    Raises:
        RunError: If the file is not JSON.
    """
    path = root / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise RunError(f"{path}: not a manifest: {error}; remove the run and start again") from None
    return manifest


def latest_run(directory: AnyPath) -> AnyPath:
    """Return the run that `directory` is, or the newest run below it, finished ones first.

    Raises:
        RunError: If there is no run there.
    """
    if (directory / _MANIFEST).exists():
        return directory
    runs = [path.parent for path in directory.rglob(_MANIFEST)]
    if not runs:
        raise RunError(f"{directory}: there is no run here; expected a folder with {_MANIFEST}")
    return max(runs, key=_finished_and_when)


def _finished_and_when(run: AnyPath) -> tuple[bool, float]:
    finished = "evaluate" in read_manifest(run).get("stages", {})
    manifest = run / _MANIFEST
    when = manifest.modified() if isinstance(manifest, RemotePath) else manifest.stat().st_mtime
    return finished, when


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as JSON, replacing the file at once."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    if isinstance(path, RemotePath):
        path.write_text(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def digest_of(value: Any) -> str:
    """Return the digest of a JSON value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the digest of a local file's bytes."""
    return _digest(pathlib.Path(path))


def _digest(path: AnyPath) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with client_errors(path), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_digests(directory: AnyPath) -> dict[str, str]:
    """Return the digest of every file in a directory and those below, by its relative path."""
    if isinstance(directory, RemotePath):
        return {str(file.relative_to(directory)): _digest(file) for file in directory.files()}
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): _digest(path) for path in sorted(files)}


def digest_tree(directory: AnyPath, without: Collection[str] = ()) -> str:
    """Return the digest of a directory: of the names and the content of all files below.

    Args:
        directory: Where.
        without: Relative paths of files that do not count.
    """
    digests = file_digests(directory)
    return digest_of({name: digest for name, digest in digests.items() if name not in without})
