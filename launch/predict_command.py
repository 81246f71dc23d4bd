"""`skewless predict`: its options, and what it does, line by line or in bulk."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterator

from skewless.errors import RecipeError, RunError
from skewless.launch.runners.argument import add_runner

__all__ = ["add_predict", "check_rows", "predict"]

_TABLE = "bigquery:"
# Files of these names hold no JSON lines, whatever else they may hold.
_OTHER_ENDINGS = (".csv", ".parquet", ".tfrecord", ".tfrecords")
_BULK = ("input_format", "output_format", "columns", "prefix", "max_rejected", "ledger")


def add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    predict = commands.add_parser(
        "predict",
        help="predict for raw rows, of files or a table",
        description="Predict for raw rows. JSON lines are answered line by line; with --output, "
        "files or a table of any size become files or a table.",
        epilog="For events as they come: skewless stream RECIPE --predict --to SINK.",
    )
    predict.add_argument(
        "model", type=pathlib.Path, help="a SavedModel, a folder of versions, or a run"
    )
    predict.add_argument(
        "rows",
        nargs="+",
        help="a file of one JSON object a line, or - for standard input; with --output also paths "
        "or globs of CSV, Parquet, JSON lines or TFRecord, bigquery:PROJECT.DATASET.TABLE, or "
        "bigquery:SELECT ...",
    )
    predict.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="DIR|TABLE",
        help="a new folder, or the table to append to: bigquery:PROJECT.DATASET.TABLE",
    )
    predict.add_argument(
        "--input-format",
        choices=("csv", "jsonl", "parquet", "tfrecord"),
        help="of files whose names do not say it",
    )
    predict.add_argument(
        "--output-format", choices=("parquet", "jsonl"), help="of a folder (default: parquet)"
    )
    predict.add_argument(
        "--columns",
        metavar="LIST",
        help="what is written beside the predictions, as in id,day (default: all columns that a "
        "table, a CSV or a Parquet file has; else those of the model)",
    )
    predict.add_argument(
        "--prefix", metavar="TEXT", help="put before the names of the model's outputs"
    )
    predict.add_argument(
        "--max-rejected",
        type=_part,
        metavar="PART",
        help="of more rejected rows than that, nothing is published (default: 0.01)",
    )
    predict.add_argument(
        "--ledger",
        type=pathlib.Path,
        metavar="DIR",
        help="with a table: a new folder for ledger.json and rejected/ "
        "(default: predictions/TABLE/TIME)",
    )
    add_runner(predict)


def _part(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a part of the rows; expected 0 to 1")
    return value


def check_rows(options: argparse.Namespace) -> None:
    """Answer what is wrong with the rows and the output before anything heavy is loaded.

    Raises:
        RecipeError: If a file does not exist, or the options do not fit each other.
    """
    rows, output = options.rows, options.output
    for row in rows:
        is_path = row != "-" and ":" not in row and not any(c in row for c in "*?[{")
        if is_path and not pathlib.Path(row).is_file():
            raise RecipeError(f"rows {row}: there is no such file")
    if output is None:
        for name in _BULK:
            if getattr(options, name) is not None:
                raise RecipeError(f"--{name.replace('_', '-')}: is for --output; give both")
        if len(rows) > 1 or not _is_json_file(rows[0]):
            raise RecipeError(
                f"rows {' '.join(rows)}: to be printed, expected one local file of JSON lines, or "
                "-; for anything else give --output DIR or --output bigquery:PROJECT.DATASET.TABLE"
            )
    elif "-" in rows:
        raise RecipeError("rows -: standard input is predicted line by line; leave out --output")
    if options.ledger is not None and not _is_table(output):
        raise RecipeError("--ledger: is for a table; in a folder the ledger lies beside it")
    if options.output_format is not None and _is_table(output):
        raise RecipeError("--output-format: is for a folder; leave it out for a table")


def _is_json_file(row: str) -> bool:
    endings = pathlib.PurePath(row.removesuffix(".gz")).suffix, pathlib.PurePath(row).suffix
    return row == "-" or not (
        ":" in row
        or any(c in row for c in "*?[")
        or endings[0] in _OTHER_ENDINGS
        or endings[1] == ".gz"
    )


def _is_table(output: pathlib.Path | None) -> bool:
    return output is not None and str(output).startswith(_TABLE)


def predict(options: argparse.Namespace) -> int:
    """Do `skewless predict`."""
    from skewless.launch.runners.choose import execution_of

    execution = execution_of(options)
    if options.output is None:
        return _print_predictions(options)
    from skewless.launch.display import Screen
    from skewless.launch.summary import show_ledger
    from skewless.pipeline.bulk_predicting import BulkPrediction, predict_in_bulk
    from skewless.pipeline.prediction_rows import source_of
    from skewless.storage import path_of
    from skewless.transforms.sinks.bigquery import WriteBigQuery

    model, table, folder = path_of(options.model), None, options.output
    if _is_table(folder):
        table = WriteBigQuery(str(folder).removeprefix(_TABLE), project=execution.project)
        folder = options.ledger or _ledger_folder(table.name)
    columns = None if options.columns is None else _names(options.columns)
    wanted = BulkPrediction(
        model,
        source_of(
            options.rows, model, input_format=options.input_format, project=execution.project
        ),
        path_of(folder),
        table=table,
        output_format=options.output_format or "parquet",
        columns=columns,
        prefix=options.prefix or "",
        max_rejected=0.01 if options.max_rejected is None else options.max_rejected,
        execution=execution,
    )
    with Screen() as screen:
        with screen.working("predict"):
            ledger = predict_in_bulk(wanted)
        show_ledger(screen.console, ledger)
        where = wanted.output if table is None else f"{_TABLE}{table.name}, ledger {folder}"
        screen.console.print(f"predictions   {where}", soft_wrap=True, markup=False)
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise RecipeError(f'--columns "{text}": expected names with commas between, as in id,day')
    return names


def _ledger_folder(table: object) -> pathlib.Path:
    """Return a folder for the ledger of rows that are appended to a table: a new one each time."""
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    return pathlib.Path("predictions") / str(table) / f"{now:%Y%m%dT%H%M%S.%fZ}"


def _print_predictions(options: argparse.Namespace) -> int:
    from skewless.pipeline.predicting import predict_lines
    from skewless.storage import path_of

    failed = 0
    (rows,) = options.rows
    name = "standard input" if rows == "-" else rows
    for line in predict_lines(path_of(options.model), _lines(rows), name):
        failed += line.startswith('{"error"')
        sys.stdout.write(f"{line}\n")
    if failed:
        raise RunError(f"{name}: {failed} rows could not be read; see the lines with an error")
    return 0


def _lines(rows: str) -> Iterator[bytes]:
    if rows == "-":
        yield from sys.stdin.buffer
        return
    with pathlib.Path(rows).open("rb") as file:
        yield from file
