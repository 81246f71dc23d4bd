import ast
import pathlib
import pickle

import pytest

from skewless.errors import RecipeError
from skewless.transforms.features import columns
from skewless.transforms.features.columns import (
    Hashed,
    Step,
    Vocabulary,
    categories,
    category,
    cross,
    cyclic,
    date_parts,
    label,
    numeric,
    passthrough,
    text,
)

FOLDER = pathlib.Path(columns.__file__).parent


@pytest.mark.parametrize(
    "name", ["column.py", "columns.py", "number_columns.py", "name_columns.py"]
)
def test_builders_import_neither_tensorflow_nor_beam(name):
    tree = ast.parse((FOLDER / name).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    ours = {
        "skewless.errors",
        "skewless.transforms.features.column",
        "skewless.transforms.features.number_columns",
        "skewless.transforms.features.name_columns",
    }
    standard = {"__future__", "abc", "dataclasses", "math", "typing", "collections.abc"}
    assert imported <= ours | standard


def test_every_method_returns_a_new_object_and_keeps_the_order_of_calls():
    plain = numeric("x")
    built = plain.impute("mean").clip(0.01, 0.99).log1p().zscore().missing_indicator()
    assert plain.steps == ()
    assert built.steps == (
        Step("impute", ("mean",)),
        Step("clip", (0.01, 0.99)),
        Step("log1p"),
        Step("zscore"),
    )
    assert pickle.loads(pickle.dumps(built)) == built


def test_inputs_and_output_names():
    assert numeric("a").inputs == ("a",)
    assert numeric("a").missing_indicator().output_names("k") == ("k", "k_missing")
    assert numeric("a").missing_indicator().bucketize(3).output_names("k") == ("k", "k_missing")
    assert cross("a", "b").inputs == ("a", "b")
    assert cyclic("h", 24).output_names("hour") == ("hour_sin", "hour_cos")
    assert date_parts("t", ["year", "day"]).output_names("at") == ("at_year", "at_day")
    assert category("c").output_names("c") == passthrough("c").output_names("c") == ("c",)


def test_encodings():
    assert category("c").vocabulary(top=3, min_count=2, oov=0).encoding == Vocabulary(3, 2, 0)
    assert categories("c").hashed(7).multi_hot().encoding == Hashed(7)
    assert text("t").ngrams(1, 2).widths == (1, 2)
    assert text("t").encoding.oov == 0


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: numeric(""), "numeric"),
        (lambda: numeric("x").impute("mode"), "impute"),
        (lambda: numeric("x").impute(float("nan")), "impute"),
        (lambda: numeric("x").impute(True), "impute"),
        (lambda: numeric("x").clip(1, 99), "clip"),
        (lambda: numeric("x").clip(0.9, 0.1), "clip"),
        (lambda: numeric("x").clip_values(2, 1), "clip_values"),
        (lambda: numeric("x").clip_zscore(0), "clip_zscore"),
        (lambda: numeric("x").clip_iqr(-1), "clip_iqr"),
        (lambda: numeric("x").bucketize(), "bucketize"),
        (lambda: numeric("x").bucketize(1), "bucketize"),
        (lambda: numeric("x").bucketize(3, boundaries=[1]), "bucketize"),
        (lambda: numeric("x").bucketize(boundaries=[1, 1]), "bucketize"),
        (lambda: numeric("x").bucketize(boundaries=[]), "bucketize"),
        (lambda: category("x").vocabulary(top=0), "vocabulary(top)"),
        (lambda: category("x").vocabulary(min_count=0), "vocabulary(min_count)"),
        (lambda: category("x").vocabulary(oov=-1), "vocabulary(oov)"),
        (lambda: category("x").hashed(0), "hashed"),
        (lambda: cross("a"), "cross"),
        (lambda: cross("a", "a"), "cross"),
        (lambda: cyclic("x", 0), "cyclic(period)"),
        (lambda: date_parts("t", ["month", "fortnight"]), "date_parts(parts)"),
        (lambda: date_parts("t", []), "date_parts(parts)"),
        (lambda: text("t").ngrams(2, 1), "ngrams"),
        (lambda: label("y").greater_than("15"), "label.greater_than"),
        (lambda: label("y").equals(None), "label.equals"),
    ],
)
def test_a_wrong_argument_is_named_at_once(build, named):
    with pytest.raises(RecipeError, match=r"got .*; expected ") as error:
        build()
    assert str(error.value).startswith(f"{named}: ")
    assert "\n" not in str(error.value)
