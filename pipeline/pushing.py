"""A run's model to where servers take it from: checked, all at once, and with its papers."""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Mapping
from typing import Any

from skewless.errors import RecipeError, RunError
from skewless.models.serving.infra_check import InfraCheck, check_model
from skewless.pipeline.artifacts import (
    digest_of,
    digest_tree,
    file_digests,
    read_manifest,
    write_json,
)
from skewless.pipeline.labels import alone, check_label, set_label
from skewless.pipeline.stages import Quiet, Run
from skewless.pipeline.verify_report import read_verify_report
from skewless.storage import AnyPath, local_copy, move, remove_tree, send_file

__all__ = ["PUSHED", "Push", "Pushed", "push"]

# What the push leaves in the version: who, when, from where, and what was known of the model.
PUSHED = "assets.extra/push.json"
_MODEL = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class Push:
    """What to push, and where to.

    Args:
        run: The run whose newest model it is.
        to: The folder of versions that servers watch.
        override: Why the model is pushed though it is not blessed, or not verified; None
            refuses such a model.
        label: A label that is to stand for the version.

    Raises:
        RecipeError: If the reason is empty, or the label is none.
    """

    run: AnyPath
    to: AnyPath
    override: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.override is not None and not self.override.strip():
            raise RecipeError('--override "": expected the reason, which is kept with the model')
        if self.label is not None:
            check_label(self.label)


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What came of a push.

    Attributes:
        path: The version's directory.
        already: Whether this very model was there before, so that nothing was written.
        check: What the check said of it.
        overridden: What spoke against the push.
        label_before: The version that the label stood for before.
    """

    path: AnyPath
    already: bool
    check: InfraCheck
    overridden: tuple[str, ...] = ()
    label_before: int | None = None


def push(wanted: Push, check: Callable[[str], InfraCheck] = check_model) -> Pushed:
    """Copy a run's newest model to a folder of versions, where it appears whole.

    Args:
        wanted: What to push and where to.
        check: Says of a version on this machine whether it can serve.

    Raises:
        RunError: If the model cannot serve, or is neither blessed nor verified and there is
            no reason to push it in spite of that, or another model has its version there.
            Nothing is written then.
    """
    manifest = read_manifest(wanted.run)
    if "identity" not in manifest:
        raise RunError(f"{wanted.run}: there is no run here; expected a folder with manifest.json")
    with Run.open(wanted.run, Quiet(), manifest["identity"], manifest.get("versions", {})) as run:
        model = run.paths.newest_model()
        with local_copy(model) as local:
            digests = file_digests(local)
            papers = _papers(run, model, digest_of(digests))
            refusals = tuple(papers.pop("refusals"))
            if refusals and wanted.override is None:
                raise RunError(
                    f"{model}: not pushed: {'; '.join(refusals)}; repair it, or push it with "
                    '--override "the reason"'
                )
            checked = check(str(local))
            if not checked.ok:
                raise RunError(f"{model}: not pushed: it cannot serve: {checked.error}")
            record = {
                **papers,
                "infra_check": dataclasses.asdict(checked),
                "override": wanted.override,
                "overridden": list(refusals),
                "to": str(wanted.to),
            }
            target = wanted.to / model.name
            with alone(wanted.to):
                already = _is_there(target, digests)
                if not already:
                    _copy(local, target, digests, record)
        _remember(run, record)
    before = None
    if wanted.label is not None:
        before = set_label(wanted.to, wanted.label, int(target.name))
    return Pushed(target, already, checked, refusals, before)


# --- What is known of the model ---------------------------------------------------------


def _papers(run: Run, model: AnyPath, digest: str) -> dict[str, Any]:
    """Return what is known of a run's model, and under `refusals` what speaks against it."""
    stages, identity = run.manifest["stages"], run.manifest["identity"]
    exported = stages.get("export", {}).get("result", {}).get("version")
    evaluated = stages.get("evaluate", {}).get("result", {})
    blessing = evaluated.get("blessing") if str(exported) == model.name else None
    report = read_verify_report(run.paths)
    refusals = []
    if blessing is None:
        refusals.append("it is not evaluated")
    elif not blessing["blessed"]:
        refusals.append(f"it is not blessed ({'; '.join(blessing['reasons'])})")
    if report is None:
        refusals.append("it is not verified")
    elif refusal := report.refusal(digest):
        refusals.append(refusal)
    return {
        "version": int(model.name),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "user": _user(),
        "host": socket.gethostname(),
        "run": str(run.paths.root),
        "identity": identity,
        "model_digest": digest,
        "graph_digest": digest_tree(run.paths.transform_graph),
        "blessing": blessing,
        "verify": report
        and {
            "verdict": report.verdict,
            "time": report.time,
            "model_digest": report.model_digest,
            "limit": report.limit,
            "paths": report.paths,
        },
        "refusals": refusals,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # as in a container, where nobody has a name


def _remember(run: Run, record: Mapping[str, Any]) -> None:
    """Append to the run's manifest, unless it tells of this version there already."""
    told = run.manifest.get("pushes", [])
    what = ("to", "version", "model_digest")
    if not any(all(one.get(key) == record[key] for key in what) for one in told):
        run.record("pushes", [*told, record])


# --- Where it goes ----------------------------------------------------------------------


def _is_there(target: AnyPath, digests: Mapping[str, str]) -> bool:
    """Say whether this very model is there.

    Raises:
        RunError: If something else is.
    """
    if not target.exists():
        return False
    found = file_digests(target)
    found.pop(PUSHED, None)
    if found == digests:
        return True
    if not _has_directories(target) and _MODEL not in found and set(found) <= set(digests):
        return False  # what a push left that was stopped: the model itself is sent last
    raise RunError(
        f"{target}: another model is there already, or what is left of one; a version is never "
        "overwritten: remove it, or export the model again"
    )


def _has_directories(path: AnyPath) -> bool:
    return isinstance(path, pathlib.Path) or path.has_directories()


def _copy(
    local: pathlib.Path, target: AnyPath, digests: Mapping[str, str], record: Mapping[str, Any]
) -> None:
    """Copy a version, so that nobody takes a half of it for a model."""
    if not _has_directories(target):
        _send(local, target, [name for name in digests if name != _MODEL], digests)
        write_json(target / PUSHED, record)
        _send(local, target, [_MODEL], digests)
        return
    partial = target.with_name(f".{target.name}.partial")
    remove_tree(partial)
    try:
        _send(local, partial, list(digests), digests)
        write_json(partial / PUSHED, record)
        move(partial, target)
    finally:
        remove_tree(partial)


def _send(
    local: pathlib.Path, target: AnyPath, names: list[str], digests: Mapping[str, str]
) -> None:
    """Copy files, and read them again.

    Raises:
        RunError: If one did not arrive as it was.
    """
    for name in names:
        copy = target / name
        if isinstance(copy, pathlib.Path):
            copy.parent.mkdir(parents=True, exist_ok=True)
            with (local / name).open("rb") as source, copy.open("wb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
        else:
            send_file(local / name, copy)
    arrived = file_digests(target)
    for name in names:
        if arrived.get(name) != digests[name]:
            raise RunError(f"{target / name}: did not arrive as it was sent; push again")
