import dataclasses
import pathlib

import pytest

import skewless as sk
from skewless.errors import RecipeError
from skewless.pipeline.recipe import load_recipe

TEXT = """
import skewless as sk

recipe = sk.Recipe(
    name="demo",
    source=sk.ReadCsv("rows.csv"),
    features={"size": sk.numeric("size").zscore()},
    label=sk.label("late").greater_than(0),
    split=sk.SplitByHash(by=["id"]),
    model=sk.Linear(epochs=1),
)
"""


def write(folder: pathlib.Path, text: str, name: str = "some_recipe.py") -> pathlib.Path:
    path = folder / name
    path.write_text(text)
    return path


def test_digest_is_of_the_definition_alone(tmp_path: pathlib.Path) -> None:
    one = load_recipe(write(tmp_path, TEXT))
    same = load_recipe(write(tmp_path, "# a comment\n" + TEXT, "same_recipe.py"))
    assert one.digest() == same.digest()
    for changed in (
        TEXT.replace("zscore", "minmax"),
        TEXT.replace("greater_than(0)", "greater_than(1)"),
        TEXT.replace("epochs=1", "epochs=2"),
        TEXT.replace('"rows.csv"', '"others.csv"'),
    ):
        assert load_recipe(write(tmp_path, changed, "x_recipe.py")).digest() != one.digest()


def test_where_a_stream_comes_from_makes_no_other_run(tmp_path: pathlib.Path) -> None:
    one = load_recipe(write(tmp_path, TEXT))
    stream = 'stream=sk.ReadKafka("t", bootstrap_servers="b:9092"),\n    label='
    other = load_recipe(write(tmp_path, TEXT.replace("label=", stream), "y_recipe.py"))
    assert other.stream is not None
    assert one.digest() == other.digest()


def test_digest_follows_the_text_of_a_function(tmp_path: pathlib.Path) -> None:
    text = TEXT.replace(
        'features={"size": sk.numeric("size").zscore()}', "preprocessing_fn=prepare"
    ).replace('sk.label("late").greater_than(0)', '"late"')
    text = "def prepare(inputs):\n    return inputs\n" + text
    one = load_recipe(write(tmp_path, text, "one_recipe.py"))
    changed = text.replace("return inputs", "return {**inputs}")
    two = load_recipe(write(tmp_path, changed, "two_recipe.py"))
    assert one.digest() != two.digest()


def test_frozen_schema_counts_by_its_text(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, TEXT.replace("    label=", '    schema="schema.pbtxt",\n    label='))
    schema = write(tmp_path, 'feature { name: "size" type: FLOAT }', "schema.pbtxt")
    one = load_recipe(path).digest()
    schema.write_text('feature { name: "size" type: INT }')
    assert load_recipe(path).digest() != one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import skewless as sk\nx = sk.numeric('a').nothing()\n", ":2: AttributeError"),
        ("recipe = (\n", "never closed"),
        ("recipe = 3\n", "found 0 recipes"),
        ("import nosuchmodule\n", "nosuchmodule"),
        (TEXT.replace('name="demo"', 'name="a/b"'), "letters, digits"),
        (TEXT.replace("    label=", "    preprocessing_fn=print,\n    label="), "not both"),
        (TEXT.replace('sk.ReadCsv("rows.csv")', '"rows.csv"'), "expected sk.ReadCsv(...)"),
        (TEXT.replace("    label=", "    rows=[3],\n    label="), "expected sk.Require(...)"),
        (TEXT.replace("    label=", "    stream=3,\n    label="), "expected sk.ReadKafka("),
        (TEXT.replace("    label=", "    max_rejected=5,\n    label="), "share from 0 to 1"),
        (TEXT.replace("    label=", '    max_rejected="1%",\n    label='), "share from 0 to 1"),
        (TEXT.replace('{"size": sk.numeric("size").zscore()}', '[sk.numeric("a")]'), "features="),
        (TEXT.replace('sk.numeric("size").zscore()', '"size"'), 'expected sk.numeric("column")'),
        (TEXT.replace('"size": sk', "1: sk"), "names that are texts"),
        (TEXT.replace('{"size": sk.numeric("size").zscore()}', "{}"), "features="),
        (TEXT.replace('sk.SplitByHash(by=["id"])', '"hash"'), "split="),
        (TEXT.replace("sk.Linear(epochs=1)", "sk.Linear"), "model="),
        (TEXT.replace("    label=", "    rows=[sk.Require],\n    label="), "rows="),
        (TEXT.replace("    label=", "    seed=-1,\n    label="), "seed="),
        (TEXT.replace("    label=", "    schema=5,\n    label="), "schema="),
        (TEXT.replace("    label=", "    evaluation={},\n    label="), "evaluation="),
        (
            TEXT.replace("    label=", '    rows=[sk.JoinAsOf("r.csv", by=["a"])],\n    label='),
            "JoinAsOf",
        ),
        (TEXT.replace('"rows.csv"', '"rows.csv", null_values="NA"'), 'as in ["NA"]'),
    ],
)
def test_wrong_recipe_is_one_line_with_file_and_line(
    tmp_path: pathlib.Path, text: str, words: str
) -> None:
    path = write(tmp_path, text, "wrong_recipe.py")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_inputs_of_one_name_are_refused() -> None:
    source = sk.ReadCsv("rows.csv", event_time="t")
    recipe = sk.Recipe(
        name="demo",
        source=source,
        rows=[sk.JoinAsOf(dataclasses.replace(source), by=["id"])],
        features={"size": sk.numeric("size")},
        label=sk.label("late"),
        split=sk.SplitByHash(by=["id"]),
        model=sk.Linear(),
    )
    with pytest.raises(RecipeError, match="name one of them with name="):
        recipe.sources()
