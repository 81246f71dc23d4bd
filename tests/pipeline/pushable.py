"""A run with a small model that is blessed and verified, made by hand."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from skewless.pipeline.artifacts import RunPaths, read_manifest, write_json
from skewless.pipeline.verify_report import VerifyReport, digest_compared, write_verify_report
from skewless.pipeline.verifying import Comparison

VERSION = 1700000000
IDENTITY = {"recipe": "small", "recipe_digest": "r", "inputs_digest": "i"}
FOUND = Comparison("SavedModel, all at once", rows=10, features=3)


def make_run(root: pathlib.Path, model: pathlib.Path, version: int = VERSION) -> RunPaths:
    """Write a run whose model is a copy of `model`."""
    paths = RunPaths(root)
    shutil.copytree(model, root / "model" / str(version))
    for name in ("transform_graph/saved_model.pb", "rows/test/part-0.parquet"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(name)
    write_json(paths.manifest, {"identity": IDENTITY, "versions": {}, "stages": {}})
    evaluate(paths, blessed=True, version=version)
    verify(paths)
    return paths


def evaluate(paths: RunPaths, blessed: bool, version: int = VERSION) -> None:
    """Let the run's manifest say what came of its evaluation."""
    manifest: dict[str, Any] = read_manifest(paths.root)
    blessing = {"blessed": blessed, "reasons": ["auc 0.4, expected at least 0.5"]}
    manifest["stages"] = {
        "export": {"result": {"version": version}},
        "evaluate": {"result": {"blessing": blessing}},
    }
    write_json(paths.manifest, manifest)


def verify(paths: RunPaths, *found: Comparison, limit: int | None = None) -> VerifyReport:
    """Write the report of what verify found."""
    return write_verify_report(paths, found or [FOUND], digest_compared(paths), limit)
