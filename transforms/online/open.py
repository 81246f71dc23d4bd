"""Open an online store by its address."""

from __future__ import annotations

import os

from skewless.errors import RecipeError
from skewless.storage import is_remote
from skewless.transforms.online.redis import SCHEMES, RedisStore
from skewless.transforms.online.sqlite import SqliteStore
from skewless.transforms.online.store import OnlineStore

__all__ = ["open_store"]


def open_store(address: str | os.PathLike[str], timeout: float | None = None) -> OnlineStore:
    """Open an online store, made where there is none.

    Args:
        address: `redis://host:port/db`, with `?prefix=...` for another one than `skewless:`,
            or the path of a SQLite file.
        timeout: For how many seconds an answer is waited for, for those who cannot wait; None
            for as long as one who writes must.

    Raises:
        RecipeError: If the address is neither, or Redis's client is not installed.
        RunError: If the store cannot be opened.
    """
    place = os.fspath(address)
    if place.startswith(SCHEMES):
        return RedisStore(place, timeout)
    if not place or is_remote(place):
        # The rest of a URL may hold a password.
        raise RecipeError(
            f'Online store "{place.partition("://")[0]}": expected redis://host:port/db, or the '
            "path of a SQLite file on this machine"
        )
    return SqliteStore(place) if timeout is None else SqliteStore(place, timeout)
