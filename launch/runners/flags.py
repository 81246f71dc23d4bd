"""Beam's options as a user gave them, and what a check of them found."""

from __future__ import annotations

import dataclasses
import socket
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Finding", "Flags", "address_of", "is_here", "listens"]

_HERE = frozenset(["localhost", "127.0.0.1", "::1"])
_CONNECT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was looked at, and if it is not as it should be, how to repair it.

    Args:
        what: What there is, or what is missing.
        ok: Whether a pipeline can run with it.
        repair: What to do.
    """

    what: str
    ok: bool = True
    repair: str = ""


class Flags(Mapping[str, str]):
    """Options in the form `--name=value`, by name; a switch has the value "true".

    >>> flags = Flags(["--parallelism=2", "--streaming"])
    >>> flags["parallelism"], flags.get("streaming"), flags.get("project")
    ('2', 'true', None)
    >>> flags.with_defaults(parallelism=4, region="europe-west1").words
    ('--parallelism=2', '--streaming', '--region=europe-west1')
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        parts = (word.removeprefix("--").partition("=") for word in words)
        self._values = {name: value if equals else "true" for name, equals, value in parts}

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def with_defaults(self, **defaults: object) -> Flags:
        """Return these options and those of `defaults` that are not given; True is a switch."""
        added = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in defaults.items()
            if name not in self and value is not None
        ]
        return Flags([*self.words, *added])


def address_of(url: str, port: int) -> tuple[str, int]:
    """Return the host and port that an address names.

    Args:
        url: As in `host`, `host:port`, or with a scheme before it.
        port: If it names none.

    >>> address_of("spark://cluster", 7077), address_of("cluster:8081", 80)
    (('cluster', 7077), ('cluster', 8081))
    """
    parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
    return parts.hostname or "localhost", parts.port or port


def is_here(host: str) -> bool:
    """Say whether a host is this machine, as its name tells."""
    return host in _HERE or host == socket.gethostname()


def listens(host: str, port: int) -> str | None:
    """Return why nobody can be reached there, or None."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return str(error)
    return None
