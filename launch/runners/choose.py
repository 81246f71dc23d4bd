"""From the name of a runner to one that is ready to take pipelines."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from skewless.errors import RunError
from skewless.launch.notices import job_messages_hidden, lost_connections_hidden
from skewless.launch.runners import dataflow, direct, flink, prism, spark
from skewless.launch.runners.flags import Finding, Flags
from skewless.pipeline.execution import Execution
from skewless.pipeline.probing import probe

__all__ = ["RUNNERS", "Runner", "execution_of", "execution_on", "prepared"]


class Runner(Protocol):
    """What a runner's module has."""

    BEAM: str

    def check(self, given: Flags, *, streaming: bool) -> Iterator[Finding]:
        """Look for all that a pipeline needs."""

    def options(self, given: Flags, *, streaming: bool) -> list[str]:
        """Return Beam's options: those given, and defaults."""


RUNNERS: dict[str, Runner] = {
    "direct": direct,
    "prism": prism,
    "flink": flink,
    "spark": spark,
    "dataflow": dataflow,
}
_SERVERS: dict[str, Callable[[Flags], list[str]]] = {"flink": flink.server, "spark": spark.server}
_OF_STREAMS = ("--streaming", "--savepoint_path")


def execution_of(options: argparse.Namespace, *, streaming: bool = False) -> Execution:
    """Return where the pipelines of a command run.

    Args:
        options: The command's, with `runner` and `beam`; or with `execution`, which it is then.
        streaming: As in `execution_on`.
    """
    ready: Execution | None = getattr(options, "execution", None)
    if ready is not None:
        return ready
    analysis = getattr(options, "analysis", "auto")
    words = list(options.beam)
    recipe = getattr(options, "recipe", None)
    if options.runner == "dataflow" and recipe is not None:
        words += dataflow.recipe_labels(recipe)
    execution = execution_on(options.runner, words, analysis=analysis, streaming=streaming)
    execution.reach_files()
    return execution


def execution_on(
    name: str,
    words: Sequence[str],
    *,
    analysis: str = "auto",
    streaming: bool = False,
) -> Execution:
    """Return where pipelines run, after seeing that they can.

    Args:
        name: One of `RUNNERS`.
        words: Beam's options as a user gave them.
        analysis: The engine of `Analyze`.
        streaming: Whether the pipeline is one without an end.

    Raises:
        RecipeError: If nobody has such an option.
        RunError: If something is missing, with how to get it.
    """
    for finding in RUNNERS[name].check(Flags(words), streaming=streaming):
        if not finding.ok:
            raise RunError(f"--runner {name}: {finding.what}; {finding.repair}")
    return prepared(name, words, analysis=analysis, streaming=streaming)


def prepared(
    name: str,
    words: Sequence[str],
    *,
    analysis: str = "auto",
    streaming: bool = False,
    probing: bool = False,
) -> Execution:
    """Return where pipelines run, where all that they need has been found.

    Args:
        name: As in `execution_on`.
        words: As in `execution_on`.
        analysis: As in `execution_on`.
        streaming: As in `execution_on`.
        probing: Whether to run a pipeline of one row first, also where workers are in this
            process; elsewhere that is done in any case.

    Raises:
        RecipeError: If nobody has such an option.
        RunError: If no worker answers, or those that do have other versions.
    """
    runner, given = RUNNERS[name], Flags(words)
    known: frozenset[str] = frozenset()
    flags = runner.options(given, streaming=streaming)
    is_loopback = Flags(flags).get("environment_type") == "LOOPBACK"
    if is_loopback or name in _SERVERS:
        lost_connections_hidden()
    if name in _SERVERS:
        job_messages_hidden()
        # Here, for it takes half a second to import.
        from skewless.launch.runners.job_server import find_job_server, start_job_server

        if "job_endpoint" in given:
            server = find_job_server(given["job_endpoint"])
        else:
            server = start_job_server(_SERVERS[name](given))
            flags.append(f"--job_endpoint={server.endpoint}")
        known = server.options
    # Flink keeps its sources for its checkpoints, after they have ended too.
    ends = name != "flink"
    cancel = functools.partial(flink.cancel, given) if name == "flink" else None
    execution = Execution(runner.BEAM, tuple(flags), analysis, known, ends, cancel)
    if probing or (name in _SERVERS and not is_loopback):
        # As a batch: Flink would not end a stream, and has no savepoint of this one.
        kept = (word for word in flags if word.partition("=")[0] not in _OF_STREAMS)
        probe(dataclasses.replace(execution, options=tuple(kept)))
    return execution
