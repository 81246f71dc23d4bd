"""Other labels and other files than the flights': regression, classes, JSON Lines, gzip."""

from __future__ import annotations

import gzip
import json
import pathlib
import random

import pytest

from skewless.launch.command_line import main
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet

REGRESSION = """
import skewless as sk

recipe = sk.Recipe(
    name="prices",
    source=sk.ReadJsonLines({path!r}),
    rows=[sk.Deduplicate(by=["id"])],
    features={{
        "size": sk.numeric("size").impute("mean").clip_iqr(3).minmax(),
        "size_bucket": sk.numeric("size").bucketize(5).one_hot(),
        "tags": sk.categories("tags").vocabulary(oov=1),
        "comment": sk.text("comment").ngrams(1, 2).vocabulary(top=50),
        "when": sk.date_parts("sold", parts=["year", "weekday"]),
    }},
    label=sk.label("price"),
    split=sk.SplitByHash(by=["id"], train=0.7, eval=0.1),
    model=sk.Dnn(hidden=[32], epochs=30, patience=30, batch_size=64, learning_rate=0.01),
    evaluation=sk.Evaluation(thresholds=[sk.at_least("r2", 0.5)]),
)
"""

CLASSES = """
import skewless as sk

recipe = sk.Recipe(
    name="animals",
    source=sk.ReadCsv({path!r}, name="animals"),
    features={{
        "legs": sk.numeric("legs").zscore(),
        "sound": sk.category("sound").vocabulary(oov=1).one_hot(),
    }},
    label=sk.label("animal"),
    split=sk.SplitByHash(by=["id"], train=0.7, eval=0.1),
    model=sk.Linear(epochs=5, batch_size=32),
    evaluation=sk.Evaluation(thresholds=[sk.at_least("accuracy", 0.9)]),
)
"""

ODD_NAMES = """
import tensorflow as tf
import tensorflow_transform as tft
import skewless as sk

def preprocessing_fn(inputs):
    features = {{
        name: tft.scale_to_z_score(inputs[name])
        for name in ["trip miles", "_x", "a-b", "a_b", "A_b", "1st", "class", "self"]
    }}
    words = tf.strings.split(inputs["Größe"], " ").to_sparse()
    # Not the first word of "the big one": what is left begins at index 1.
    words = tf.sparse.retain(words, words.values != "the")
    features["words"] = tft.compute_and_apply_vocabulary(words)
    features["late"] = tf.cast(inputs["late"], tf.int64)
    return features

recipe = sk.Recipe(
    name="odd_names",
    source=sk.ReadCsv({path!r}),
    preprocessing_fn=preprocessing_fn,
    label="late",
    split=sk.SplitByHash(by=["trip miles"], train=0.7, eval=0.1),
    model=sk.Linear(epochs=1, batch_size=32),
)
"""


def write(folder: pathlib.Path, name: str, text: str, path: pathlib.Path) -> pathlib.Path:
    recipe = folder / f"{name}_recipe.py"
    recipe.write_text(text.format(path=str(path)))
    return recipe


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("prices")
    rng = random.Random(0)
    lines = []
    for i in range(1500):
        size = rng.uniform(20, 200)
        tags = rng.sample(["new", "old", "garden", "lift"], rng.randint(0, 3))
        row = {
            "id": i,
            "size": None if i % 20 == 0 else round(size, 1),
            "tags": tags,
            "comment": " ".join(rng.choices(["bright", "quiet", "Central", "view"], k=3)),
            "sold": f"20{rng.randint(10, 20)}-0{rng.randint(1, 9)}-15T12:00:00Z",
            "price": size * 1000 + 30_000 * ("garden" in tags),
        }
        lines.append(json.dumps(row))
    path = folder / "prices.jsonl"
    path.write_text("\n".join([*lines, lines[0], '{"id": "x"}']))
    recipe = write(folder, "prices", REGRESSION, path)
    return journey(Journey(recipe, folder / "runs"), Quiet())


def test_regression_from_json_lines(prices: Result) -> None:
    assert prices.metrics is not None
    assert prices.metrics["overall"]["r2"] > 0.5
    assert prices.ledger.total("prices", "read") == 1502
    assert prices.ledger.total("prices", "duplicate") == 1
    assert prices.ledger.total("prices", "rejected") == 1


def test_lists_and_text_are_the_same_in_every_bit(prices: Result) -> None:
    assert main(["verify", str(prices.paths.root)]) == 0


def test_lists_are_predicted_for(
    prices: Result, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = [json.loads(line) for line in prices.paths.sample.read_text().splitlines()]
    sample[0]["tags"] = []
    sample[1]["tags"] = ["garden", "never seen", "new", "old"]
    del sample[2]["tags"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, sample)))
    assert main(["predict", str(prices.paths.root), str(rows)]) == 0
    answers = [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 3
    assert all(isinstance(answer, float) for answer in answers)


def test_classes_have_names(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(1)
    kinds = {"dog": (4, "woof"), "hen": (2, "cluck"), "cat": (4, "meow")}
    files = []
    for shard in range(3):
        lines = ["id,legs,sound,animal"]
        for i in range(200):
            animal = rng.choice(list(kinds))
            legs, sound = kinds[animal]
            lines.append(f'{shard * 200 + i},{legs},"{sound}",{animal}')
        files.append(tmp_path / f"animals-{shard}.csv.gz")
        files[-1].write_bytes(gzip.compress("\r\n".join(lines).encode()))
    recipe = write(tmp_path, "animals", CLASSES, tmp_path / "animals-*.csv.gz")
    made = journey(Journey(recipe, tmp_path / "runs"), Quiet())
    assert made.metrics is not None
    assert made.metrics["overall"]["accuracy"] > 0.9
    row = tmp_path / "row.jsonl"
    row.write_text('{"legs": 2, "sound": "cluck"}')
    assert main(["predict", str(made.paths.root), str(row)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["classes"]) == {"dog", "hen", "cat", "(other)"}
    assert answer["classes"][answer["prediction"].index(max(answer["prediction"]))] == "hen"


@pytest.mark.integration
def test_columns_of_any_name_and_lists_with_holes_are_served(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(2)
    numbers = ["trip miles", "_x", "a-b", "a_b", "A_b", "1st", "class", "self"]
    lines = [",".join([*numbers, "Größe", "late"])]
    for _ in range(200):
        values = [f"{rng.normalvariate(0, 1):.4f}" for _ in numbers]
        words = rng.choice(["the big one", "big the", "the the small", "small one"])
        lines.append(",".join([*values, words, str(rng.randint(0, 1))]))
    path = tmp_path / "odd.csv"
    path.write_text("\n".join(lines))
    recipe = write(tmp_path, "odd_names", ODD_NAMES, path)
    made = journey(Journey(recipe, tmp_path / "runs"), Quiet())
    assert main(["verify", str(made.paths.root)]) == 0

    row = {name: i / 8 for i, name in enumerate(numbers)} | {"Größe": "the big one"}
    rows = tmp_path / "rows.jsonl"
    # The columns that are alike as arguments are told apart, and "the" is not a word.
    others = [
        row | {"a-b": 0.9},
        row | {"a_b": 0.9},
        row | {"A_b": 0.9},
        row | {"Größe": "big one"},
    ]
    rows.write_text("\n".join(map(json.dumps, [row, *others])))
    capsys.readouterr()
    assert main(["predict", str(made.paths.root), str(rows)]) == 0
    answers = [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]
    assert len(set(answers[:4])) == 4
    assert answers[4] == pytest.approx(answers[0], abs=1e-6)
