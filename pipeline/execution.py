"""Where a Beam pipeline runs, and with which engine it analyzes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import pathlib
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.runner import PipelineResult, PipelineState

from skewless import errors
from skewless.errors import RecipeError, RunError, SkewlessError
from skewless.storage import AnyPath, remove_tree

__all__ = ["IN_PROCESS", "Execution"]

# Beam's runner in this process; its `DirectRunner` would try Prism first, which it downloads.
IN_PROCESS = "FnApiRunner"

_RAISED = re.compile(r"^skewless\.errors\.(\w+Error): (.*)", re.MULTILINE)
_LOOK_SECONDS = 1.0
_OF_ELSEWHERE = re.compile(
    r"--(runner|streaming|job_endpoint|environment_(type|config|options?)|sdk_worker_parallelism)\b"
)
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
# What Beam's client and job server put before a reason.
_FAILED = re.compile(r"^Pipeline \S+ failed in state \w+: ")
_JAVA_TWICE = re.compile(r"^((?:[\w$]+\.)+[\w$]+: )\1+")
_REFUSED = "java.net.ConnectException"
# Whose errors are of a service, not of this program.
_SERVICES = ("google.api_core.", "apache_beam.runners.dataflow.")
_WHILE_RUNNING = re.compile(r"\s*\[while running '.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Execution:
    """A runner and its options, the same for every pipeline of a command.

    Args:
        runner: Beam's name of the runner.
        options: Further options as on Beam's command line: `--name=value`.
        analysis: The engine of `Analyze`.
        further: Names of options that the runner has besides those of Beam's Python SDK.
        ends_streams: Whether the runner ends a pipeline whose sources have ended; else it is
            cancelled then.
        cancel: Told the id of a pipeline that was cancelled, where Beam may leave it running.

    Raises:
        RecipeError: If nobody has such an option.
    """

    runner: str = IN_PROCESS
    options: tuple[str, ...] = ()
    analysis: str = "auto"
    further: frozenset[str] = frozenset()
    ends_streams: bool = True
    cancel: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        known = _names_of_beam() | self.further
        for option in self.options:
            name = option.removeprefix("--").partition("=")[0]
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean --{near[0]}?" if near else "see skewless --help"
                raise RecipeError(f"--{name}: neither skewless nor Beam has this option; {hint}")

    @property
    def project(self) -> str | None:
        """Google Cloud's project, if an option names one."""
        project: str | None = PipelineOptions(list(self.options)).get_all_options()["project"]
        return project

    def here(self) -> Execution:
        """Return where pipelines of little work run: in this process, with the same files.

        A runner elsewhere takes seconds for each, and one for streams may never end them.
        """
        if self.runner == IN_PROCESS:
            return self
        kept = [word for word in self.options if not _OF_ELSEWHERE.match(word)]
        return dataclasses.replace(
            self, runner=IN_PROCESS, options=tuple(kept), ends_streams=True, cancel=None
        )

    @contextlib.contextmanager
    def scratch(self, beside: AnyPath) -> Iterator[AnyPath]:
        """Make a folder for what a pipeline writes and is read here, for the block.

        Args:
            beside: A folder that workers reach, wherever they are.
        """
        if self.runner == IN_PROCESS:
            with tempfile.TemporaryDirectory() as name:
                yield pathlib.Path(name)
            return
        folder = beside / f".scratch-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            remove_tree(folder)

    def reach_files(self) -> None:
        """Let this process reach files by the options with which pipelines do."""
        FileSystems.set_options(PipelineOptions(list(self.options)))

    def run(
        self,
        build: beam.PTransform,
        within: float | None = None,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """Apply `build` to an empty pipeline and wait until it is done.

        Args:
            build: All of the pipeline.
            within: The seconds that it may take, where the runner is not this process.
            until: Asked every second: whether the pipeline is done, though the runner goes on.

        Raises:
            SkewlessError: As a step raised it, without Beam's stack of stages.
            RunError: If a runner elsewhere failed, or took longer; the pipeline is cancelled.
        """
        pipeline = beam.Pipeline(self.runner, options=PipelineOptions(list(self.options)))
        try:
            with _metrics_at_once():
                pipeline | build
                self._finish(pipeline.run(), within, until)
        except SkewlessError as error:
            raise type(error)(_WHILE_RUNNING.sub("", str(error))) from error
        except Exception as error:
            # A runner that works in other processes sends home no more than text.
            ours = isinstance(error, RuntimeError)
            if not ours and not type(error).__module__.startswith(_SERVICES):
                raise
            raise self._told(error) from error

    def _finish(
        self,
        result: PipelineResult,
        within: float | None,
        until: Callable[[], bool] | None,
    ) -> None:
        """Wait for a pipeline; cancel it when nobody waits for it any more."""
        try:
            if until is not None:
                while not PipelineState.is_terminal(result.state) and not until():
                    time.sleep(_LOOK_SECONDS)
            elif within is not None:
                result.wait_until_finish(duration=round(within * 1000))
            if (until is None and within is None) or PipelineState.is_terminal(result.state):
                result.wait_until_finish()
                return
            self._cancel(result)
        except KeyboardInterrupt:
            self._cancel(result)
            raise
        if within is not None:
            raise RunError(
                f"{self.runner}: no worker answered within {within:.0f} s; see that workers run "
                "where --environment_config says, and can reach this machine"
            )

    def _cancel(self, result: PipelineResult) -> None:
        result.cancel()
        if self.cancel is not None:
            self.cancel(result._job_id)

    def _told(self, error: Exception) -> Exception:
        """Return what a runner's text says, as an error of ours."""
        text = str(error)
        if found := _RAISED.findall(text):
            kind, message = found[-1]
            told: Exception = getattr(errors, kind)(_WHILE_RUNNING.sub("", message))
            return told
        if missing := _NO_MODULE.search(text):
            return RunError(
                f"{self.runner}: the workers have no package {missing[1]}; install the same "
                "there as here, or give them an image that has it"
            )
        if self.runner == IN_PROCESS:
            return error
        text = _JAVA_TWICE.sub(r"\1", _FAILED.sub("", text.strip()))
        first, *others = text.splitlines() or [type(error).__name__]
        # Dataflow tells the reason below, as the last line of a stack if there is one.
        reason = f" {others[-1].strip()}" if others and first.endswith(":") else ""
        repair = ""
        if _REFUSED in first:
            pool = PipelineOptions(list(self.options)).view_as(PortableOptions).environment_config
            if pool is not None:
                repair = f"; see that workers listen at {pool}, as --environment_config says"
        return RunError(f"{self.runner}: {first}{reason}{repair}")


def _names_of_beam() -> frozenset[str]:
    """Return the names of Beam's options, each as it may be given."""
    names: set[str] = set()

    def look(parser: argparse.ArgumentParser) -> None:
        names.update(word.removeprefix("--") for word in parser._option_string_actions)

    PipelineOptions([]).get_all_options(add_extra_args_fn=look)
    return frozenset(names)


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
