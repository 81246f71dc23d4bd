"""Paths with the day or the number of a span of data in them, and which spans to read."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from skewless.errors import DataError, RecipeError

__all__ = [
    "Found",
    "RollingRange",
    "Spans",
    "StaticRange",
    "find_files",
    "has_span",
    "without_spans",
]

Span = int | datetime.date

# What stands in a pattern, and what it matches.
_TOKENS = {
    "{SPAN}": r"(?P<span>\d+)",
    "{VERSION}": r"(?P<version>\d+)",
    "{YYYY}": r"(?P<year>\d{4})",
    "{MM}": r"(?P<month>\d{2})",
    "{DD}": r"(?P<day>\d{2})",
}
_TOKEN = re.compile("|".join(map(re.escape, _TOKENS)))
_GLOBS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_GLOB = re.compile(r"\*\*|\*|\?")


@dataclasses.dataclass(frozen=True)
class RollingRange:
    """The newest spans.

    Args:
        num_spans: How many.

    Raises:
        RecipeError: If it is less than 1.

    >>> RollingRange(2).select([3, 9, 7])
    [7, 9]
    """

    num_spans: int

    def __post_init__(self) -> None:
        if self.num_spans < 1:
            raise RecipeError(f"RollingRange(num_spans={self.num_spans}): expected at least 1")

    def select(self, spans: Iterable[Any]) -> list[Any]:
        """Return those of the spans there are that are meant, sorted."""
        return sorted(set(spans))[-self.num_spans :]


@dataclasses.dataclass(frozen=True)
class StaticRange:
    """The spans from one to another, both included.

    Args:
        start: The first: a number, or a day as a date or as `2013-01-31`.
        end: The last.

    Raises:
        RecipeError: If one is neither, or they are not in order.

    >>> StaticRange("2013-01-30", "2013-02-01").select([datetime.date(2013, 1, 31)])
    [datetime.date(2013, 1, 31)]
    """

    start: Span | str
    end: Span | str

    def __post_init__(self) -> None:
        start, end = _span(self.start, "start"), _span(self.end, "end")
        if isinstance(start, int) != isinstance(end, int) or start > end:
            raise RecipeError(
                f"StaticRange(start={self.start!r}, end={self.end!r}): expected two numbers or two "
                "days, the earlier first"
            )

    def select(self, spans: Iterable[Any]) -> list[Any]:
        """Return those of the spans there are that are meant, sorted."""
        start, end = _span(self.start, "start"), _span(self.end, "end")
        of_kind = [span for span in set(spans) if isinstance(span, int) == isinstance(start, int)]
        return sorted(span for span in of_kind if start <= span <= end)


Spans = RollingRange | StaticRange


def _span(value: Span | str, argument: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return datetime.date.fromisoformat(value)
    except ValueError:
        raise RecipeError(
            f'StaticRange({argument}="{value}"): expected a day, as in "2013-01-31", or a number'
        ) from None


class Found(NamedTuple):
    """A file: its path and its size in bytes."""

    path: str
    size: int


def has_span(pattern: str) -> bool:
    """Say whether the paths of a pattern say which span they are of.

    Raises:
        RecipeError: If a part of a day is missing, or a number is there twice.
    """
    tokens = _TOKEN.findall(pattern)
    days = {"{YYYY}", "{MM}", "{DD}"} & set(tokens)
    if days and len(days) < 3:
        raise RecipeError(f'"{pattern}": a day is {{YYYY}}, {{MM}} and {{DD}}; give all three')
    if days and "{SPAN}" in tokens:
        raise RecipeError(f'"{pattern}": give either {{SPAN}} or a day, not both')
    if "{VERSION}" in tokens and not days and "{SPAN}" not in tokens:
        raise RecipeError(f'"{pattern}": a {{VERSION}} is of a span; give {{SPAN}} or a day, too')
    return bool(tokens)


def without_spans(pattern: str) -> str:
    """Return the pattern without what stands for a span.

    >>> without_spans("flights-{YYYY}{MM}{DD}.csv")
    'flights-.csv'
    """
    return _TOKEN.sub("", pattern)


def find_files(pattern: str, spans: Spans | None = None) -> list[Found]:
    """Return the files that a pattern matches now, of each span those of the last version.

    Args:
        pattern: A path or glob on any Beam file system. `{SPAN}` stands for a number, `{YYYY}`,
            `{MM}` and `{DD}` for a day, `{VERSION}` for the version of a span.
        spans: Which spans; None for all.

    Raises:
        DataError: If the file system cannot be asked.
    """
    glob = _TOKEN.sub("*", pattern)
    try:
        matched = FileSystems.match([glob])[0].metadata_list
    except (OSError, BeamIOError, ValueError) as error:
        raise DataError(f'"{pattern}": cannot be listed ({error}); check the path') from error
    files = [Found(metadata.path, metadata.size_in_bytes) for metadata in matched]
    return list(_of_spans(files, pattern, spans)) if has_span(pattern) else files


def _of_spans(files: list[Found], pattern: str, spans: Spans | None) -> Iterator[Found]:
    expression = re.compile(_expression(pattern))
    placed = []
    for file in files:
        match = expression.search(file.path)
        place = match and _place(match.groupdict())
        if place:
            placed.append((*place, file))
    chosen = set(spans.select(span for span, _, _ in placed) if spans else (p[0] for p in placed))
    newest: dict[Any, int] = {}
    for span, version, _ in placed:
        newest[span] = max(version, newest.get(span, version))
    for span, version, file in placed:
        if span in chosen and version == newest[span]:
            yield file


def _expression(pattern: str) -> str:
    """Return a regular expression for the end of a path that matches a pattern."""
    parts: list[str] = []
    seen: set[str] = set()
    for part in re.split(f"({_TOKEN.pattern}|{_GLOB.pattern})", pattern.removeprefix("./")):
        if part in seen:
            name = _TOKENS[part].partition("<")[2].partition(">")[0]
            parts.append(f"(?P={name})")
        elif part in _TOKENS:
            seen.add(part)
            parts.append(_TOKENS[part])
        else:
            parts.append(_GLOBS.get(part) or re.escape(part))
    return "".join(parts) + r"\Z"


def _place(found: dict[str, str]) -> tuple[Any, int] | None:
    """Return the span and version that a path says; None for a day that there is not."""
    version = int(found.get("version") or 0)
    if "span" in found:
        return int(found["span"]), version
    try:
        day = datetime.date(int(found["year"]), int(found["month"]), int(found["day"]))
    except ValueError:
        return None
    return day, version
