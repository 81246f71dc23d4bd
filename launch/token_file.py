"""The file that holds the token which requests to a server bear."""

from __future__ import annotations

import pathlib

from skewless.errors import RecipeError

__all__ = ["read_token"]


def read_token(path: pathlib.Path) -> str:
    """Return the token that a file holds.

    Raises:
        RecipeError: If it holds none, or one that no header can carry.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--token-file {path}: cannot be read: {error}") from None
    if not token or not token.isascii():
        raise RecipeError(f"--token-file {path}: expected the token alone, of ASCII characters")
    return token
