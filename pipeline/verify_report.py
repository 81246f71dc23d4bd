"""What `skewless verify` found, kept in the run: of which model, rows and features, by digest."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

from skewless.errors import RunError
from skewless.pipeline.artifacts import RunPaths, digest_tree, file_digests, write_json
from skewless.pipeline.journey import package_versions
from skewless.pipeline.verifying import Comparison

__all__ = [
    "IDENTICAL",
    "Compared",
    "VerifyReport",
    "digest_compared",
    "read_verify_report",
    "write_verify_report",
]

IDENTICAL, _DIFFERS = "identical", "differs"


@dataclasses.dataclass(frozen=True)
class Compared:
    """What is compared, as it was before.

    Attributes:
        model_version: The version of the model.
        model_digest: Of all files of the version.
        graph_digest: Of all files of the transform graph.
        rows: Of each part of the rows, by its path below `rows/`.
        examples: Of each part of the examples, by its path below `examples/`.
    """

    model_version: int
    model_digest: str
    graph_digest: str
    rows: dict[str, str]
    examples: dict[str, str]


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """A report, as it is in `verify.json`.

    Attributes:
        verdict: `identical` or `differs`.
        time: When it was written, UTC.
        versions: Of the packages.
        model_version: As in `Compared`, like the digests.
        model_digest: See there.
        graph_digest: See there.
        rows: See there.
        examples: See there.
        limit: How many rows of each part were compared at most; None for all.
        paths: The table: path, rows, features, differing and bits of each comparison.
    """

    verdict: str
    time: str
    versions: dict[str, str]
    model_version: int
    model_digest: str
    graph_digest: str
    rows: dict[str, str]
    examples: dict[str, str]
    limit: int | None
    paths: list[dict[str, Any]]

    def refusal(self, model_digest: str) -> str:
        """Return why the report is no proof for a model; nothing if it is."""
        if self.model_digest != model_digest:
            return f"the report of verify is of another model ({self.model_version})"
        if self.verdict != IDENTICAL:
            differing = sum(path["differing"] for path in self.paths)
            return f"verify found {differing:,} values that differ"
        if self.limit is not None:
            return f"verify compared no more than {self.limit:,} rows of each part"
        return ""


def digest_compared(paths: RunPaths) -> Compared:
    """Return the digests of what `verify` will compare.

    Raises:
        RunError: If no model was exported.
    """
    model = paths.newest_model()
    return Compared(
        model_version=int(model.name),
        model_digest=digest_tree(model),
        graph_digest=digest_tree(paths.transform_graph),
        rows=file_digests(paths.rows),
        examples=file_digests(paths.examples),
    )


def write_verify_report(
    paths: RunPaths,
    comparisons: Sequence[Comparison],
    compared: Compared,
    limit: int | None = None,
) -> VerifyReport:
    """Write what was found into the run, in the place of an earlier report.

    Args:
        paths: The run.
        comparisons: What was found, way by way.
        compared: What was compared, see `digest_compared`.
        limit: How many rows of each part were compared at most; None for all.

    Returns:
        The report. Its verdict is `identical` only where rows were compared in every way.

    Raises:
        RunError: If the model is no longer the same.
    """
    if digest_tree(paths.newest_model()) != compared.model_digest:
        raise RunError(f"{paths.root}: the model has changed while it was verified; verify again")
    same = [found.rows > 0 and not found.differing for found in comparisons]
    report = VerifyReport(
        verdict=IDENTICAL if same and all(same) else _DIFFERS,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
        limit=limit,
        paths=[
            {
                "path": found.path,
                "rows": found.rows,
                "features": found.features,
                "differing": found.differing,
                "bits": found.bits,
            }
            for found in comparisons
        ],
        **dataclasses.asdict(compared),
    )
    write_json(paths.verify_report, dataclasses.asdict(report))
    return report


def read_verify_report(paths: RunPaths) -> VerifyReport | None:
    """Return what `verify` found last, or None if the run was never verified.

    Raises:
        RunError: If the file is not such a report.
    """
    try:
        text = paths.verify_report.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return VerifyReport(**json.loads(text))
    except (ValueError, TypeError):
        raise RunError(
            f"{paths.verify_report}: not a report of verify; run `skewless verify` again"
        ) from None
