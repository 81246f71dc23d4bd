"""`skewless doctor`: what was looked at, a line each."""

import types

import pytest

from skewless.launch.command_line import main
from skewless.launch.runners import choose
from skewless.launch.runners.flags import Finding


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("✓ runs in this process, on ")
    assert second.startswith("✓ a pipeline of one row ran in ")


def test_all_that_is_missing_is_told_with_its_repair(
    capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    jar = tmp_path / "absent.jar"
    assert main(["doctor", "--runner", "flink", f"--flink_job_server_jar={jar}"]) == 1
    java, flink, server = capsys.readouterr().err.splitlines()
    assert java.startswith(f"✗ there is no Java at {tmp_path}/nothing/bin/java; install Java 17")
    assert flink == "✓ Flink runs on this machine for as long as the command does"
    repair = "give one: --flink_job_server_jar=FILE"
    assert server == f"✗ Flink's job server {jar}: there is no such file; {repair}"


def test_a_stream_needs_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--runner", "spark", "--streaming"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("✗ Beam's Spark runner reads no unbounded source")


def test_what_looks_like_markup_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    found = [Finding("local[2] [red]", False, "see [docs]")]
    broken = types.SimpleNamespace(check=lambda given, *, streaming: found)
    monkeypatch.setitem(choose.RUNNERS, "prism", broken)
    assert main(["doctor", "--runner", "prism"]) == 1
    assert capsys.readouterr().err == "✗ local[2] [red]; see [docs]\n"


def test_a_wrong_option_is_no_illness(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--paralelism=2"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("skewless: --paralelism: neither skewless nor Beam has this option")
