"""Read a run's source again and see that its rows are the ones that entered the graph."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.batch import WriteRows, read_rejected, typed_recipe
from skewless.pipeline.execution import Execution
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.rows import ReadRows
from skewless.pipeline.verifying import Comparison
from skewless.storage import AnyPath, paths_in
from skewless.transforms.replace import without_rows
from skewless.transforms.rows import FILE, OFFSET
from skewless.transforms.sinks.rejected import read_rejected_file

__all__ = ["read_rows", "verify_rows"]


def verify_rows(paths: RunPaths, recipe: Recipe, execution: Execution) -> Comparison:
    """Read the source again and compare its rows with those that entered the graph.

    Args:
        paths: A run.
        recipe: The run's recipe.
        execution: Where to read.

    Returns:
        The comparison; `differing` counts the rows that are not the same on both sides.
    """
    typed, schema = typed_recipe(recipe, paths)
    repaired = tuple(read_rejected_file(paths.repaired)) if paths.repaired.exists() else ()
    # What the graph rejected left the rows after they were read.
    later = {(r.file, r.offset) for r in read_rejected(paths.rejected / "transform")}
    comparison = Comparison("source, read again", features=len(schema.feature))
    with execution.scratch(paths.root) as folder:
        read = ReadRows(typed, schema, repaired, str(folder / "tmp"))
        execution.run(WriteRows(read, str(folder)))
        for split in SPLITS:
            held = _in_order(paths.rows / split)
            read = _in_order(RunPaths(folder).rows / split)
            if later and read.num_rows:
                read = pa.Table.from_batches(
                    [without_rows(batch, later) for batch in read.to_batches()], read.schema
                )
            comparison.rows += held.num_rows
            comparison.differing += _differing(held, read)
    return comparison


def _in_order(folder: AnyPath) -> pa.Table:
    """Return the rows of a split in the order of where they came from."""
    parts = paths_in(folder, "*.parquet")
    if not parts:
        return pa.table({})
    table = pa.concat_tables([read_rows(part) for part in parts])
    plain = table.set_column(
        table.schema.get_field_index(FILE), FILE, table.column(FILE).cast(pa.string())
    )
    return plain.sort_by([(FILE, "ascending"), (OFFSET, "ascending")])


def read_rows(part: AnyPath) -> pa.Table:
    """Return the rows of a part."""
    with part.open("rb") as file:
        return pq.read_table(file)


def _differing(held: pa.Table, read: pa.Table) -> int:
    """Return how many rows are not the same; tables of another size differ in every row."""
    if held.num_rows != read.num_rows or held.schema.names != read.schema.names:
        rows: int = max(held.num_rows, read.num_rows)
        return rows
    unequal: Any = pa.array([False] * held.num_rows)
    for name in held.schema.names:
        one, two = held.column(name).combine_chunks(), read.column(name).combine_chunks()
        if one.equals(two):
            continue
        both = zip(one.to_pylist(), two.to_pylist(), strict=True)
        unequal = pc.or_(unequal, pa.array([a != b for a, b in both]))
    different: list[bool] = unequal.to_pylist()
    return sum(different)
