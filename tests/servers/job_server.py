"""Beam's job servers for Flink and Spark, as a jar that only names other jars."""

from __future__ import annotations

import pathlib
import urllib.parse
import zipfile
from collections.abc import Iterable

# The newest of which a repository has the runners' jars; newer SDKs speak with it.
BEAM = "2.62.0"

# A line of a manifest has no more bytes than this; a longer one goes on after a space.
_LINE = 72


def thin_jar(path: pathlib.Path, main: str, jars: Iterable[pathlib.Path]) -> pathlib.Path:
    """Write a jar that runs `main` with other jars as its class path.

    Beam's runners take one jar for a job server. One of the usual kind, with all classes inside,
    would be built with Gradle, in minutes.
    """
    # With a host's name Java finds them, and Beam does not: it would send them all with each job,
    # for 20 seconds, to clusters that have them.
    uris = " ".join(f"file://localhost{urllib.parse.quote(str(jar.absolute()))}" for jar in jars)
    lines = ["Manifest-Version: 1.0", f"Main-Class: {main}", *_wrapped(f"Class-Path: {uris}")]
    # A server may have the file of before open.
    new = path.with_suffix(".new")
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "".join(f"{line}\r\n" for line in lines))
    new.replace(path)
    return path


def _wrapped(line: str) -> list[str]:
    width = _LINE - 1
    rest = range(_LINE, len(line), width)
    return [line[:_LINE], *(f" {line[start : start + width]}" for start in rest)]
