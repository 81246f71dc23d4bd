"""The Dockerfiles, read."""

from __future__ import annotations

import pathlib
import re

DEPLOY = pathlib.Path(__file__).parents[1] / "launch" / "deploy"


def instructions(name: str) -> dict[str, str]:
    """Return the instructions of a Dockerfile: the last of each, but every RUN and COPY.

    Those of a build stage are there too, where the last stage does not have its own.
    """
    text = re.sub(r"^#.*\n", "", (DEPLOY / name).read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found: dict[str, str] = {}
    for line in filter(None, lines):
        word, _, rest = line.partition(" ")
        many = word in ("RUN", "COPY") and word in found
        found[word] = f"{found[word]}\n{rest}" if many else rest
    return found
