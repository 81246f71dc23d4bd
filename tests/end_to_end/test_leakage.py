"""Only training rows reach an analyzer: whatever the other rows hold, the graph is the same."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.journey import Journey, journey
from skewless.pipeline.stages import Quiet

GraphConstants = Callable[[RunPaths], dict[str, bytes]]

RECIPE = """
import skewless as sk

recipe = sk.Recipe(
    name="leak",
    source=sk.ReadCsv({path!r}, event_time="at"),
    features={{
        "size": sk.numeric("size").impute("mean").clip(0.01, 0.99).zscore(),
        "rank": sk.numeric("size").bucketize(4),
        "kind": sk.category("kind").vocabulary(top=10, oov=1),
    }},
    label=sk.label("late").greater_than(0),
    split=sk.SplitByTime(train_until="2020-03-01", eval_until="2020-04-01"),
    model=sk.Linear(epochs=1),
)
"""


def graph_of(folder: pathlib.Path, spoil: bool) -> RunPaths:
    """Return a transformed run, with or without wild later rows."""
    folder.mkdir()
    lines = ["id,at,size,kind,late"]
    for i in range(600):
        month = 1 + i * 5 // 600
        wild = spoil and month >= 3
        size, kind = ("9e9", "later") if wild else (f"{i % 37}.5", "abc"[i % 3])
        lines.append(f"{i},2020-{month:02d}-{1 + i % 28:02d}T00:00:00Z,{size},{kind},{i % 2}")
    csv = folder / "rows.csv"
    csv.write_text("\n".join(lines))
    recipe = folder / f"leak_{spoil}_recipe.py"
    recipe.write_text(RECIPE.format(path=str(csv)))
    made = journey(Journey(recipe, folder / "runs", until="transform"), Quiet())
    assert made.ledger.inputs["rows"]["written"]["eval"] > 100
    assert made.ledger.inputs["rows"]["written"]["test"] > 100
    return made.paths


def test_eval_and_test_rows_cannot_reach_an_analyzer(
    tmp_path: pathlib.Path, graph_constants: GraphConstants
) -> None:
    plain = graph_constants(graph_of(tmp_path / "plain", spoil=False))
    spoiled = graph_constants(graph_of(tmp_path / "spoiled", spoil=True))
    assert plain == spoiled
    assert b"later" not in b"".join(spoiled.values())
