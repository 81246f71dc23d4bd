"""Who wants to know what a server does: metrics, logs and traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from skewless.models.serving.requests import Answer, Code, Request

__all__ = ["Observer", "Quiet"]


class Observer(Protocol):
    """Is told what happens; called from many threads, and must neither fail nor take long."""

    def answered(
        self, request: Request, answer: Answer | None, code: Code | None, seconds: float
    ) -> None:
        """Note a request: its answer, or why there is none, and how long it took in all."""

    def batched(self, requests: int, rows: int, seconds: float) -> None:
        """Note a call of the model: for how many requests and rows, and how long it took."""

    def queued(self, requests: int) -> None:
        """Note how many requests wait."""

    def loaded(self, states: Mapping[int, str]) -> None:
        """Note the state of each version, by TensorFlow Serving's names, when one changes."""

    def asked_store(self, rows: int, seconds: float, failed: bool) -> None:
        """Note a read of the online store, for how many rows."""


class Quiet:
    """An observer that minds nothing, for those who want to hear of some things only."""

    def answered(
        self, request: Request, answer: Answer | None, code: Code | None, seconds: float
    ) -> None:
        """See `Observer`."""

    def batched(self, requests: int, rows: int, seconds: float) -> None:
        """See `Observer`."""

    def queued(self, requests: int) -> None:
        """See `Observer`."""

    def loaded(self, states: Mapping[int, str]) -> None:
        """See `Observer`."""

    def asked_store(self, rows: int, seconds: float, failed: bool) -> None:
        """See `Observer`."""
