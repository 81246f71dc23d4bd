"""`skewless verify`: its options, and the server that it is to ask."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from skewless.errors import RecipeError
from skewless.launch.runners.argument import add_runner
from skewless.launch.token_file import read_token

if TYPE_CHECKING:
    from skewless.pipeline.server_clients import RunningServer

__all__ = ["add_verify", "check_verify", "running_server"]

_OF_SERVER = ("server_grpc", "token_file", "certificate_authority")


def add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    text = "prove that no feature differs in any bit"
    verify = commands.add_parser("verify", help=text, description=text)
    verify.add_argument("run", type=pathlib.Path, help="a run, or a folder of runs: the newest")
    verify.add_argument(
        "--batch-sizes",
        default="1,7,1024,all",
        metavar="LIST",
        help="rows in one call of the SavedModel (default: %(default)s)",
    )
    verify.add_argument("--limit", type=_rows, metavar="N", help="compare N rows of each part")
    verify.add_argument(
        "--rows-only-from-run", action="store_true", help="do not read the source again"
    )
    verify.add_argument(
        "--stream",
        action="store_true",
        help="stream the events in several ways instead, and compare rows, features and tiles",
    )
    add_runner(verify)
    server = verify.add_argument_group("a running server")
    server.add_argument(
        "--server",
        metavar="URL",
        help="as in http://HOST:8501: ask it too, over REST and gRPC, in batches of 1, 7 and 64",
    )
    server.add_argument(
        "--server-grpc",
        metavar="HOST:PORT",
        help="none for REST alone (default: port 8500 of the same host)",
    )
    server.add_argument(
        "--token-file", type=pathlib.Path, metavar="FILE", help="requests bear its token"
    )
    server.add_argument(
        "--certificate-authority",
        type=pathlib.Path,
        metavar="FILE",
        help="PEM, to check the server's certificate with (default: what this machine trusts)",
    )


def _rows(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of rows; expected 1 or more")
    return int(text)


def check_verify(options: argparse.Namespace) -> None:
    """Answer what is wrong with the options before anything heavy is loaded.

    Raises:
        RecipeError: If a file does not exist, or the options do not fit each other.
    """
    for name in _OF_SERVER:
        if getattr(options, name) is not None and options.server is None:
            raise RecipeError(f"--{name.replace('_', '-')}: is for --server; give both")
    if options.server is not None and options.stream:
        raise RecipeError("--server: does not go with --stream; verify twice")
    for name in ("token_file", "certificate_authority"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise RecipeError(f"--{name.replace('_', '-')} {path}: there is no such file")


def running_server(options: argparse.Namespace) -> RunningServer | None:
    """Return the server that is to be asked; None for none.

    Raises:
        RecipeError: If an address is none, or the token file empty.
    """
    if options.server is None:
        return None
    from skewless.pipeline.server_clients import RunningServer

    given = options.server_grpc
    return RunningServer(
        options.server,
        grpc=None if given == "none" else given or "",
        token=options.token_file and read_token(options.token_file),
        certificate_authority=options.certificate_authority,
    )
