"""The wheel and the sdist hold the whole tree, under one top-level name."""

import pathlib
import subprocess
import tarfile
import zipfile

import pytest

from tests.wheel import FOLDERS, OURS, ROOT, build, copy_tree, fresh_environment, python

MODULES = {
    *(f"skewless/{path.name}" for path in (ROOT / "skewless").glob("*.py")),
    *(
        f"skewless/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    ),
}
DEPLOYED = {
    f"launch/deploy/{path.name}"
    for path in (ROOT / "launch" / "deploy").iterdir()
    if path.is_file() and path.suffix != ".py"
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(copy_tree(tmp_path_factory.mktemp("tree")), "wheel", "sdist")


def test_the_wheel_holds_every_module_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(name for name in names if name.endswith(".py")) == sorted(MODULES)
    assert {name.split("/")[0] for name in names} == {"skewless"}
    assert "skewless/py.typed" in names
    assert {f"skewless/{name}" for name in DEPLOYED} <= set(names)


def test_the_sdist_holds_what_a_worker_needs_to_install_it(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if not m.isdir()}
        assert not any(member.issym() for member in archive.getmembers())
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", *DEPLOYED} <= names
    modules = {name for name in names if name.endswith(".py") and name != "setup.py"}
    folders = {name.removeprefix("skewless/") for name in MODULES if name.count("/") > 1}
    assert modules == folders | {name for name in MODULES if name.count("/") == 1}


def test_the_sdist_installs_on_its_own(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    python(*install, "--target", tmp_path / "site", sdist, cwd=tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import skewless.transforms.rows, skewless.models, skewless.pipeline, skewless.launch\n"
        "print(skewless.transforms.rows.__file__)"
    )
    printed = python("-c", code, cwd=tmp_path).strip()
    assert pathlib.Path(printed).is_relative_to(tmp_path / "site")


@pytest.mark.integration
def test_the_wheel_gives_a_fresh_environment_the_command(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    fresh = fresh_environment(tmp_path / "fresh", wheel)
    (site,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    code = f"import sys; sys.path.append({str(OURS)!r}); import skewless; print(skewless.__file__)"
    printed = subprocess.run(
        [fresh / "python", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert pathlib.Path(printed.strip()).is_relative_to(site)
    environment = {"PYTHONPATH": str(OURS)}
    done = subprocess.run(
        [fresh / "skewless", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    assert "verify" in done.stdout
