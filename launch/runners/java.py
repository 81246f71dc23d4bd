"""The Java with which a job server is run."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

from skewless.launch.runners.flags import Finding, Flags

__all__ = ["check_java", "find_java"]

_ANSWER_SECONDS = 15
# `openjdk version "17.0.15"`, and of old `java version "1.8.0_402"`.
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def find_java(given: Flags) -> str:
    """Return the program: `--job_server_java_launcher`, that of JAVA_HOME, or `java`."""
    launcher = given.get("job_server_java_launcher")
    if launcher:
        return launcher
    home = os.environ.get("JAVA_HOME")
    return str(pathlib.Path(home, "bin", "java")) if home else "java"


def check_java(given: Flags, name: str, oldest: int, newest: int) -> Iterator[Finding]:
    """See that there is a Java, and of a version that the runner takes.

    Args:
        given: The user's options.
        name: The runner's.
        oldest: The first version that it runs on.
        newest: The last one.
    """
    program = find_java(given)
    repair = "install Java 17 (Debian: apt-get install openjdk-17-jre-headless)"
    if shutil.which(program) is None:
        yield Finding(f"there is no Java at {program}", False, f"{repair}, or set JAVA_HOME")
        return
    version = _version_of(program)
    if version is None:
        yield Finding(f"{program} does not run", False, f"{repair}, or set JAVA_HOME")
    elif not oldest <= version <= newest:
        what = f"{program} is Java {version}; {name} runs on Java {oldest} to {newest}"
        yield Finding(what, False, "set JAVA_HOME to another one")
    else:
        yield Finding(f"Java {version} at {program}")


def _version_of(program: str) -> int | None:
    try:
        done = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(done.stderr + done.stdout)
    return int(found[1]) if found and done.returncode == 0 else None
