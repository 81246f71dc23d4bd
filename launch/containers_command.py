"""`skewless containers`: its options, and what it does."""

from __future__ import annotations

import argparse
import pathlib
import sys

from skewless.errors import RecipeError

__all__ = ["add_containers", "containers"]


def add_containers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    text = "write files for Docker, Kubernetes, Prometheus and Grafana"
    parser = commands.add_parser(
        "containers",
        help=text,
        description=f"{text[0].upper()}{text[1:]}; and constraints.txt, the versions of this "
        "environment, so that an image serves with what the model was verified with.",
    )
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR", help="made when absent")


def containers(options: argparse.Namespace) -> int:
    """Do `skewless containers`."""
    if options.beam:
        raise RecipeError(f"{options.beam[0]}: skewless containers has no such option")
    from skewless.launch.deploy import write_files

    for path in write_files(options.directory):
        sys.stdout.write(f"{path}\n")
    return 0
