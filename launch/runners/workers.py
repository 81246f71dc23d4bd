"""skewless as a package that Beam's workers elsewhere install."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import skewless
from skewless.errors import RunError

__all__ = ["clone", "package"]

_BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
_BUILD_SECONDS = 120
# What pip adds when it installs a wheel, and what is no part of one.
_NOT_OF_A_WHEEL = frozenset(["INSTALLER", "REQUESTED", "direct_url.json"])


def clone() -> pathlib.Path | None:
    """Return the clone of the repository that skewless is imported from, if it is one."""
    assert skewless.__file__ is not None
    root = pathlib.Path(skewless.__file__).resolve().parents[1]
    own = ("setup.py", "pyproject.toml", "launch", "pipeline", "transforms", "models")
    return root if all((root / name).exists() for name in own) else None


@functools.cache
def package() -> pathlib.Path:
    """Return what this skewless is installed from: a clone's source archive, or a wheel.

    It is there until this process ends.

    Raises:
        RunError: If it can be neither.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="skewless-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = clone()
    return _wheel(folder) if root is None else _source_archive(root, folder)


def _source_archive(root: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Build with the clone's setup.py, as `--setup_file` would, but once, and without notices."""
    try:
        subprocess.run(
            [sys.executable, "-c", _BUILD, folder],
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
        )
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
        raise RunError(
            f"{root / 'setup.py'}: no source archive can be built for the workers: {said}; "
            "pip install setuptools, or give --sdk_container_image=IMAGE"
        ) from error
    (archive,) = folder.glob("*.tar.gz")
    return archive


def _wheel(folder: pathlib.Path) -> pathlib.Path:
    """Put the installed files together again."""
    installed = importlib.metadata.distribution("skewless")
    files = [
        file
        for file in installed.files or ()
        if file.parts[0].startswith("skewless")
        and "__pycache__" not in file.parts
        and file.name not in _NOT_OF_A_WHEEL
    ]
    kept = {file.as_posix() for file in files}
    if "skewless/__init__.py" not in kept:
        raise RunError(
            "skewless is installed in a way that cannot be packed for the workers; give "
            "--sdk_container_image=IMAGE, or --extra_packages=skewless-....whl"
        )
    path = folder / f"skewless-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            content = pathlib.Path(str(file.locate())).read_bytes()
            if file.name == "RECORD":
                lines = content.decode().splitlines(keepends=True)
                content = "".join(ln for ln in lines if ln.split(",")[0] in kept).encode()
            archive.writestr(file.as_posix(), content)
    return path
