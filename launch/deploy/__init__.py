"""Files for containers, Kubernetes, Prometheus and Grafana, and the command that writes them."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import pathlib
import re
import sys

from skewless.errors import RecipeError

__all__ = ["constraints", "write_files"]

_NOT_WANTED = ("pip", "skewless")


def write_files(directory: pathlib.Path) -> list[pathlib.Path]:
    """Write the files, and `constraints.txt` of this environment, into a directory.

    Args:
        directory: Made when absent. A file that is there stays, if it is the same.

    Returns:
        The files.

    Raises:
        RecipeError: If another file of a name is there; nothing is written then.
    """
    there = importlib.resources.files(__name__).iterdir()
    kept = (one for one in there if one.is_file() and not one.name.endswith(".py"))
    wanted = {directory / one.name: one.read_bytes() for one in kept}
    wanted[directory / "constraints.txt"] = constraints().encode()
    for path, content in wanted.items():
        if path.exists() and path.read_bytes() != content:
            raise RecipeError(f"{path}: another file is there; remove it, or choose another folder")
    directory.mkdir(parents=True, exist_ok=True)
    for path, content in wanted.items():
        path.write_bytes(content)
    return sorted(wanted)


def constraints() -> str:
    """Return the versions of all that is installed here, as pip reads them.

    An image that is built with them has what the model was trained and verified with.
    """
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower()
        # What is installed from a folder has a version that no index knows.
        if name and name not in _NOT_WANTED and one.read_text("direct_url.json") is None:
            found.setdefault(name, one.version)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"# For Python {python}: docker build --build-arg PYTHON={python} ..."]
    lines += [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join([*lines, ""])
