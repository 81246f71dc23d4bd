"""What the image of a Flex Template runs where Google launches it: parameters become a job.

A launcher makes one job and ends. A stream is one job. A run is several, each of which is made
of what the one before has found; so the template's job conducts: it has one worker, which gives
the command to Dataflow, job by job.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam

from skewless.errors import RecipeError, RunError, SkewlessError
from skewless.launch.command_line import make_parser
from skewless.launch.runners import dataflow
from skewless.launch.runners.flags import Flags
from skewless.pipeline.execution import Execution
from skewless.pipeline.streaming import StreamRows
from skewless.storage import is_remote, local_copy, path_of

__all__ = ["COMMANDS", "main", "parameters_of"]

COMMANDS = ("stream", "run", "transform", "train", "export", "evaluate", "predict", "backfill")

# The workers' image, of which Dockerfile.flex-template makes the launcher's.
_IMAGE = "SKEWLESS_WORKER_IMAGE"
_NOT_PARAMETERS = ("help", "runner")
# Of the template's own job, not of those that it conducts.
_OWN = ("template_location", "job_name", "runner", "max_num_workers", "num_workers")
_TOLD = 2000
_PROGRAM = "import sys; from skewless.launch.command_line import main; sys.exit(main())"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the job.

    Args:
        arguments: `--name=value` of the template's parameters, and of Beam's options as the
            launcher adds them; by default those of this process.

    Returns:
        0, or 2 for a wrong parameter, or 1 for what else fails.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _launch(Flags(words))
    except SkewlessError as error:
        sys.stderr.write(f"skewless: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"skewless: {error}\n")
        return 1
    return 0


def parameters_of(command: str) -> dict[str, argparse.Action]:
    """Return the parameters of a command, by name: its arguments and options."""
    subparsers = next(
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    parser = subparsers.choices[command]
    return {one.dest: one for one in parser._actions if one.dest not in _NOT_PARAMETERS}


def _launch(given: Flags) -> None:
    command = given.get("command", COMMANDS[0])
    if command not in COMMANDS:
        raise RecipeError(f"--command={command}: expected one of {', '.join(COMMANDS)}")
    words, beams = _words(command, given), _beam_options(given)
    streaming = command == "stream"
    for finding in dataflow.check(beams, streaming=streaming):
        if not finding.ok:
            raise RunError(f"{finding.what}; {finding.repair}")
    if not streaming:
        beams = beams.with_defaults(max_num_workers=1)
    Execution(options=beams.words).reach_files()
    recipe = given.get("recipe")
    with tempfile.TemporaryDirectory() as folder:
        here = make_parser().parse_args(_with_recipe_here(words, recipe, folder))
        labels = dataflow.label_options({"skewless_command": command})
        if recipe is not None:
            labels += dataflow.recipe_labels(here.recipe)
        flags = tuple(dataflow.options(Flags([*beams.words, *labels]), streaming=streaming))
        if streaming:
            _make_stream(here, _Template(dataflow.BEAM, flags))
        else:
            kept = [word for word in beams.words if Flags([word]).keys().isdisjoint(_OWN)]
            Execution(dataflow.BEAM, flags).run(_Conduct((*words, *kept), recipe))


def _make_stream(options: argparse.Namespace, execution: Execution) -> None:
    """Make a job of `skewless stream`, up to where the stream begins."""
    options.beam, options.execution = [], execution
    # What it imports takes seconds, which a wrong parameter need not wait for.
    from skewless.launch import commands

    try:
        commands.COMMANDS[options.command](options)
    except _Made:
        return


def _beam_options(given: Flags) -> Flags:
    """Return what is no parameter of a command."""
    ours = {"command", *(name for command in COMMANDS for name in parameters_of(command))}
    beams = Flags([word for word in given.words if Flags([word]).keys().isdisjoint(ours)])
    return beams.with_defaults(sdk_container_image=os.environ.get(_IMAGE))


def _words(command: str, given: Mapping[str, str]) -> list[str]:
    """Return parameters as the command line has them.

    Raises:
        RecipeError: If one is missing, or is of another command.
    """
    known = parameters_of(command)
    others = {name for other in COMMANDS for name in parameters_of(other)} - set(known)
    for name in others & set(given):
        raise RecipeError(f"--{name}={given[name]}: {command} has no such parameter; leave it out")
    places, options = [], []
    for name, action in known.items():
        value = given.get(name)
        if not value:
            if action.required:
                raise RecipeError(f"there is no --{name}; {command} needs it: {action.help}")
        elif action.choices is not None and value not in action.choices:
            expected = ", ".join(map(str, action.choices))
            raise RecipeError(f"--{name}={value}: expected one of {expected}")
        elif not action.option_strings:
            places.append(value)
        elif action.nargs == 0:
            options += [action.option_strings[0]] if value.lower() == "true" else []
        else:
            options.append(f"{action.option_strings[0]}={value}")
    return [command, *options, *places]


def _with_recipe_here(words: Sequence[str], recipe: str | None, folder: str) -> list[str]:
    """Return the words with the recipe's file, which may be elsewhere, on this machine."""
    if recipe is None or not is_remote(recipe):
        return list(words)
    file = pathlib.Path(folder) / recipe.rpartition("/")[2]
    with local_copy(path_of(recipe)) as here:
        file.write_bytes(here.read_bytes())
    return [str(file) if word == recipe else word for word in words]


class _Made(Exception):  # noqa: N818
    """The template's job is made; the launcher has nothing more to do."""


class _Template(Execution):
    """Makes the stream's job, and ends there; what is done before is done in this process."""

    def run(
        self,
        build: beam.PTransform,
        within: float | None = None,
        until: Callable[[], bool] | None = None,
    ) -> None:
        super().run(build, within, until)
        if isinstance(build, StreamRows):
            raise _Made


class _Conduct(beam.PTransform):  # type: ignore[misc]
    """Run a command in a process of a worker, which submits jobs and waits for them."""

    def __init__(self, words: tuple[str, ...], recipe: str | None) -> None:
        super().__init__()
        self._words, self._recipe = words, recipe

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[str]:
        command = begin | "Command" >> beam.Create([self._words])
        return command | "Conduct" >> beam.Map(conduct, self._recipe)


def conduct(words: Sequence[str], recipe: str | None) -> str:
    """Run `skewless` on Dataflow.

    Args:
        words: Its arguments.
        recipe: The one of them that is a recipe; it is fetched if it is elsewhere.

    Returns:
        What it printed.

    Raises:
        RunError: If it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command, *others = _with_recipe_here(words, recipe, folder)
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, command, "--runner=dataflow", *others],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RunError(done.stderr.strip()[-_TOLD:] or f"skewless {command}: {done.returncode}")
    return done.stdout
