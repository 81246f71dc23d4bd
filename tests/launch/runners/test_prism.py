"""Prism: which program, and with which options."""

import platform
import urllib.request

import pytest

from skewless.launch.runners import prism
from skewless.launch.runners.flags import Flags


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    return tmp_path


def program(path):
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_one_that_was_given(tmp_path) -> None:
    given = Flags([f"--prism_location={program(tmp_path / 'own' / 'prism')}", "--job_port=7"])
    assert prism.options(given, streaming=True) == [
        "--job_port=7",
        "--environment_type=LOOPBACK",
        "--prism_log_level=error",
        "--streaming",
        f"--prism_location={tmp_path}/own/prism",
    ]


@pytest.mark.parametrize("place", ["programs/prism", "go/bin/prism"])
def test_one_that_is_installed(place: str, tmp_path) -> None:
    found = program(tmp_path / place)
    (finding,) = prism.check(Flags([]), streaming=False)
    assert (finding.ok, finding.what) == (True, f"Prism at {found}")
    assert f"--prism_location={found}" in prism.options(Flags([]), streaming=False)


def test_one_to_be_fetched_without_a_network(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    # It remembers the proxies of before.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (finding,) = prism.check(Flags([]), streaming=False)
    assert not finding.ok
    assert "-prism-linux-amd64.zip: " in finding.what
    assert "refused" in finding.what
    assert finding.repair.endswith("give one: --prism_location=FILE")
