"""The package as it is installed: built from a copy of the tree, into a fresh environment."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("pipeline", "transforms", "models", "launch")
# Where this environment's packages are.
OURS = pathlib.Path(pytest.__file__).parents[1]


def python(*arguments: object, cwd: pathlib.Path) -> str:
    """Run this Python; return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_tree(folder: pathlib.Path) -> pathlib.Path:
    """Copy what is built, so that a build leaves nothing behind in the repository."""
    copy = folder / "skewless"
    kept = {*FOLDERS, "skewless", "tests", "examples"}
    files = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"}
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in kept:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skipped)
    for name in files:
        shutil.copy(ROOT / name, copy / name)
    return copy


def build(tree: pathlib.Path, *kinds: str) -> pathlib.Path:
    """Build `wheel` or `sdist`, or both; return the folder that they are in."""
    flags = [f"--{kind}" for kind in kinds]
    python("-m", "build", "--no-isolation", *flags, "--outdir", "dist", cwd=tree)
    return tree / "dist"


def fresh_environment(folder: pathlib.Path, wheel: pathlib.Path) -> pathlib.Path:
    """Install a wheel, and nothing else, into a new environment; return its programs' folder.

    The dependencies come from `OURS`, which is for `PYTHONPATH`.
    """
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    return folder / "bin"
