"""What a person sees while a command works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from skewless import progress

__all__ = ["Screen"]

_COUNTS = {
    "rows_read": "rows read",
    "rows_transformed": "rows transformed",
    "rows_compared": "rows compared",
}


class Screen:
    """A display on the terminal; on a pipe, one plain line for each stage.

    Attributes:
        console: Where it writes: standard error, so that output can be piped.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._started = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back, whatever happened."""
        self._stop()

    def start(self, stage: str) -> None:
        """Show a line that lives while the stage works."""
        self._started = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=lambda: Text(f"  {stage:<10} {self._how_far()}"),
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()

    def finish(self, stage: str, seconds: float) -> None:
        """Show what the stage has done."""
        self._stop()
        self.console.print(f"[green]✓[/] {stage:<10} {self._how_far(seconds)}", soft_wrap=True)

    def skip(self, stage: str) -> None:
        """Show that the stage is unchanged."""
        self.console.print(f"[dim]= {stage:<10} unchanged[/]")

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Show a stage while the block works."""
        progress.reset()
        self.start(stage)
        yield
        self.finish(stage, time.monotonic() - self._started)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _how_far(self, seconds: float | None = None) -> str:
        """Return the time, the rows, the rows a second and the last note."""
        taken = time.monotonic() - self._started if seconds is None else seconds
        words = [f"{taken:6.1f} s"]
        for name, n in progress.snapshot().items():
            if name in _COUNTS and taken:
                words.append(f"{n:,} {_COUNTS[name]}, {n / taken:,.0f} rows/s")
        return "   ".join([*words, progress.noted()]).rstrip()
