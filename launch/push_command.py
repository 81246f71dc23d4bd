"""`skewless push` and `skewless label`: their options, and what they do."""

from __future__ import annotations

import argparse
import pathlib
import sys

__all__ = ["add_push", "label", "push_run"]


def add_push(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands to the command line."""
    text = "copy a run's model to where servers take it from"
    push = commands.add_parser(
        "push",
        help=text,
        description=f"{text[0].upper()}{text[1:]}: one that is blessed, was verified, and answers "
        "in a clean process as it did when it was exported.",
    )
    push.add_argument("run", type=pathlib.Path, help="a run, or a folder of runs: the newest")
    push.add_argument(
        "--to",
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="the folder of the model's versions; DIR/<version> appears whole",
    )
    push.add_argument("--label", metavar="NAME", help="let NAME stand for the version")
    push.add_argument(
        "--override",
        metavar="REASON",
        help="push a model that is not blessed or not verified; the reason is kept with it",
    )
    text = "let a label stand for a version: forward, or back"
    moved = commands.add_parser("label", help=text, description=text)
    moved.add_argument("directory", type=pathlib.Path, metavar="DIR", help="as push --to")
    moved.add_argument("label", nargs="*", metavar="NAME=VERSION", help="as in stable=3")


def push_run(options: argparse.Namespace) -> int:
    """Do `skewless push`."""
    from rich.markup import escape

    from skewless.launch.display import Screen
    from skewless.pipeline.artifacts import latest_run
    from skewless.pipeline.execution import Execution
    from skewless.pipeline.pushing import Push, push
    from skewless.storage import path_of

    Execution(options=tuple(options.beam)).reach_files()
    wanted = Push(
        run=latest_run(path_of(options.run)),
        to=path_of(options.to),
        override=options.override,
        label=options.label,
    )
    with Screen() as screen:
        with screen.working("push"):
            pushed = push(wanted)
        show = screen.console.print
        check = pushed.check
        show(
            f"check   loaded in {check.load_seconds:.1f} s by TensorFlow {check.tensorflow} alone: "
            f"{check.requests} recorded requests, {1000 * check.request_seconds:.1f} ms each, "
            f"largest difference {check.max_difference:.3g}",
            soft_wrap=True,
        )
        for refusal in pushed.overridden:
            show(f"[yellow]overridden: {escape(refusal)}[/]", soft_wrap=True)
        if wanted.label is not None:
            show(_moved(wanted.label, pushed.label_before, int(pushed.path.name)))
        said = "is there already" if pushed.already else "[green]pushed[/]"
        show(f"model   {escape(str(pushed.path))} {said}", soft_wrap=True)
    return 0


def label(options: argparse.Namespace) -> int:
    """Do `skewless label`: move labels, then list them."""
    from skewless.errors import RecipeError
    from skewless.pipeline.execution import Execution
    from skewless.pipeline.labels import check_label, labels_of, set_label
    from skewless.storage import path_of

    Execution(options=tuple(options.beam)).reach_files()
    directory = path_of(options.directory)
    wanted = []
    for text in options.label:
        name, _, version = text.partition("=")
        if not version.isdecimal():
            raise RecipeError(f'label "{text}": expected a name and a version, as in stable=3')
        wanted.append((check_label(name), int(version)))
    for name, version in wanted:
        sys.stderr.write(f"{_moved(name, set_label(directory, name, version), version)}\n")
    for name, version in sorted(labels_of(directory).items()):
        sys.stdout.write(f"{name}={version}\n")
    return 0


def _moved(name: str, before: int | None, version: int) -> str:
    return f"label   {name}: {'none' if before is None else before} -> {version}"
