"""A committed schema.pbtxt types the next run, and rows outside its domains are rejected."""

from __future__ import annotations

import pathlib

import pytest

from skewless.pipeline.batch import read_rejected
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet
from skewless.schema import find_feature, format_schema, parse_schema

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def frozen(
    result: Result, recipe_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    folder = tmp_path_factory.mktemp("frozen")
    schema = parse_schema(result.paths.schema.read_text())
    find_feature(schema, "distance").int_domain.max = 4_900
    find_feature(schema, "temp").float_domain.max = 100.0
    (folder / "schema.pbtxt").write_text(format_schema(schema))
    recipe = folder / "frozen_recipe.py"
    named = '    schema="schema.pbtxt",\n    features='
    recipe.write_text(recipe_file.read_text().replace("    features=", named))
    return journey(Journey(recipe, folder / "runs", until="transform"), Quiet())


def test_rows_outside_the_domains_are_rejected_with_the_reason(
    frozen: Result, flights_table
) -> None:
    far = sum(d > 4_900 for d in flights_table.column("distance").to_pylist())
    rejected = list(read_rejected(frozen.paths.rejected))
    by_column = {row.column for row in rejected}
    assert len([r for r in rejected if r.column == "distance"]) == far > 0
    assert by_column <= {"distance", "temp"}
    assert all("at most" in row.reason for row in rejected)
    frozen.ledger.check()


def test_the_schema_stays_as_it_was_frozen(result: Result, frozen: Result) -> None:
    before = parse_schema(result.paths.schema.read_text())
    after = parse_schema(frozen.paths.schema.read_text())
    assert [f.name for f in after.feature] == [f.name for f in before.feature]
    assert find_feature(after, "distance").int_domain.max == 4_900
    assert find_feature(after, "temp").float_domain.max == 100.0
