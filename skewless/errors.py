"""Errors a person can act on: what was wrong, where, and the repair."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DataError", "RecipeError", "RunError", "SkewlessError", "no_such_column"]


class SkewlessError(Exception):
    """Base of every error that skewless raises on purpose.

    The message is one line for a person. `exit_code` is what the command returns.
    """

    exit_code = 1


class RecipeError(SkewlessError):
    """A recipe, argument or schema is wrong: nothing was run."""

    exit_code = 2


class RunError(SkewlessError):
    """A run failed or did not add up; nothing of the failed stage was published."""


class DataError(RunError):
    """The input itself cannot be used: a missing or empty file, too many rejected rows."""


def no_such_column(name: str, known: Iterable[str], where: str) -> RecipeError:
    """Return the error for a column that does not exist, naming the nearest one.

    Args:
        name: The column asked for.
        known: The columns there are.
        where: The argument or step that asked, e.g. `Require("arr_dely")`.

    Returns:
        The error, to be raised by the caller.

    >>> str(no_such_column("arr_dely", ["arr_delay", "dest"], 'Require("arr_dely")'))
    'Require("arr_dely"): there is no column "arr_dely"; did you mean "arr_delay"?'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"the columns are {', '.join(names)}"
    return RecipeError(f'{where}: there is no column "{name}"; {hint}')
