"""`skewless predict`: what is wrong is one line; what is right goes where it was asked for."""

from __future__ import annotations

import json
import pathlib

import pyarrow.parquet as pq
import pytest

from skewless.launch.command_line import main
from tests.pipeline.small_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    (tmp_path / "rows.csv").write_text("x,code,at\n1,,\n2,,\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.jsonl"], "rows no.jsonl: there is no such file"),
        (["rows.csv"], "give --output DIR or --output bigquery:PROJECT.DATASET.TABLE"),
        (["*.jsonl"], "give --output DIR"),
        (["bigquery:p.d.t"], "give --output DIR"),
        (["rows.jsonl", "rows.jsonl"], "give --output DIR"),
        (["rows.jsonl", "--columns", "x"], "--columns: is for --output"),
        (["rows.jsonl", "--max-rejected", "0.5"], "--max-rejected: is for --output"),
        (["-", "--output", "out"], "leave out --output"),
        (["rows.csv", "--output", "rows.csv"], "this is a file; expected a folder"),
        (["rows.csv", "--output", "out", "--ledger", "l"], "--ledger: is for a table"),
        (["rows.csv", "--output", "bigquery:p.d.t", "--output-format", "jsonl"], "for a folder"),
        (["rows.csv", "--output", "bigquery:t"], "not the full name of a table"),
        (["rows.csv", "--output", "out", "--columns", "x,"], "with commas between"),
        (["kafka:h:1/t", "--output", "out"], "skewless stream RECIPE --source kafka:h:1/t"),
        (["no-*.csv", "--output", "out"], '"no-*.csv": no such file'),
        (["rows.csv", "--output", "out", "--columns", "y"], 'no column "y"'),
    ],
)
def test_what_is_wrong_is_one_line(
    model: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", model, *arguments]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skewless: ")
    assert words in line


def test_a_part_is_between_0_and_1(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("2", "few"):
        with pytest.raises(SystemExit):
            main(["predict", model, "rows.csv", "--output", "out", "--max-rejected", wrong])
        assert f"{wrong} is not a part of the rows; expected 0 to 1" in capsys.readouterr().err


def test_the_help_names_the_command_for_streams(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert "skewless stream RECIPE --predict --to SINK" in capsys.readouterr().out


def test_json_lines_are_printed(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", model, "rows.jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"prediction": 2.0}, {"prediction": 4.0}]


def test_files_become_files_with_a_ledger(
    model: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "rows.csv").open("a") as file:
        file.write("3,one,\n")
    words = ["predict", model, "rows.csv", "--output", "out"]
    assert main(words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skewless")]
    assert "1 of 3 rows were rejected, more than max_rejected=1.00%" in line
    assert "nothing was published" in line
    assert not (folder / "out" / "ledger.json").exists()
    # The folder is free still, and no row of the first time is left over in it.
    assert main([*words, "--max-rejected", "0.4"]) == 0
    shown = capsys.readouterr().err
    assert "predicted" in shown
    assert "Predict" in shown
    assert pq.read_table(folder / "out" / "predictions")["prediction"].to_pylist() == [2, 4]
    assert len(list((folder / "out" / "rejected").iterdir())) == 1
