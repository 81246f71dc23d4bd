import json

import pytest

from skewless.launch.command_line import main
from tests.doubling import save_doubling
from tests.pipeline.pushable import VERSION, evaluate, make_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_doubling(tmp_path_factory.mktemp("saved") / "1")


@pytest.mark.integration
def test_push_label_and_roll_back(saved, tmp_path, capsys):
    to = str(tmp_path / "models")
    runs = {v: make_run(tmp_path / f"run-{v}", saved, v) for v in (VERSION, VERSION + 1)}
    evaluate(runs[VERSION + 1], blessed=False, version=VERSION + 1)
    assert main(["push", str(runs[VERSION].root), "--to", to, "--label", "stable"]) == 0
    shown = capsys.readouterr().err
    assert "1 recorded requests" in shown
    assert f"label   stable: none -> {VERSION}" in shown
    assert f"{VERSION} pushed" in shown
    newer = ["push", str(runs[VERSION + 1].root), "--to", to]
    assert main(newer) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "it is not blessed (auc 0.4, expected at least 0.5); repair it" in line
    assert main([*newer, "--label", "stable", "--override", "the [old] one fails"]) == 0
    shown = capsys.readouterr().err
    assert "overridden: it is not blessed (auc" in shown
    assert f"label   stable: {VERSION} -> {VERSION + 1}" in shown
    papers = tmp_path / "models" / str(VERSION + 1) / "assets.extra" / "push.json"
    assert json.loads(papers.read_text())["override"] == "the [old] one fails"
    assert main(["label", to, f"stable={VERSION}", f"canary={VERSION + 1}"]) == 0
    assert capsys.readouterr().out == f"canary={VERSION + 1}\nstable={VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["push", "no/such/run", "--to", "m"], 2, "no/such/run"),
        (["push", ".", "--to", "m"], 1, "there is no run here"),
        (["label", "m", "stable"], 2, "expected a name and a version, as in stable=3"),
        (["label", "m", "stable=one"], 2, "expected a name and a version, as in stable=3"),
        (["label", "m", "a/b=1"], 2, 'label "a/b": expected letters'),
        (["label", "m", "stable=1"], 2, "there is no version 1; the versions are none"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
