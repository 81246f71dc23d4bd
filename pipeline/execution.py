"""Where a Beam pipeline runs, and with which engine it analyzes."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner

from skewless import errors
from skewless.errors import RecipeError, SkewlessError

__all__ = ["Execution"]

_RAISED = re.compile(r"^skewless\.errors\.(\w+Error): (.*)", re.MULTILINE)
_WHILE_RUNNING = re.compile(r"\s*\[while running '.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Execution:
    """A runner and its options, the same for every pipeline of a command.

    Args:
        runner: Beam's name of the runner. The default runs in this process; `DirectRunner`
            would try Prism first, which needs a download.
        options: Further options as on Beam's command line: `--name=value`.
        analysis: The engine of `Analyze`.

    Raises:
        RecipeError: If Beam has no such option.
    """

    runner: str = "FnApiRunner"
    options: tuple[str, ...] = ()
    analysis: str = "auto"

    def __post_init__(self) -> None:
        known = PipelineOptions([]).get_all_options()
        for option in self.options:
            name = option.removeprefix("--").partition("=")[0]
            if name not in known and name.removeprefix("no_") not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean --{near[0]}?" if near else "see skewless --help"
                raise RecipeError(f"--{name}: neither skewless nor Beam has this option; {hint}")

    @property
    def project(self) -> str | None:
        """Google Cloud's project, if an option names one."""
        project: str | None = PipelineOptions(list(self.options)).get_all_options()["project"]
        return project

    def reach_files(self) -> None:
        """Let this process reach files by the options with which pipelines do."""
        FileSystems.set_options(PipelineOptions(list(self.options)))

    def run(self, build: beam.PTransform) -> None:
        """Apply `build` to an empty pipeline and wait until it is done.

        Raises:
            SkewlessError: As a step raised it, without Beam's stack of stages.
        """
        try:
            with (
                _metrics_at_once(),
                beam.Pipeline(self.runner, options=PipelineOptions(list(self.options))) as begin,
            ):
                begin | build
        except SkewlessError as error:
            raise type(error)(_WHILE_RUNNING.sub("", str(error))) from error
        except RuntimeError as error:
            # A runner that works in other processes sends home no more than text.
            found = _RAISED.findall(str(error))
            if not found:
                raise
            kind, message = found[-1]
            raise getattr(errors, kind)(_WHILE_RUNNING.sub("", message)) from error


@contextlib.contextmanager
def _metrics_at_once() -> Iterator[None]:
    """Let the in-process runner add up a bundle's metrics when the bundle is done.

    It chains generators instead, one more for each bundle, that hold the metrics of all
    bundles until the end: the memory of a stream would grow for ever.
    """
    lazily = fn_runner.consolidate_monitoring_infos
    fn_runner.consolidate_monitoring_infos = functools.partial(_listed, lazily)
    try:
        yield
    finally:
        fn_runner.consolidate_monitoring_infos = lazily


def _listed(lazily: Callable[..., Iterable[Any]], metrics: Iterable[Any]) -> list[Any]:
    return list(lazily(metrics))
