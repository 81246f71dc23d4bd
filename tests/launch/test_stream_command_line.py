"""Wrong arguments of `stream` and `backfill`: one line that says what is expected."""

from __future__ import annotations

import pathlib

import pytest

from skewless.launch.command_line import main

RECIPE = """
import skewless as sk

recipe = sk.Recipe(
    name="small",
    source=sk.ReadCsv("events.csv", event_time="t"),
    rows=[sk.Aggregate(by=["k"], known_at="t", tile="5m", n=sk.count(over="1h"))],
    features={"n": sk.numeric("n").zscore()},
    label=sk.label("y").greater_than(1),
    split=sk.SplitByTime(train_until="2013-02-01", eval_until="2013-03-01"),
    model=sk.Dnn(hidden=[4]),
)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text(RECIPE)
    (tmp_path / "runs").mkdir()
    return tmp_path


def check(arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("skewless: ")
    assert words in lines[0]


@pytest.mark.parametrize(
    ("option", "given", "code", "words"),
    [
        ("--source", "kafka:localhost:9092", 2, "expected kafka:HOST:PORT/TOPIC"),
        ("--source", "pubsub:flights", 2, "projects/"),
        ("--source", "pubsub:projects/p/topics/t", 2, "subscriptions"),
        ("--to", "kafka:localhost:9092", 2, "expected kafka:HOST:PORT/TOPIC or pubsub:"),
        ("--to", "out.csv", 2, '--to "out.csv": expected kafka:'),
        ("--to", "pubsub:projects/p/subscriptions/s", 2, "topics"),
        ("--store", "redis://host:port/0", 2, "expected redis://host:port/number"),
        ("--store", "gs://bucket/store.db", 2, "expected redis://host:port/db, or the path of"),
        ("--store", "", 2, "expected redis://host:port/db, or the path of"),
        ("--store", "redis://127.0.0.1:1/0", 1, "redis://127.0.0.1:1/0: "),
        ("--store", "r.py", 1, "the file is an online store"),
        ("--run", "runs", 1, "there is no run here"),
        ("--run", "no/such", 2, "run no/such: there is no such file or folder"),
        ("--output", "r.py", 2, "this is a file; expected a folder"),
    ],
)
def test_a_wrong_argument_of_a_stream(
    option: str, given: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--source": "events.csv", "--run": "runs", "--store": "s.db", "--output": "out"}
    arguments = [word for pair in {**options, option: given}.items() for word in pair]
    check(["stream", "r.py", *arguments], code, words, capsys)


def test_a_store_that_workers_do_not_reach(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stream", "r.py", "--run", "runs", "--output", "out", "--runner", "dataflow"]
    check([*arguments, "--store", "s.db"], 2, "--store s.db: on Dataflow", capsys)


@pytest.mark.parametrize(
    ("option", "given", "code", "words"),
    [
        ("--store", "gs://bucket/store.db", 2, "expected redis://host:port/db, or the path of"),
        ("--run", "runs", 1, "there is no run here"),
        ("--run", "no/such", 2, "run no/such: there is no such file or folder"),
    ],
)
def test_a_wrong_argument_of_a_backfill(
    option: str, given: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--run": "runs", "--store": "s.db"}
    arguments = [word for pair in {**options, option: given}.items() for word in pair]
    check(["backfill", "r.py", *arguments], code, words, capsys)


@pytest.mark.parametrize("missing", ["--run", "--store", "--output"])
def test_what_a_stream_needs(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"--source": "events.csv", "--run": "runs", "--store": "s.db", "--output": "out"}
    arguments = [word for pair in options.items() for word in pair if pair[0] != missing]
    with pytest.raises(SystemExit) as stopped:
        main(["stream", "r.py", *arguments])
    assert stopped.value.code == 2
    assert f"required: {missing}" in capsys.readouterr().err


def test_a_stream_of_a_recipe_that_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stream", "r.py", "--run", "runs", "--store", "s.db", "--output", "out"]
    check(arguments, 2, "the recipe has no stream=; give it one", capsys)
