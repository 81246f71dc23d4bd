"""What every protocol asks of a model, and how it is refused."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from skewless.errors import SkewlessError

__all__ = [
    "ROW_SIGNATURES",
    "Answer",
    "Arrays",
    "Code",
    "Deadline",
    "Request",
    "ServingError",
]

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
# When an answer is no longer wanted, as `time.monotonic()` counts; None for never.
Deadline: TypeAlias = float | None

# The signatures that take raw rows, one tensor a column.
ROW_SIGNATURES = ("predict_rows", "transform")


class Code(enum.Enum):
    """Why a request is refused: gRPC's names, and HTTP's status as TensorFlow Serving gives it."""

    INVALID_ARGUMENT = ("INVALID_ARGUMENT", 400)
    UNAUTHENTICATED = ("UNAUTHENTICATED", 401)
    NOT_FOUND = ("NOT_FOUND", 404)
    FAILED_PRECONDITION = ("FAILED_PRECONDITION", 412)
    INTERNAL = ("INTERNAL", 500)
    UNIMPLEMENTED = ("UNIMPLEMENTED", 501)
    RESOURCE_EXHAUSTED = ("RESOURCE_EXHAUSTED", 503)
    UNAVAILABLE = ("UNAVAILABLE", 503)
    DEADLINE_EXCEEDED = ("DEADLINE_EXCEEDED", 504)

    @property
    def http(self) -> int:
        """HTTP's status."""
        return self.value[1]


class ServingError(SkewlessError):
    """A request that is refused: one line for the client, without a stack or a path.

    Args:
        code: Why.
        message: The line.
        retry_after: In how many seconds the client may try again; None where that is of no use.
    """

    def __init__(self, code: Code, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.retry_after)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a model.

    Exactly one of `arrays` and `rows` is given.

    Attributes:
        arrays: The inputs of the signature by name, rows first.
        rows: Raw rows as JSON has them, by the names of columns (or of their arguments): a
            field left out or null is missing, bytes are text or `{"b64": ...}`. Only for
            `ROW_SIGNATURES`.
        signature: Its name; "" is `serving_default` for arrays, `predict_rows` for rows.
        version: The version asked for; None with no label is the newest.
        label: The label asked for instead.
        protocol: `rest` or `grpc`, for those who count.
        method: `predict`, `classify` or `regress`, likewise.
        deadline: When the answer is no longer wanted.
        trace: The W3C `traceparent` that it came with.
    """

    arrays: Arrays | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    signature: str = ""
    version: int | None = None
    label: str | None = None
    protocol: str = ""
    method: str = "predict"
    deadline: Deadline = None
    trace: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers.

    Attributes:
        outputs: The outputs of the signature by name; [rows, ...], but `<feature>/values` of
            `transform`, which `<feature>/row_lengths` divides.
        rows: How many rows were asked about.
        version: The version that answered.
        signature: The signature that answered.
        fed: The raw columns as the graph was fed them, read from a store or not, by the names
            of columns; None where it was fed other things.
    """

    outputs: Arrays
    rows: int
    version: int
    signature: str
    fed: Arrays | None = None
