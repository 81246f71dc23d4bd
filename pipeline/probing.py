"""A pipeline of one row, to see that workers answer and are of the same making."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable

import apache_beam as beam

from skewless import __version__
from skewless.errors import RunError
from skewless.pipeline.execution import Execution

__all__ = ["check_worker", "probe", "versions_here"]

# A worker imports Beam and skewless first; a cluster may have to start it. On two cores with
# five times as much to do as they can, one has taken 20 seconds.
_ANSWER_SECONDS = 30.0


def versions_here() -> dict[str, str]:
    """Return the versions that must be the same where pipelines are made and where they run."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "apache-beam": beam.__version__, "skewless": __version__}


def check_worker(wanted: dict[str, str]) -> None:
    """See that this process is of the versions that are wanted.

    Raises:
        RunError: If it is not; names the first that differs.
    """
    for name, version in versions_here().items():
        if version != wanted[name]:
            raise RunError(
                f"the workers have {name} {version}, and this machine {wanted[name]}; install the "
                "same on both, or give the workers an image that was made with this one"
            )


def probe(execution: Execution) -> None:
    """Run a pipeline of one row.

    Raises:
        RunError: If no worker answers within 30 seconds, or it is of other versions.
    """
    execution.run(_AskWorker(versions_here()), within=_ANSWER_SECONDS)


@dataclasses.dataclass(eq=False)
class _AskWorker(beam.PTransform):  # type: ignore[misc]
    wanted: dict[str, str]

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[None]:
        return begin | "Ask" >> beam.Create([self.wanted]) | "Answer" >> beam.Map(_ask())


def _ask() -> Callable[[dict[str, str]], None]:
    """Return a function that goes to the workers whole."""

    # Where there is no skewless, this fails when it is called, and the worker says why. Of a
    # function that cannot even be loaded Flink hears nothing, and waits for ever.
    def ask(wanted: dict[str, str]) -> None:
        from skewless.pipeline.probing import check_worker

        check_worker(wanted)

    return ask
