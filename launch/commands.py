"""What each command does: call a journey of the pipeline and show what came of it."""

from __future__ import annotations

import argparse
import gc
import pathlib
from collections.abc import Callable

from skewless.errors import RecipeError, RunError
from skewless.launch.display import Screen
from skewless.launch.notices import quiet_libraries
from skewless.launch.predict_command import predict
from skewless.launch.push_command import label, push_run
from skewless.launch.runners.choose import execution_of
from skewless.launch.summary import show_comparisons, show_ledger, show_result
from skewless.launch.verify_command import running_server
from skewless.pipeline.artifacts import RunPaths, digest_of, latest_run, read_manifest
from skewless.pipeline.backfilling import backfill
from skewless.pipeline.batch import read_rejected
from skewless.pipeline.journey import STAGES, Journey, fingerprint, journey
from skewless.pipeline.recipe import Recipe, load_recipe
from skewless.pipeline.rereading import verify_rows
from skewless.pipeline.streaming import Stream, stream
from skewless.pipeline.verify_report import digest_compared, write_verify_report
from skewless.pipeline.verifying import Comparison, verify_elsewhere, verify_features
from skewless.pipeline.verifying_elsewhere import BATCH_ROWS
from skewless.pipeline.verifying_server import verify_server
from skewless.pipeline.verifying_stream import verify_stream
from skewless.storage import AnyPath, files_below, path_of
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.rejected import read_rejected_file

__all__ = ["COMMANDS"]


def _stage(options: argparse.Namespace) -> int:
    execution = execution_of(options)
    until = STAGES[-1] if options.command == "run" else options.command
    return _travel(
        Journey(
            options.recipe,
            path_of(options.output),
            run_id=options.run_id,
            until=until,
            warm_start=options.warm_start and path_of(options.warm_start),
            execution=execution,
            baseline=options.baseline and path_of(options.baseline),
        )
    )


def _travel(wanted: Journey) -> int:
    with Screen() as screen:
        show_result(screen.console, journey(wanted, screen))
    return 0


def _verify(options: argparse.Namespace) -> int:
    execution = execution_of(options)
    paths = RunPaths(latest_run(path_of(options.run)))
    recipe = _recipe_of(paths)
    sizes = [_batch_size(text) for text in options.batch_sizes.split(",")]
    server = running_server(options)
    found: list[Comparison] = []
    served: list[Comparison] = []
    with Screen() as screen:
        if options.stream:
            with screen.working("stream"):
                found = verify_stream(paths, recipe, execution, options.limit)
            show_comparisons(screen.console, found)
            return int(any(comparison.differing for comparison in found))
        compared = digest_compared(paths)
        if server is not None:
            # First, since it may not be there.
            with screen.working("server"):
                served = verify_server(paths, recipe.label_key, server, limit=options.limit)
        if not options.rows_only_from_run:
            with screen.working("reread"):
                found.append(verify_rows(paths, recipe, execution))
        with screen.working("verify"):
            found += verify_features(paths, recipe.label_key, sizes, options.limit)
        if BATCH_ROWS in sizes:
            with screen.working("older CPU"):
                found.append(verify_elsewhere(paths, recipe.label_key, options.limit))
        found += served
        show_comparisons(screen.console, found)
        write_verify_report(paths, found, compared, options.limit)
        screen.console.print(f"report: {paths.verify_report}", highlight=False, soft_wrap=True)
    return int(any(comparison.differing for comparison in found))


def _batch_size(text: str) -> int | None:
    if text.strip() == "all":
        return None
    if not text.strip().isdigit() or int(text) < 1:
        raise RecipeError(f'--batch-sizes: "{text}" is not a number of rows; expected 1,7,all')
    return int(text)


def _recipe_of(paths: RunPaths) -> Recipe:
    """Return the recipe that a run was made from, if it still says the same."""
    manifest = read_manifest(paths.root)
    file = pathlib.Path(manifest["recipe"]["file"])
    recipe = load_recipe(file)
    if recipe.digest() != manifest["identity"]["recipe_digest"]:
        raise RunError(
            f"{file} has changed since the run {paths.root}; run the recipe again, "
            "or bring the old one back"
        )
    return recipe


def _replay(options: argparse.Namespace) -> int:
    execution = execution_of(options)
    paths = RunPaths(latest_run(path_of(options.run)))
    manifest = read_manifest(paths.root)
    if digest_of(fingerprint(_recipe_of(paths))) != manifest["identity"]["inputs_digest"]:
        raise RunError(
            f"the input has changed since the run {paths.root}, so rows have no longer the "
            "offsets at which they were rejected; run the recipe again first"
        )
    return _travel(
        Journey(
            pathlib.Path(manifest["recipe"]["file"]),
            paths.root.parent.parent,
            execution=execution,
            repaired=_read_repaired(path_of(options.repaired), paths),
        )
    )


def _read_repaired(path: AnyPath, paths: RunPaths) -> tuple[Rejected, ...]:
    """Return the repaired rows, each of which must be a rejected row of the run.

    Rows that were repaired for the run itself stay repaired.
    """
    files = files_below(path, "*.jsonl") if path.is_dir() else [path]
    given = [row for file in files for row in read_rejected_file(file)]
    if not given:
        raise RecipeError(f"{path}: there is no repaired row; expected lines as in rejected/")
    earlier = read_rejected_file(paths.repaired) if paths.repaired.exists() else []
    known = {(row.file, row.offset) for row in [*read_rejected(paths.rejected), *earlier]}
    seen = set()
    for row in given:
        place = (row.file, row.offset)
        where = f"{path}: the row at {row.offset} of {row.file}"
        if row.input:
            raise RecipeError(
                f"{where} is of {row.input}; only rows of the main source can be replayed: "
                "repair it in its own file"
            )
        if place not in known:
            raise RecipeError(f"{where} was not rejected by {paths.root}; leave it out")
        if place in seen:
            raise RecipeError(f"{where} is there twice; leave one of the two out")
        seen.add(place)
    return tuple(sorted([*given, *(r for r in earlier if (r.file, r.offset) not in seen)]))


def _stream(options: argparse.Namespace) -> int:
    execution = execution_of(options, streaming=True)
    wanted = Stream(
        recipe=options.recipe,
        source=options.source,
        runs=path_of(options.run),
        store=options.store,
        output=path_of(options.output),
        sink=options.to,
        predict=options.predict,
        hold=options.hold,
        window=options.window,
        keep=options.keep,
        remember=options.remember,
        watch_seconds=options.watch,
        stop_when_idle=options.stop_when_idle,
        execution=execution,
    )
    with Screen() as screen, screen.working("stream"):
        ledger = stream(wanted)
    show_ledger(screen.console, ledger)
    return 0


def _backfill(options: argparse.Namespace) -> int:
    execution = execution_of(options)
    with Screen() as screen, screen.working("backfill"):
        tiles = backfill(
            options.recipe,
            path_of(options.run),
            options.store,
            execution,
            keep=options.keep,
            remember=options.remember,
        )
    screen.console.print(f"{tiles:,} tiles in {options.store}")
    return 0


quiet_libraries()
# What the libraries have made by now stays to the end: no collection need look at it again.
gc.freeze()

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _stage,
    "transform": _stage,
    "train": _stage,
    "export": _stage,
    "evaluate": _stage,
    "predict": predict,
    "verify": _verify,
    "replay": _replay,
    "stream": _stream,
    "backfill": _backfill,
    "push": push_run,
    "label": label,
}
