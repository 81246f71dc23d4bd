"""Scale on paper: shapes, shuffled bytes and state, measured small and extrapolated.

Run as: python -m tests.benchmarks.scaling. It builds the pipelines of the flights and of a table
of 2,000 columns, runs those of the flights on two samples and counts what is shuffled; streams
flights into a store; counts tokens. With `--docs PATH` the tables go into that page, between its
`<!-- scaling -->` and `<!-- end -->`.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import argparse
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv

from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.batch import transform
from skewless.pipeline.journey import fingerprint
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.stages import Quiet, Run
from tests import flights
from tests.benchmarks import machine
from tests.benchmarks.pipelines import Proto, flights_pipelines, flights_recipe, wide_pipelines
from tests.benchmarks.scaling_bytes import Counting, Passed, Ran
from tests.benchmarks.scaling_shapes import shape_of
from tests.benchmarks.scaling_state import (
    Store,
    Tokens,
    count_tokens,
    cut_bytes,
    stream_into_store,
)
from tests.benchmarks.work import WIDE

EVERY = (24, 12)
EVENTS = 40_000
TOKENS = 1_000_000
INPUT = 10e12
RATE = 100_000
PARTITIONS = (16, 256, 4_096, 65_536)
KEYS = ["carrier", "flight", "origin", "time_hour"]
# Of the pipelines, by the class that builds them, what is called what.
NAMES = {
    "Infer": "schema",
    "WriteRows": "rows",
    "AnalyzeRows": "analyze",
    "TransformParts": "examples",
}
_TABLE = re.compile(r"(<!-- scaling -->\n).*?(<!-- end -->\n)", re.DOTALL)
# Below this a step is not worth a line: names of files, counts, parts.
_LEAST = 2.0


def main(arguments: list[str]) -> int:
    """Measure and print; with `--docs`, write it there, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, nargs=2, default=EVERY, help="of so many flights one")
    parser.add_argument("--events", type=int, default=EVENTS, help="of the stream")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--docs", type=pathlib.Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        text = _measured(pathlib.Path(name), asked.every, asked.events, asked.tokens)
    print(text)
    if asked.docs is not None:
        page = asked.docs.read_text()
        asked.docs.write_text(_TABLE.sub(lambda match: match[1] + text + match[2], page))
    return 0


def _measured(folder: pathlib.Path, every: Sequence[int], events: int, tokens: int) -> str:
    few = flights.write_csv(folder / "few.csv", rows=500)
    header = folder / "wide.csv"
    header.write_text(",".join(WIDE.needed) + "\n")
    protos = {
        "flights": flights_pipelines(folder / "flights", few),
        "2,000 columns": wide_pipelines(folder / "wide", header),
    }
    ran = {n: _run(folder / f"every-{n}", n) for n in every}
    rows = {n: _lines(folder / f"every-{n}" / "flights.csv") for n in every}
    csv = folder / f"every-{every[-1]}" / "flights.csv"
    row_bytes = csv.stat().st_size / rows[every[-1]]
    # Inputs are called like their files.
    (folder / "all").mkdir()
    whole = flights.write_csv(folder / "all" / "flights.csv")
    recipe = flights_recipe(folder / "stream", whole)
    run = folder / f"every-{every[-1]}" / "run"
    stores = []
    for count in (events // 2, events):
        (folder / f"store-{count}").mkdir()
        stores.append(stream_into_store(recipe, run, whole, count, folder / f"store-{count}"))
    batch = pa_csv.read_csv(whole).combine_chunks().to_batches()[0].slice(0, 65_536)
    words = [
        f"Machine: {machine.describe()}; {machine.versions()}.",
        "",
        *_shapes(protos),
        "",
        *_shuffles([ran[n] for n in every], [rows[n] for n in every], row_bytes),
        "",
        *_cuts(batch, INPUT / row_bytes),
        "",
        *_stores(stores),
        "",
        *_tokens(tokens, count_tokens(tokens, folder)),
        "",
    ]
    return "\n".join(words)


def _run(folder: pathlib.Path, every: int) -> dict[str, Ran]:
    """Run the stages up to the examples on a sample; return what was counted."""
    folder.mkdir()
    recipe: Recipe = flights_recipe(
        folder / "recipe", flights.write_csv(folder / "flights.csv", every)
    )
    counting = Counting()
    with Run.open(RunPaths(folder / "run").root, Quiet(), {"recipe": "flights"}, {}) as opened:
        opened.manifest.update(inputs=fingerprint(recipe))
        transform(opened, recipe, counting)
    return {NAMES[one.name]: one for one in counting.ran}


def _lines(csv: pathlib.Path) -> int:
    return csv.read_bytes().count(b"\n") - 1


# --- Tables ------------------------------------------------------------------------------


def _shapes(protos: Mapping[str, Mapping[str, Proto]]) -> Iterator[str]:
    yield "| pipeline | proto | transforms | fused stages | shuffles | side inputs |"
    yield "|---|---|---|---|---|---|"
    for table, pipelines in protos.items():
        for name, proto in pipelines.items():
            shape = shape_of(proto)
            yield (
                f"| {table}: {name} | {shape.size / 1e3:,.0f} kB | {shape.transforms} "
                f"| {shape.stages} | {shape.shuffles}: {shape.reshuffles} only spread, "
                f"{shape.combines} combine first | {shape.side_inputs} |"
            )


def _shuffles(
    ran: Sequence[Mapping[str, Ran]], rows: Sequence[int], row_bytes: float
) -> Iterator[str]:
    many = INPUT / row_bytes
    yield (
        f"A row of the flights' CSV has {row_bytes:.0f} bytes: 10 TB are {many:.2e} rows. What is "
        f"shuffled or read as a side input, of {rows[0]:,} and {rows[1]:,} rows:"
    )
    yield ""
    yield "| pipeline and step | bytes | bytes | a + b × rows | at 10 TB | keys | largest key |"
    yield "|---|---|---|---|---|---|---|"
    for name in ran[0]:
        pair = [one[name] for one in ran]
        for kind in ("shuffled", "side_inputs"):
            for step in getattr(pair[1], kind):
                sizes = [getattr(one, kind).get(step, Passed()) for one in pair]
                fixed, each = _line([one.size for one in sizes], rows)
                if each < _LEAST and sizes[1].size < 1_000 * 20:
                    continue
                words = f"{name}: {_short(step)}" + (", side input" * (kind == "side_inputs"))
                yield _row(words, sizes, fixed, each, many)
        if pair[1].written:
            sizes = [Passed(one.written) for one in pair]
            fixed, each = _line([one.size for one in sizes], rows)
            yield _row(f"{name}: rows and events in files", sizes, fixed, each, many)


def _line(sizes: Sequence[int], rows: Sequence[int]) -> tuple[float, float]:
    each = (sizes[1] - sizes[0]) / (rows[1] - rows[0])
    return sizes[1] - each * rows[1], each


def _row(words: str, sizes: Sequence[Passed], fixed: float, each: float, many: float) -> str:
    keys = len(sizes[1].keys)
    # Accumulators grow until a column has as many distinct values as are counted.
    bounded = words.startswith("analyze")
    share = f"{sizes[1].largest / sizes[1].size:.0%}" if keys else ""
    line = "" if bounded else f"{fixed:,.0f} + {each:.1f} × rows"
    there = "bounded" if bounded else _amount(fixed + each * many)
    return (
        f"| {words} | {sizes[0].size:,} | {sizes[1].size:,} | {line} | {there} | {keys or ''} "
        f"| {share} |"
    )


def _short(step: str) -> str:
    """Return the last words of a step's name that say which it is."""
    words = [word for word in step.split("/")[1:] if not word.startswith("ParDo(")]
    return "/".join(words[-3:])


def _amount(size: float) -> str:
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{max(size, 0):,.0f} B"


def _cuts(batch: pa.RecordBatch, many: float) -> Iterator[str]:
    yield (
        f"A batch of {batch.num_rows:,} rows, cut for `Deduplicate` or `JoinAsOf`, a row in the "
        "shuffle and a part of 10 TB of such rows:"
    )
    yield ""
    yield "| `partitions=` | bytes a row | a part |"
    yield "|---|---|---|"
    whole = batch.nbytes / batch.num_rows
    for partitions in PARTITIONS:
        cut = cut_bytes(batch, KEYS, partitions)
        yield f"| {partitions:,} | {cut:,.0f} | {_amount(many * whole / partitions)} |"


def _stores(stores: Sequence[Store]) -> Iterator[str]:
    yield "| events streamed | tiles | ids | bytes a tile | bytes an id | store |"
    yield "|---|---|---|---|---|---|"
    for one in stores:
        yield (
            f"| {one.events:,} | {one.tiles:,} | {one.ids:,} | {one.tile_bytes:.0f} "
            f"| {one.id_bytes:.0f} | {_amount(one.size)} |"
        )


def _tokens(count: int, one: Tokens) -> Iterator[str]:
    yield f"| a distinct token of 12 bytes, of {count:,} | bytes | 10M of them |"
    yield "|---|---|---|"
    for what, size in (
        ("counted, in the memory of a worker", one.held),
        ("the same on its way to the worker that merges", one.sent),
        ("most while it becomes a file, in one worker", one.peak),
        ("in the file", one.file),
        ("in the table of a process that applies the graph", one.table),
    ):
        yield f"| {what} | {size:.0f} | {_amount(size * 1e7)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
