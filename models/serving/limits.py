"""How much a request may hold, checked before it costs anything."""

from __future__ import annotations

import dataclasses

import numpy as np

from skewless.errors import RecipeError
from skewless.models.serving.requests import Code, ServingError

__all__ = ["Limits", "check_depth", "check_instances", "too_large"]

# Braces as brackets: which of the two is wrong is the parser's business.
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(sorted(set(range(256)) - set(b'[]{}"')))
_AT_ONCE = 2**16


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest request that is answered.

    Attributes:
        body_bytes: Of a body, in bytes.
        instances: Of the rows in one request.
        json_depth: How deep lists and objects may lie in each other.

    Raises:
        RecipeError: If one is not a whole number from 1 on, or `json_depth` is more than the
            1,000 that every parser takes.
    """

    body_bytes: int = 16 * 2**20
    instances: int = 16_384
    json_depth: int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise RecipeError(
                    f"Limits({field.name}={value!r}): expected a whole number from 1 on"
                )
        if self.json_depth > 1000:
            raise RecipeError(f"Limits(json_depth={self.json_depth}): expected at most 1000")


def too_large(limits: Limits) -> str:
    """Return the line for who sent a body that is too large."""
    return f"the body is larger than {limits.body_bytes} bytes; send fewer rows at a time"


def check_depth(body: bytes, limits: Limits) -> None:
    """Refuse JSON whose lists and objects lie too deep in each other, without parsing it.

    Args:
        body: What may be JSON. What is no JSON passes, or is refused: the parser says more.
        limits: How deep they may lie.

    Raises:
        ServingError: INVALID_ARGUMENT if they lie deeper.

    >>> check_depth(b'{"a": "[[[["}', Limits(json_depth=1))
    >>> check_depth(b'[[1], [2]]', Limits(json_depth=2))
    """
    if body.count(b"[") + body.count(b"{") <= limits.json_depth:
        return
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(body.translate(_AS_BRACKETS, _OTHERS), np.uint8)
    depth, quoted = 0, False
    for start in range(0, len(marks), _AT_ONCE):
        part = marks[start : start + _AT_ONCE]
        inside = np.logical_xor.accumulate(part == ord('"')) ^ quoted
        steps = (part == ord("[")).astype(np.int8) - (part == ord("]"))
        steps[inside] = 0
        depths = steps.cumsum(dtype=np.int64) + depth
        if depths.max() > limits.json_depth:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"the body's lists and objects lie more than {limits.json_depth} deep in each "
                "other; expected less",
            )
        depth, quoted = int(depths[-1]), bool(inside[-1])


def check_instances(count: int, limits: Limits) -> None:
    """Refuse a request of too many rows.

    Raises:
        ServingError: INVALID_ARGUMENT if there are more than may be.
    """
    if count > limits.instances:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"the request has {count} instances; expected at most {limits.instances}; "
            "send fewer at a time",
        )
