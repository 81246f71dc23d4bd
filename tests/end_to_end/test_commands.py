"""Each stage is a command, and a later run can build on an earlier one."""

from __future__ import annotations

import pathlib

import pytest

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import latest_run, read_manifest
from skewless.pipeline.journey import Result


@pytest.mark.integration
def test_each_stage_is_a_command_that_does_what_is_missing(
    recipe_file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    for command, stages in {
        "transform": ["schema", "rows", "analyze", "examples"],
        "train": ["train"],
        "export": ["export"],
        "evaluate": ["evaluate"],
        "run": [],
    }.items():
        assert main([command, str(recipe_file), "--output", str(tmp_path)]) == 0
        shown = capsys.readouterr().err
        assert shown.count("unchanged") == len(done)
        done += stages
        assert set(read_manifest(latest_run(tmp_path))["stages"]) == set(done)


@pytest.mark.integration
def test_warm_start_and_baseline(
    result: Result, recipe_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = tmp_path / "improved_recipe.py"
    text = recipe_file.read_text().replace('[sk.at_least("auc", 0.5)]', '[sk.improves("auc")]')
    recipe.write_text(text.replace("epochs=2", "epochs=3"))
    earlier = str(result.paths.root)
    arguments = ["run", str(recipe), "--output", str(tmp_path)]
    assert main([*arguments, "--warm-start", earlier, "--baseline", earlier]) == 0
    stages = read_manifest(latest_run(tmp_path))["stages"]
    first = stages["train"]["result"]["history"][0]["loss"]
    cold = read_manifest(result.paths.root)["stages"]["train"]["result"]["history"][0]["loss"]
    assert first < cold
    assert "baseline" in " ".join(stages["evaluate"]["result"]["blessing"]["reasons"])
