"""`skewless serve`: its options, and a model as a server until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from skewless.errors import RecipeError
from skewless.launch.notices import native_notices_hidden
from skewless.launch.token_file import read_token

if TYPE_CHECKING:
    from skewless.models.serving.observer import Observer

__all__ = ["add_serve", "serve"]


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    text = "serve a model by TensorFlow Serving's protocol, REST and gRPC"
    parser = commands.add_parser("serve", help=text, description=text)
    parser.add_argument(
        "model", type=pathlib.Path, help="a folder of versions, a SavedModel, or a run"
    )
    parser.add_argument("--name", help="the model's name (default: the recipe's)")
    _add_listening(parser.add_argument_group("where"))
    _add_versions(parser.add_argument_group("versions"))
    _add_batching(parser.add_argument_group("batches and limits"))
    store = parser.add_argument_group("windowed features")
    store.add_argument(
        "--store", help="the online store: a path of a SQLite file, or redis://HOST:PORT/DB"
    )
    store.add_argument(
        "--store-timeout", type=float, default=250.0, metavar="MS", help="default: %(default)g"
    )
    _add_telling(parser.add_argument_group("what it tells"))


def _add_listening(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 for all (default: this machine alone)"
    )
    for protocol, port in (("rest", 8501), ("grpc", 8500)):
        group.add_argument(
            f"--{protocol}-port",
            type=_port,
            default=port,
            metavar="PORT",
            help="0 for any, none for no such server (default: %(default)s)",
        )
    group.add_argument(
        "--token-file", type=pathlib.Path, metavar="FILE", help="requests must bear its token"
    )
    group.add_argument("--certificate", type=pathlib.Path, metavar="FILE", help="PEM, for TLS")
    group.add_argument("--key", type=pathlib.Path, metavar="FILE", help="its key, PEM")
    group.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="to finish what was taken when told to stop (default: %(default)g)",
    )


def _add_versions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--newest", type=int, default=1, metavar="N", help="serve the N newest (default: 1)"
    )
    group.add_argument(
        "--label",
        action="append",
        type=_label,
        default=[],
        metavar="NAME=VERSION",
        help="call a version so; those of labels.json are known without",
    )
    group.add_argument(
        "--poll",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="look for new versions so often (default: %(default)g)",
    )


def _add_batching(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-batch", type=int, default=1024, metavar="ROWS", help="default: %(default)s"
    )
    group.add_argument(
        "--max-delay",
        type=float,
        default=1.0,
        metavar="MS",
        help="how long a batch waits for others, under load (default: %(default)g)",
    )
    group.add_argument(
        "--queue",
        type=int,
        default=8192,
        metavar="ROWS",
        help="rows that may wait; more are refused (default: %(default)s)",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="for requests that name no deadline (default: %(default)g)",
    )
    group.add_argument(
        "--max-body", type=int, default=16 * 2**20, metavar="BYTES", help="default: %(default)s"
    )
    group.add_argument(
        "--max-instances",
        type=int,
        default=16_384,
        metavar="ROWS",
        help="of a request (default: %(default)s)",
    )


def _add_telling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--log", type=pathlib.Path, metavar="DIR", help="log requests there")
    group.add_argument(
        "--log-sample",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the requests (default: %(default)g)",
    )
    group.add_argument("--log-format", choices=("parquet", "tfrecord"), default="parquet")
    group.add_argument("--log-exclude", default="", metavar="COLUMNS", help="not to be logged: a,b")
    group.add_argument(
        "--trace",
        action="store_true",
        default="OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ,
        help="send OpenTelemetry traces, as OTEL_* variables say",
    )


def _port(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdigit() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text} is no port; expected 0 to 65535, or none")
    return int(text)


def _label(text: str) -> tuple[str, int]:
    name, _, version = text.partition("=")
    if not (name and version.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is no label; expected NAME=VERSION")
    return name, int(version)


def serve(options: argparse.Namespace) -> int:
    """Do `skewless serve`."""
    _need_extra()
    with native_notices_hidden():
        from skewless.models.serving.batching import Batching
        from skewless.models.serving.limits import Limits
        from skewless.models.serving.metrics import Metrics
        from skewless.models.serving.model import ServedModel
        from skewless.models.serving.server import Listening, Server
        from skewless.models.serving.versions import Watching

    logging.basicConfig(format="skewless: %(message)s", stream=sys.stderr)
    listening = Listening(
        host=options.host,
        rest_port=options.rest_port,
        grpc_port=options.grpc_port,
        token=options.token_file and read_token(options.token_file),
        certificate=_text(options.certificate),
        key=_text(options.key),
        limits=Limits(body_bytes=options.max_body, instances=options.max_instances),
        timeout=options.timeout,
        grace=options.grace,
    )
    metrics = Metrics()
    with _observers(options) as observers:
        model = ServedModel(
            _model_folder(options.model),
            options.name,
            Batching(options.max_batch, options.max_delay / 1000, options.queue),
            Watching(options.newest, options.poll, dict(options.label)),
            [metrics, *observers],
            functools.partial(_enrich, options.store, options.store_timeout / 1000),
        )
        server = Server(model, listening, metrics.exposition)
        stop = _signals()
        server.start()
        sys.stderr.write(_serving(model.name, model.servable().version, listening, server))
        sys.stderr.flush()
        stop()
        sys.stderr.write("skewless: stopping; what was taken is finished\n")
        server.stop()
    return 0


def _need_extra() -> None:
    for package in ("grpc", "grpc_health", "httptools", "prometheus_client", "uvicorn", "uvloop"):
        if importlib.util.find_spec(package) is None:
            raise RecipeError(
                f"serve: the package {package} is missing; pip install 'skewless[serve]'"
            )


def _model_folder(path: pathlib.Path) -> pathlib.Path:
    """Return the folder of versions; that of the newest run where `path` holds runs."""
    if ":/" in str(path):
        raise RecipeError(f"model {path}: expected a folder of this machine; copy the model there")
    runs = [path, *sorted(path.rglob("manifest.json"))] if path.is_dir() else []
    if len(runs) > 1:
        from skewless.pipeline.artifacts import RunPaths, latest_run

        return pathlib.Path(str(RunPaths(latest_run(path)).model))
    return path


def _enrich(store: str | None, timeout: float, version: pathlib.Path) -> Any:
    if not (version / "assets.extra" / "aggregates.json").exists():
        return None
    from skewless.pipeline.serving import StoreEnrichment

    return StoreEnrichment(version, store, timeout=timeout)


@contextlib.contextmanager
def _observers(options: argparse.Namespace) -> Iterator[list[Observer]]:
    observers: list[Observer] = []
    with contextlib.ExitStack() as stack:
        if options.log is not None:
            from skewless.models.serving.request_log import RequestLog, RequestLogOptions

            log = RequestLog(
                RequestLogOptions(
                    str(options.log),
                    options.log_sample,
                    options.log_format,
                    exclude=tuple(name for name in options.log_exclude.split(",") if name),
                )
            )
            stack.callback(log.close)
            observers.append(log)
        if options.trace:
            from skewless.models.serving.tracing import Tracing

            tracing = Tracing()
            stack.callback(tracing.close)
            observers.append(tracing)
        yield observers


def _signals() -> Any:
    """Return a function that waits until the process is told to stop."""
    wanted = {signal.SIGTERM, signal.SIGINT}
    # Blocked before any thread starts, so that only the one that waits gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    return functools.partial(signal.sigwait, wanted)


def _serving(name: str, version: int, listening: Any, server: Any) -> str:
    secure = "s" if listening.certificate else ""
    lines = [f"skewless: serving {name}, version {version}"]
    if server.rest_port is not None:
        address = f"http{secure}://{listening.host}:{server.rest_port}/v1/models/{name}"
        lines.append(f"  REST  {address}:predict")
    if server.grpc_port is not None:
        lines.append(f"  gRPC  {listening.host}:{server.grpc_port}")
    if listening.token is None and listening.host not in ("127.0.0.1", "::1", "localhost"):
        lines.append("  anybody who can reach it is answered: there is no --token-file")
    return "\n".join(lines) + "\n"


def _text(path: pathlib.Path | None) -> str | None:
    return None if path is None else str(path)
