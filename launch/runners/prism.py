"""Prism: Beam's portable runner of one machine, a program written in Go."""

from __future__ import annotations

import pathlib
import platform
import shutil
from collections.abc import Iterator

from skewless.launch.runners.downloads import check_file, downloads_folder, fetched
from skewless.launch.runners.flags import Finding, Flags

__all__ = ["BEAM", "check", "options"]

BEAM = "PrismRunner"

_LOCATION = "prism_location"


def options(given: Flags, *, streaming: bool) -> list[str]:
    """Return Beam's options: the program, and workers in this process."""
    program = fetched(_location(given), _folder())
    words = [word for word in given.words if not word.startswith(f"--{_LOCATION}=")]
    defaults = Flags(words).with_defaults(
        environment_type="LOOPBACK",
        prism_log_level="error",
        streaming=streaming or None,
        **{_LOCATION: program},
    )
    return list(defaults.words)


def check(given: Flags, *, streaming: bool) -> Iterator[Finding]:
    """See that the program is there, or can be fetched."""
    del streaming
    yield from check_file("Prism", _location(given), _folder(), f"--{_LOCATION}")


def _folder() -> pathlib.Path:
    return downloads_folder() / "prism" / "bin"


def _location(given: Flags) -> str:
    """Return where the program is: as given, as installed with Go, or to be fetched."""
    if _LOCATION in given:
        return given[_LOCATION]
    for found in (shutil.which("prism"), pathlib.Path("~/go/bin/prism").expanduser()):
        if found is not None and pathlib.Path(found).is_file():
            return str(found)
    from apache_beam.runners.portability.prism_runner import PrismJobServer
    from apache_beam.version import __version__ as version

    url: str = PrismJobServer._construct_download_url(
        f"v{version}", f"v{version}", platform.system(), platform.machine()
    )
    return url
