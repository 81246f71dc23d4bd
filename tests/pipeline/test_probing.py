"""A pipeline of one row finds workers of another making."""

import subprocess
import sys

import apache_beam as beam
import cloudpickle
import pytest

from skewless import __version__
from skewless.errors import RunError
from skewless.pipeline import probing
from skewless.pipeline.execution import Execution
from skewless.pipeline.probing import check_worker, probe, versions_here


def test_versions_are_those_that_must_be_the_same() -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    expected = {"Python": python, "apache-beam": beam.__version__, "skewless": __version__}
    assert versions_here() == expected


def test_the_same_is_well() -> None:
    check_worker(versions_here())
    probe(Execution())


@pytest.mark.parametrize("name", ["Python", "apache-beam", "skewless"])
def test_the_first_that_differs_is_named_with_both_versions(name: str) -> None:
    has = versions_here()[name]
    expected = rf"^the workers have {name} {has}, and this machine 0\.0\.9; install the same on"
    with pytest.raises(RunError, match=expected):
        check_worker(versions_here() | {name: "0.0.9"})


def test_what_a_worker_raised_is_raised_here(monkeypatch) -> None:
    monkeypatch.setattr(probing, "versions_here", lambda: {"skewless": "0.0.9"})
    wanted = probing._AskWorker({"skewless": "7"})
    with pytest.raises(RunError, match=r"^the workers have skewless 0\.0\.9, and this machine 7; "):
        Execution().run(wanted)


def test_a_worker_without_skewless_can_load_it_and_says_so_when_it_is_called() -> None:
    function = cloudpickle.dumps(probing._ask())
    program = f"""
import sys
sys.modules["skewless"] = None
import cloudpickle
ask = cloudpickle.loads({function!r})
try:
    ask({{}})
except ModuleNotFoundError as error:
    print(error.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "skewless.pipeline"
