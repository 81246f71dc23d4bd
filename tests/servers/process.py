"""Install, start, wait for and stop a server."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import pytest

# What is installed for servers alone is kept between runs.
FOLDER = pathlib.Path(__file__).parents[2] / "build" / "servers"

START_SECONDS = 120.0
# What is built and not only fetched.
_BUILD_SECONDS = 1800.0


def missing(reason: str) -> NoReturn:
    """Skip the test, for a server that cannot be had; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_depth = 0


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let no other process install meanwhile: it may be about to install the same."""
    global _depth
    if _depth:
        yield
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1


@one_at_a_time()
def install_python(name: str, *requirements: str) -> pathlib.Path:
    """Return the folder of programs of a virtual environment that holds `requirements`."""
    folder = FOLDER / name
    done = folder / "installed.txt"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _install([*command, *requirements], name)
        done.write_text(wanted)
    return folder / "bin"


@one_at_a_time()
def install_jars(name: str, *coordinates: str) -> pathlib.Path:
    """Return a folder with the jars `group:artifact:version` and all that they need."""
    folder = FOLDER / name
    done = folder / "installed.txt"
    wanted = "\n".join(coordinates)
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        dependencies = "".join(
            "<dependency><groupId>{}</groupId><artifactId>{}</artifactId>"
            "<version>{}</version></dependency>".format(*one.split(":"))
            for one in coordinates
        )
        (folder / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            f"<groupId>tests</groupId><artifactId>{name}</artifactId><version>1</version>"
            f"<dependencies>{dependencies}</dependencies></project>"
        )
        maven = install_debian("mvn", "maven")
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
        pom, jars = str(folder / "pom.xml"), str(folder / "jars")
        _install([maven, "-q", "-B", "-f", pom, goal, f"-DoutputDirectory={jars}"], name)
        done.write_text(wanted)
    return folder / "jars"


@one_at_a_time()
def install_go(name: str, package: str) -> pathlib.Path:
    """Return the path of the program of a package, as in `example.com/some/program@v1.2.3`."""
    path, _, version = package.partition("@v")
    folder = FOLDER / f"{name}-{version}"
    program = folder / path.rpartition("/")[2]
    if not program.exists():
        go = install_debian("go", "golang-go")
        _install(["env", f"GOBIN={folder}", go, "install", package], name, _BUILD_SECONDS)
    return program


@one_at_a_time()
def install_debian(program: str, *packages: str) -> str:
    """Return the path of a program, installed from Debian's packages where it is missing."""
    found = shutil.which(program)
    if found is None:
        _install(["apt-get", "install", "-y", "-qq", *packages], program)
        found = shutil.which(program)
    if found is None:
        missing(f"{program} is missing, also after apt-get install {' '.join(packages)}")
    return found


def _install(command: Sequence[str], name: str, seconds: float = 600) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=seconds)
    except (OSError, subprocess.SubprocessError) as error:
        # Maven says what is wrong on standard output.
        said = (getattr(error, "stdout", None) or b"") + (getattr(error, "stderr", None) or b"")
        missing(f"{name} cannot be installed: {error} {said.decode(errors='replace')[-500:]}")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: pathlib.Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    cwd: pathlib.Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, from when it is ready until the end of the block.

    Args:
        command: The program and its arguments.
        log: Where its output goes, shown when it does not start.
        ready: Whether it answers.
        env: Further environment variables.
        cwd: Its working directory.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace")[-3000:]
                pytest.fail(f"{command[0]} did not start: {said}", pytrace=False)
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def python() -> str:
    """Return this Python, for servers that are scripts of the tests."""
    return sys.executable
