"""Rejected rows can be repaired and run again, and the ledger still adds up."""

from __future__ import annotations

import json
import pathlib

import pytest

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import RunPaths, latest_run, read_manifest
from skewless.pipeline.batch import read_rejected
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.ledger import Ledger
from skewless.pipeline.stages import Quiet

RECIPE = """
import skewless as sk

recipe = sk.Recipe(
    name="replayed",
    source=sk.ReadCsv({path!r}),
    features={{"size": sk.numeric("size").zscore()}},
    label=sk.label("late").greater_than(0),
    split=sk.SplitByHash(by=["id"], train=0.8, eval=0.1),
    model=sk.Linear(epochs=1),
)
"""


@pytest.mark.integration
def test_replay_puts_repaired_rows_in_place(tmp_path: pathlib.Path) -> None:
    lines = ["id,size,late", *(f"{i},{i % 17}.5,{i % 2}" for i in range(1, 1001))]
    lines[100] = "100,big,1"
    lines[200] = "200,1.5"
    lines[300] = "300,huge,0"
    csv = tmp_path / "rows.csv"
    csv.write_text("\n".join(lines))
    recipe = tmp_path / "replayed_recipe.py"
    recipe.write_text(RECIPE.format(path=str(csv)))
    first = journey(Journey(recipe, tmp_path / "runs", until="transform"), Quiet())
    assert first.ledger.total("rows", "rejected") == 3

    # A person repairs two of them, one as an object and one as a line, and gives one up.
    repaired = []
    for file in first.paths.rejected.rglob("*.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if row["value"] == "big":
                cells = json.loads(row["payload"])
                row["payload"] = json.dumps({**cells, "size": "3.5"})
            elif row["value"] != "huge":
                row["payload"] = "200,1.5,1"
            repaired.append(json.dumps(row))
    edited = tmp_path / "repaired.jsonl"
    edited.write_text("\n".join(repaired) + "\n")

    assert main(["replay", str(first.paths.root), str(edited)]) == 0
    run = latest_run(tmp_path / "runs")
    assert run != first.paths.root
    ledger = Ledger.from_json(read_manifest(run)["ledger"])
    assert ledger.total("rows", "read") == 1000
    assert ledger.total("rows", "written") == 999
    (still,) = read_rejected(RunPaths(run).rejected)
    assert still.value == "huge"
    assert main(["verify", str(run), "--batch-sizes", "7,all"]) == 0

    # A later replay keeps what was repaired before.
    files = RunPaths(run).rejected.rglob("*.jsonl")
    (line,) = [line for file in files for line in file.read_text().splitlines()]
    last = tmp_path / "last.jsonl"
    last.write_text(line.replace("huge", "7.5"))
    assert main(["replay", str(run), str(last)]) == 0
    ledger = Ledger.from_json(read_manifest(latest_run(tmp_path / "runs"))["ledger"])
    assert ledger.total("rows", "written") == 1000


def test_only_rejected_rows_can_be_replayed(
    result: Result, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"step": "Parse", "file": "flights.csv", "offset": 999_999, "column": "", "value": ""}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({**row, "reason": "", "payload": "{}"}))
    assert main(["replay", str(result.paths.root), str(rows)]) == 2
    assert "was not rejected by" in capsys.readouterr().err
    rows.write_bytes(b"\xff")
    assert main(["replay", str(result.paths.root), str(rows)]) == 2
    assert "not a file of rejected/" in capsys.readouterr().err
