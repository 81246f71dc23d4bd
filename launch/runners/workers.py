"""How Beam's workers elsewhere come by skewless: as a source archive, or as a wheel."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import pathlib
import shutil
import tempfile
import zipfile

import skewless

__all__ = ["setup_file", "wheel"]

# What pip adds when it installs a wheel, and what is no part of one.
_NOT_OF_A_WHEEL = frozenset(["INSTALLER", "REQUESTED", "direct_url.json"])


def setup_file() -> pathlib.Path | None:
    """Return the `setup.py` of the clone that skewless is imported from, if it is one."""
    assert skewless.__file__ is not None
    root = pathlib.Path(skewless.__file__).resolve().parents[1]
    own = (root / "setup.py", root / "pyproject.toml", root / "launch", root / "pipeline")
    return own[0] if all(path.exists() for path in own) else None


@functools.cache
def wheel() -> pathlib.Path | None:
    """Return a wheel of the installed skewless, made of its files; None for a clone's.

    It is there until this process ends.
    """
    installed = importlib.metadata.distribution("skewless")
    files = [
        file
        for file in installed.files or ()
        if file.parts[0].startswith("skewless")
        and "__pycache__" not in file.parts
        and file.name not in _NOT_OF_A_WHEEL
    ]
    if not any(file.as_posix() == "skewless/__init__.py" for file in files):
        return None
    folder = pathlib.Path(tempfile.mkdtemp(prefix="skewless-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"skewless-{installed.version}-py3-none-any.whl"
    kept = {file.as_posix() for file in files}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            content = pathlib.Path(str(file.locate())).read_bytes()
            if file.name == "RECORD":
                lines = content.decode().splitlines(keepends=True)
                content = "".join(ln for ln in lines if ln.split(",")[0] in kept).encode()
            archive.writestr(file.as_posix(), content)
    return path
