"""What a person sees when a command is done: ledger, metrics, comparisons, what to do next."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.journey import Result
from skewless.pipeline.ledger import DROPPED, Ledger
from skewless.pipeline.verifying import Comparison

__all__ = ["show_comparisons", "show_ledger", "show_result"]

_KINDS = ("read", "written", "predicted", "joined", *DROPPED, "waiting")
# The metrics that say most, of any task; a line must fit 80 columns. All are in metrics.json.
_METRICS = ("auc", "auc_pr", "f1", "accuracy", "calibration", "mae", "rmse", "r2")


def show_result(console: Console, result: Result) -> None:
    """Show a run: its ledger, its metrics by slice, where it lies and what to try next."""
    console.print()
    console.print(_ledger_table(result.ledger))
    if result.metrics is not None:
        console.print(_metrics_table(result.metrics))
    if result.blessing is not None:
        verdict = "[green]blessed[/]" if result.blessing["blessed"] else "[red]not blessed[/]"
        console.print(f"model {verdict}: {'; '.join(result.blessing['reasons'])}")
    console.print(f"run   {result.paths.root}", soft_wrap=True)
    if result.metrics is not None:
        _show_next(console, result.paths)


def show_ledger(console: Console, ledger: Ledger) -> None:
    """Show a ledger alone."""
    console.print(_ledger_table(ledger))


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _ledger_table(ledger: Ledger) -> Table:
    kinds = [k for k in _KINDS if any(ledger.total(name, k) for name in ledger.inputs)]
    table = _table("Ledger: every row read is accounted for")
    table.add_column("input")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for name in ledger.inputs:
        table.add_row(name, *(f"{ledger.total(name, kind):,}" for kind in kinds))
    for name, kind, step, rows in ledger.entries():
        if kind in {"written", *DROPPED} and rows:
            cells = (f"{rows:,}" if kind == shown else "" for shown in kinds)
            table.add_row(f"[dim]  {name}: {step}[/]", *cells, style="dim")
    return table


def _metrics_table(metrics: Mapping[str, Any]) -> Table:
    overall = metrics["overall"]
    names = [n for n in _METRICS if n in overall]
    table = _table("Metrics on the test rows")
    table.add_column("slice", no_wrap=True)
    for name in ("rows", *names):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("all", *_metric_cells(overall, names), style="bold")
    for entry in metrics["slices"]:
        shown = ", ".join(f"{column}={value}" for column, value in entry["slice"].items())
        table.add_row(shown, *_metric_cells(entry["metrics"], names))
    return table


def _metric_cells(metrics: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    values = [metrics.get(name) for name in names]
    shown = ["-" if value is None else f"{value:.4f}" for value in values]
    return [f"{int(metrics.get('example_count') or 0):,}", *shown]


def _show_next(console: Console, paths: RunPaths) -> None:
    skewless = _own_name()
    console.print("\nnext")
    for command in (
        f"{skewless} verify {paths.root}",
        f"{skewless} predict {paths.root} {paths.sample}",
        f"cat {paths.evaluation}/metrics.json",
    ):
        console.print(f"  {command}", soft_wrap=True)


def _own_name() -> str:
    """Return what to type for this command: its environment need not be active."""
    if shutil.which("skewless"):
        return "skewless"
    return os.path.relpath(pathlib.Path(sys.executable).parent / "skewless")


def show_comparisons(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Show what `verify` found: a line for each way, then the first differences."""
    table = _table("Features as written, compared with")
    table.add_column("way")
    for name in ("rows", "columns", "values", "differ", "bits"):
        # On a narrow screen the words wrap; a number cut off would be another one.
        table.add_column(name, justify="right", no_wrap=True)
    for found in comparisons:
        values = (found.rows, found.features, found.rows * found.features)
        cells = [f"{n:,}" for n in (*values, found.differing, found.bits)]
        table.add_row(found.path, *cells, style="red" if found.differing else "")
    console.print(table)
    for found in comparisons:
        for one in found.first:
            console.print(
                f"{found.path}: {one.file} at {one.offset}, {one.feature}: "
                f"written {one.written}, served {one.served}",
                soft_wrap=True,
            )
    total = sum(found.differing for found in comparisons)
    console.print("[green]no bit differs[/]" if not total else f"[red]{total:,} values differ[/]")
