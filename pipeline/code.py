"""The source code that a user's function depends on, so that a change of it is noticed."""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
from collections.abc import Iterator
from typing import Any

__all__ = ["source_of"]


def source_of(function: Any) -> dict[str, str]:
    """Return the text of a function's module and of its neighbours that it imports.

    Neighbours are modules in the same folder, directly imported or by one another. What is
    installed is known by its version, not by its text.

    Args:
        function: A function, a class, a `functools.partial` or a callable object.

    Returns:
        File name to text; where there is no file, the function's name to its repr.
    """
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = inspect.getmodule(named)
    file = getattr(module, "__file__", None)
    if file is None:
        return {named.__qualname__: repr(function)}
    found: dict[str, str] = {}
    waiting = [pathlib.Path(file)]
    while waiting:
        path = waiting.pop()
        if path.name not in found:
            found[path.name] = path.read_text(encoding="utf-8")
            waiting.extend(_neighbours(path, found[path.name]))
    return found


def _neighbours(path: pathlib.Path, text: str) -> Iterator[pathlib.Path]:
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
        for name in names:
            neighbour = path.parent / f"{name.split('.')[0]}.py"
            if neighbour.is_file():
                yield neighbour
