"""A recipe's whole journey: transform, train, export, evaluate, in one run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

from skewless import __version__
from skewless.errors import RecipeError, RunError
from skewless.pipeline.artifacts import RunPaths, digest_of, read_manifest
from skewless.pipeline.batch import transform
from skewless.pipeline.execution import Execution
from skewless.pipeline.ledger import Ledger
from skewless.pipeline.recipe import Recipe, load_recipe
from skewless.pipeline.stages import Display, Run
from skewless.pipeline.training import evaluate_model, export_model, train_model
from skewless.storage import AnyPath
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.files import whole_file
from skewless.transforms.sinks.rejected import rejected_to_json

__all__ = ["STAGES", "Journey", "Result", "fingerprint", "journey", "package_versions"]

STAGES = ("transform", "train", "export", "evaluate")
_PACKAGES = (
    "apache-beam",
    "keras",
    "numpy",
    "pyarrow",
    "tensorflow",
    "tensorflow-metadata",
    "tensorflow-model-analysis",
    "tensorflow-transform",
    "tfx-bsl",
)


@dataclasses.dataclass(frozen=True)
class Journey:
    """What to run and where.

    Args:
        recipe: The recipe's file.
        output: Runs lie in `<output>/<recipe name>/<run id>`.
        run_id: The run's name; made of the digests of recipe and inputs when absent, so
            that the same inputs lead to the same run.
        until: The last stage to do, of `STAGES`.
        execution: Where Beam runs.
        warm_start: A run to take the first weights from.
        baseline: A run to compare the metrics with.
        repaired: Repaired rows to put in the place of rejected ones.
    """

    recipe: pathlib.Path
    output: AnyPath
    run_id: str | None = None
    until: str = STAGES[-1]
    execution: Execution = dataclasses.field(default_factory=Execution)
    warm_start: AnyPath | None = None
    baseline: AnyPath | None = None
    repaired: tuple[Rejected, ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a journey: its run, ledger, and, when evaluated, metrics and blessing."""

    paths: RunPaths
    ledger: Ledger
    metrics: dict[str, Any] | None
    blessing: dict[str, Any] | None


def journey(wanted: Journey, display: Display) -> Result:
    """Do the stages of a recipe up to `until`; those that are done already are skipped.

    Raises:
        SkewlessError: If the recipe, the input or a stage is wrong; nothing of the failed
            stage is published, and the same call goes on where it stopped.
    """
    recipe = load_recipe(wanted.recipe)
    for argument, run_path, made in (
        ("--warm-start", wanted.warm_start, "train"),
        ("--baseline", wanted.baseline, "evaluate"),
    ):
        if run_path and made not in read_manifest(run_path).get("stages", {}):
            raise RecipeError(
                f"{argument} {run_path}: expected a run that did the stage `{made}`, "
                "as in runs/flights/0123456789ab"
            )
    with _opened(wanted, recipe, display) as run:
        last = STAGES.index(wanted.until)
        ledger = transform(run, recipe, wanted.execution, wanted.repaired)
        evaluated: dict[str, Any] = {}
        if last >= STAGES.index("evaluate") and not run.paths.row_parts("test"):
            raise RunError("there are no test rows to evaluate on; change the recipe's split")
        if last >= STAGES.index("train"):
            train_model(run, recipe, wanted.warm_start)
        if last >= STAGES.index("export"):
            export_model(run, recipe)
        if last >= STAGES.index("evaluate"):
            evaluated = evaluate_model(run, recipe, wanted.execution, wanted.baseline)
        return Result(run.paths, ledger, evaluated.get("metrics"), evaluated.get("blessing"))


@contextlib.contextmanager
def _opened(wanted: Journey, recipe: Recipe, display: Display) -> Iterator[Run]:
    inputs = fingerprint(recipe)
    identity = {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest(),
        "inputs_digest": digest_of(inputs),
        "repaired_digest": digest_of([list(map(str, row)) for row in wanted.repaired]),
    }
    run_id = wanted.run_id or digest_of(identity)[:12]
    root = wanted.output / recipe.name / run_id
    versions = package_versions()
    with Run.open(root, display, identity, versions) as run:
        run.manifest.update(
            inputs=inputs,
            recipe={"file": str(wanted.recipe.resolve()), "definition": recipe.describe()},
            seed=recipe.seed,
            versions=versions,
        )
        if wanted.repaired and not run.paths.repaired.exists():
            lines = "".join(f"{rejected_to_json(row)}\n" for row in wanted.repaired)
            with whole_file(run.paths.repaired) as path:
                path.write_text(lines, encoding="utf-8")
        yield run


def package_versions() -> dict[str, str]:
    """Return the versions of all that a feature or a prediction could depend on."""
    return {
        "skewless": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def fingerprint(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Return what tells the rows of every input from others: files with digests, say.

    Raises:
        DataError: If an input cannot be used.
    """
    return {name: source.fingerprint() for name, source in recipe.sources().items()}
