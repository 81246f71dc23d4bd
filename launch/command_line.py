"""The `skewless` command. Nothing heavy is imported before the arguments are known to be right."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

from skewless import __version__
from skewless.errors import RecipeError, SkewlessError
from skewless.launch.containers_command import add_containers, containers
from skewless.launch.doctor_command import add_doctor, doctor
from skewless.launch.notices import native_notices_hidden
from skewless.launch.predict_command import add_predict, check_rows
from skewless.launch.push_command import add_push
from skewless.launch.runners.argument import add_runner
from skewless.launch.serve_command import add_serve, serve
from skewless.launch.verify_command import add_verify, check_verify

__all__ = ["main", "make_parser"]

_STAGES = {
    "run": "do everything: transform, train, export, evaluate",
    "transform": "read, check and split the rows, fit the transform graph, write TFRecords",
    "train": "... and train the model",
    "export": "... and export it with the transform graph inside",
    "evaluate": "... and measure it on the test rows; the same as run",
}
# What has no use for Beam, or for TensorFlow.
_LIGHT = {"serve": serve, "containers": containers, "doctor": doctor}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="skewless",
        description="Feature pipelines without training/serving skew.",
        epilog="Paths are of this machine, or gs://, s3:// and hdfs:// ones. Options that are "
        "not skewless' own go to Beam, such as --s3_endpoint_url or --hdfs_host.",
    )
    parser.add_argument("--version", action="version", version=f"skewless {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the stack of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _STAGES.items():
        _add_stage(commands.add_parser(name, help=text, description=text))
    add_predict(commands)
    add_verify(commands)
    replay = commands.add_parser("replay", help="run again with repaired rows in place")
    replay.add_argument("run", type=pathlib.Path, help="the run that rejected them")
    replay.add_argument(
        "repaired", type=pathlib.Path, help="a repaired file of rejected/, or a folder of them"
    )
    add_runner(replay)
    _add_stream(commands)
    add_push(commands)
    add_containers(commands)
    add_serve(commands)
    add_doctor(commands)
    return parser


def _add_stream(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "read events as they come, and write features"
    stream = commands.add_parser("stream", help=text, description=text)
    stream.add_argument("recipe", type=pathlib.Path, help="a Python file with a Recipe")
    stream.add_argument(
        "--source",
        help="kafka:HOST:PORT/TOPIC, pubsub:SUBSCRIPTION, or files as the recipe reads them "
        "(default: the recipe's stream=)",
    )
    stream.add_argument(
        "--run",
        type=pathlib.Path,
        required=True,
        help="a run, or the folder of the recipe's runs: the newest, also one that comes later",
    )
    stream.add_argument(
        "--output", type=pathlib.Path, required=True, help="where examples/ and rejected/ go"
    )
    stream.add_argument(
        "--to", metavar="SINK", help="send messages too: kafka:HOST:PORT/TOPIC, pubsub:TOPIC"
    )
    stream.add_argument(
        "--predict", action="store_true", help="with predictions of the newest blessed model"
    )
    durations = {
        "hold": "how long rows wait for events that come later, but are of before them",
        "window": "the span of time of a file of examples, for whose end rows wait "
        "(default: 10m, and with --to 0s)",
        "keep": "how much later than the newest an event may come; else it is late",
        "remember": "how long an event's id is remembered (default: as long as tiles are kept)",
    }
    defaults = {"hold": "0s", "keep": "1d"}
    for name, told in durations.items():
        default = defaults.get(name)
        shown = "" if default is None else f" (default: {default})"
        stream.add_argument(f"--{name}", default=default, help=f"{told}{shown}")
    stream.add_argument(
        "--watch", type=float, metavar="SECONDS", help="files: look for new ones so often"
    )
    stream.add_argument(
        "--stop-when-idle", type=float, metavar="SECONDS", help="pubsub: end after such a pause"
    )
    backfill = commands.add_parser(
        "backfill",
        help="fill the online store from history",
        description="Fill the online store with the tiles of a recipe's own source.",
    )
    backfill.add_argument("recipe", type=pathlib.Path, help="a Python file with a Recipe")
    backfill.add_argument("--run", type=pathlib.Path, required=True, help="a run of the recipe")
    backfill.add_argument(
        "--keep", default="1d", help="how much later than the newest an event may come"
    )
    backfill.add_argument(
        "--remember", help="how long an event's id is remembered (default: as long as tiles)"
    )
    for command in (stream, backfill):
        add_runner(command)
        command.add_argument(
            "--store",
            required=True,
            help="the online store: a path of a SQLite file, or redis://HOST:PORT/DB",
        )


def _add_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=pathlib.Path, help="a Python file with a Recipe")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs"), help="default: runs"
    )
    parser.add_argument("--run-id", help="the run's name; made of its inputs when absent")
    parser.add_argument(
        "--warm-start", type=pathlib.Path, metavar="RUN", help="take the first weights from RUN"
    )
    parser.add_argument(
        "--analysis",
        choices=("auto", "fused", "tft"),
        default="auto",
        help="fused: all analyzers together, exactly; tft: tf.Transform's own pipeline; "
        "auto: fused where it knows the recipe's analyzers (default)",
    )
    parser.add_argument(
        "--baseline", type=pathlib.Path, metavar="RUN", help="compare the metrics with RUN's"
    )
    add_runner(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if all is well, 1 for a run that failed (or a feature that differs), 2 for a wrong
        recipe or argument.
    """
    options = _parse(arguments)
    try:
        _check_paths(options)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        if options.command in _LIGHT:
            return _LIGHT[options.command](options)
        with native_notices_hidden():
            from skewless.launch import commands
        if threading.current_thread() is threading.main_thread():
            # As Ctrl-C does, who stops a container is to cancel the job, which would go on alone.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = commands.COMMANDS[options.command](options)
    except SkewlessError as error:
        if options.debug:
            traceback.print_exc()
        sys.stderr.write(f"skewless: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough, as in `skewless predict ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if options.debug:
            traceback.print_exc()
        sys.stderr.write(f"skewless: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("skewless: stopped; the same command goes on where it stopped\n")
        return 130
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; those of Beam, in the form `--name=value`, are in `beam`."""
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    flags: list[str] = []
    for word in rest:
        if word.startswith("--") and len(word) > 2:
            flags.append(word)
        elif flags and "=" not in flags[-1]:
            flags[-1] += f"={word}"
        else:
            parser.error(f"unrecognized arguments: {word}")
    options.beam = flags
    return options


def _is_elsewhere(path: pathlib.Path) -> bool:
    """Say whether a path has a scheme, such as gs://, without asking Beam."""
    return ":/" in str(path)


def _check_paths(options: argparse.Namespace) -> None:
    """Answer a wrong path at once, before anything heavy is loaded."""
    for name in ("recipe", "run", "model", "repaired", "warm_start", "baseline"):
        path = getattr(options, name, None)
        if path is not None and not _is_elsewhere(path) and not path.exists():
            raise RecipeError(f"{name.replace('_', '-')} {path}: there is no such file or folder")
    output = getattr(options, "output", None)
    if output is not None and output.exists() and not output.is_dir():
        raise RecipeError(f"--output {output}: this is a file; expected a folder")
    run_id = getattr(options, "run_id", None)
    if run_id is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", run_id):
        raise RecipeError(f'--run-id "{run_id}": expected letters, digits, "-", "_" and "." only')
    store = getattr(options, "store", None)
    if getattr(options, "runner", None) == "dataflow" and store and "://" not in store:
        raise RecipeError(
            f"--store {store}: on Dataflow a SQLite file would be each worker's own; "
            "expected redis://HOST:PORT/DB, which workers reach"
        )
    if options.command == "predict":
        check_rows(options)
    if options.command == "verify":
        check_verify(options)
