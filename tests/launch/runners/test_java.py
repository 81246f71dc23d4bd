"""Which Java there is, and whether a runner takes it."""

import pathlib

import pytest

from skewless.launch.runners.flags import Flags
from skewless.launch.runners.java import check_java, find_java
from tests.launch.runners.programs import java

LINES = {
    8: 'java version "1.8.0_402"',
    11: 'openjdk version "11.0.22" 2024-01-16',
    17: 'openjdk version "17.0.15" 2025-04-15',
    25: 'openjdk version "25" 2025-09-16',
}


@pytest.mark.parametrize("version", LINES)
def test_versions(version: int, tmp_path, monkeypatch) -> None:
    home = java(tmp_path, LINES[version])
    monkeypatch.setenv("JAVA_HOME", str(home))
    (flink,) = check_java(Flags([]), "Flink", 11, 21)
    (spark,) = check_java(Flags([]), "Spark", 8, 17)
    assert (flink.ok, spark.ok) == (11 <= version <= 21, version <= 17)
    for name, span, finding in (("Flink", "11 to 21", flink), ("Spark", "8 to 17", spark)):
        program = f"{home}/bin/java"
        wrong = f"{program} is Java {version}; {name} runs on Java {span}"
        assert finding.what == (f"Java {version} at {program}" if finding.ok else wrong)
        assert finding.ok or finding.repair == "set JAVA_HOME to another one"


def test_there_is_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (finding,) = check_java(Flags([]), "Flink", 11, 21)
    assert not finding.ok
    assert finding.what == f"there is no Java at {tmp_path}/bin/java"
    assert "openjdk-17-jre-headless), or set JAVA_HOME" in finding.repair


@pytest.mark.parametrize(("line", "code"), [(LINES[17], 1), ("who knows", 0)])
def test_one_that_does_not_run(line: str, code: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(java(tmp_path, line, code)))
    (finding,) = check_java(Flags([]), "Flink", 11, 21)
    assert (finding.ok, finding.what) == (False, f"{tmp_path}/bin/java does not run")


def test_the_option_comes_before_java_home_and_that_before_the_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert find_java(Flags([])) == "java"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java(Flags([])) == str(tmp_path / "bin" / "java")
    assert find_java(Flags(["--job_server_java_launcher=/opt/java"])) == "/opt/java"
