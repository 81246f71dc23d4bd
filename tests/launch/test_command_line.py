import os
import signal
import subprocess
import sys
import time

import pytest

from skewless.launch.command_line import main

LIGHT = """
import sys
from skewless.launch.command_line import main
try:
    code = main({arguments!r})
except SystemExit as stopped:
    code = stopped.code
heavy = [m for m in ("tensorflow", "apache_beam", "keras", "pyarrow") if m in sys.modules]
print("code", code, "heavy", heavy)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["run", "no/such/recipe.py"], 2), (["run", "--help"], 0), (["fly"], 2)],
)
def test_answers_at_once_without_loading_anything_heavy(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"code {code} heavy []" in done.stdout


def test_import_loads_nothing_heavy() -> None:
    program = (
        "import skewless, sys; print('tensorflow' in sys.modules, 'apache_beam' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "no/such.py"], "no/such.py"),
        (["verify", "no/such/run"], "no/such/run"),
        (["predict", "no/such/model", "-"], "no/such/model"),
        (["replay", ".", "no/such.jsonl"], "no/such.jsonl"),
        (["verify", "."], "there is no run here"),
        (["run", "r.py", "--run-id", "../../evil"], "run-id"),
        (["run", "r.py", "--output", "r.py"], "this is a file"),
        (["run", "r.py", "--s3_endpont_url=x"], "did you mean --s3_endpoint_url?"),
        (["run", "r.py", "--outptu", "x"], "--outptu: neither skewless nor Beam"),
    ],
)
def test_wrong_path_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text("")
    assert main(arguments) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("skewless: ")
    assert words in lines[0]


def test_to_be_told_to_stop_is_as_ctrl_c(
    capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    from skewless.launch import commands

    def work(options: object) -> int:
        del options
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return 0

    monkeypatch.setitem(commands.COMMANDS, "run", work)
    recipe = tmp_path / "r.py"
    recipe.write_text("")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["run", str(recipe)]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "stopped; the same command goes on" in capsys.readouterr().err
