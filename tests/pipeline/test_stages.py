import json
import pathlib
from typing import Any

import pytest

from skewless.errors import RunError
from skewless.pipeline.artifacts import RunPaths, read_manifest
from skewless.pipeline.stages import Quiet, Run

IDENTITY = {"recipe": "r", "recipe_digest": "d"}
VERSIONS = {"skewless": "0"}


class Work:
    """A stage's work that writes one file and remembers how often it was done."""

    def __init__(self, text: str = "done", fail: bool = False) -> None:
        self.text, self.fail, self.times = text, fail, 0

    def __call__(self, folder: pathlib.Path) -> dict[str, Any]:
        self.times += 1
        (folder / "examples").mkdir(exist_ok=True)
        (folder / "examples" / "part").write_text(self.text)
        if self.fail:
            raise RuntimeError("killed here")
        return {"rows": len(self.text)}


def perform(root: pathlib.Path, work: Work, depends_on: str = "a") -> dict[str, Any]:
    with Run.open(root, Quiet(), IDENTITY, VERSIONS) as run:
        return run.perform("examples", depends_on, [run.paths.examples], work)


def test_unchanged_stage_is_done_once(tmp_path: pathlib.Path) -> None:
    work = Work()
    assert perform(tmp_path, work) == perform(tmp_path, work) == {"rows": 4}
    assert work.times == 1


def test_changed_dependency_does_it_again(tmp_path: pathlib.Path) -> None:
    perform(tmp_path, Work("old"))
    perform(tmp_path, Work("new"), depends_on="b")
    assert (RunPaths(tmp_path).examples / "part").read_text() == "new"


def test_missing_output_does_it_again(tmp_path: pathlib.Path) -> None:
    work = Work()
    perform(tmp_path, work)
    (tmp_path / "examples" / "part").unlink()
    (tmp_path / "examples").rmdir()
    perform(tmp_path, work)
    assert work.times == 2


def test_failed_stage_publishes_nothing_and_keeps_its_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError):
        perform(tmp_path, Work(fail=True))
    assert not RunPaths(tmp_path).examples.exists()
    assert "examples" not in read_manifest(tmp_path).get("stages", {})
    assert [p.name for p in (tmp_path / ".work").glob("examples-*/examples/*")] == ["part"]
    perform(tmp_path, Work())
    assert not list((tmp_path / ".work").glob("examples-*"))


def test_directory_of_another_run_is_refused(tmp_path: pathlib.Path) -> None:
    perform(tmp_path, Work())
    other = Run.open(tmp_path, Quiet(), {**IDENTITY, "recipe_digest": "other"}, VERSIONS)
    with pytest.raises(RunError, match="holds another run"), other:
        pass


def test_directory_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with (
        pytest.raises(RunError, match="not empty"),
        Run.open(tmp_path, Quiet(), IDENTITY, VERSIONS),
    ):
        pass


def test_two_writers_are_refused(tmp_path: pathlib.Path) -> None:
    with (
        Run.open(tmp_path, Quiet(), IDENTITY, VERSIONS),
        pytest.raises(RunError, match="another process"),
        Run.open(tmp_path, Quiet(), IDENTITY, VERSIONS),
    ):
        pass


def test_damaged_manifest_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_manifest_is_json_with_results(tmp_path: pathlib.Path) -> None:
    perform(tmp_path, Work())
    stages = json.loads((tmp_path / "manifest.json").read_text())["stages"]
    assert stages["examples"]["result"] == {"rows": 4}
