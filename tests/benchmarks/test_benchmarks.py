"""The benchmarks measure what they say, and notice features that are not the same."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.benchmarks import report
from tests.benchmarks.agreement import agrees, differences, in_order
from tests.benchmarks.figures import Figure, Sample, figures
from tests.benchmarks.transform import MODULES, Transform

ROOT = pathlib.Path(__file__).parents[2]


def sample(variant, seconds, rows=1_000, failure="", suite="transform"):
    return Sample(suite, "flights", variant, rows, seconds, 50.0, 40.0, failure)


def test_repeated_samples_are_one_figure_and_ratios_are_of_speed():
    samples = [sample("canonical", 8.0), *(sample("skewless", s) for s in (9.0, 2.0, 1.0))]
    found = figures(samples)
    assert Figure("transform", "flights", "skewless", 1_000, 2.0, "s") in found
    assert Figure("transform", "flights", "skewless", 1_000, 500.0, "rows/s") in found
    assert Figure("transform", "flights", "skewless", 1_000, 4.0, "ratio") in found
    assert len({figure[:4] + figure[5:] for figure in found}) == len(found)


def test_a_failure_is_no_figure_but_it_is_told():
    samples = [sample("tft_beam", None, failure="not done after 9 s"), sample("ceiling", 1.0)]
    found = figures(samples)
    assert {figure.variant for figure in found} == {"ceiling"}
    made = report.Report(samples, found, {}, minutes=1, load=(0, 0))
    assert "| `tft_beam` | not done after 9 s |" in report.as_markdown(made)
    assert report.failures(made) == []
    made.samples.append(sample("skewless", None, failure="exit code 1: a line"))
    assert report.failures(made) == ["flights, 1,000 rows: skewless: exit code 1: a line"]


def test_short_variants_are_measured_before_between_and_after_long_ones():
    variants = ("canonical", "tft_beam", "skewless")
    suite = Transform((1_000,), 0, variants, 3, pathlib.Path(), print)
    short, long = ["skewless"], ["canonical", "tft_beam"]
    assert suite._order("flights", 1_000) == [*short, long[0], *short, long[1], *short]
    assert suite._order("flights", 3_000_000) == short * 3


def test_rows_in_another_order_are_the_same_features():
    rows = {"id": np.array([3, 1, 2]), "x": np.array([0.3, 0.1, 0.2], np.float32)}
    mixed = {name: values[[2, 0, 1]] for name, values in rows.items()}
    assert differences(in_order(mixed, ("id",)), in_order(rows, ("id",))) == {}


@pytest.mark.parametrize(
    ("name", "ours", "same"),
    [
        ("x", [1.0, 2.0 + 1e-6], True),
        ("x", [1.0, 2.001], False),
        ("x_bucket", [1, 3], False),
        ("words", [1, 3], False),
    ],
)
def test_what_is_not_the_same_is_noticed(name, ours, same):
    theirs = np.array([1, 2], np.asarray(ours).dtype)
    assert agrees(differences({name: np.array(ours)}, {name: theirs})) is same


def test_a_bucket_may_be_one_off_in_a_few_rows_only():
    theirs = np.zeros(100, np.int64)
    ours = theirs.copy()
    ours[0] = 1
    assert agrees(differences({"x_bucket": ours}, {"x_bucket": theirs}))
    ours[0] = 2
    assert not agrees(differences({"x_bucket": ours}, {"x_bucket": theirs}))


@pytest.mark.integration
def test_everybody_makes_the_same_features_of_the_same_rows(tmp_path):
    command = [
        *(sys.executable, "-m", "tests.benchmarks", "--suites", "transform", "training_input"),
        *("--sizes", "2000", "--wide-rows", "0", "--input-rows", "2000"),
        *("--folder", tmp_path, "--json", tmp_path / "bench.json", "--docs", tmp_path / "b.md"),
    ]
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # Not zero where a variant of ours fails, or features differ.
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert all(set(figure) == set(Figure._fields) for figure in found)
    measured = [f for f in found if f["suite"] == "transform"]
    assert {f["variant"] for f in measured} == set(MODULES)
    assert {f["unit"] for f in measured} == {"s", "rows/s", "MB", "ratio"}
    assert all(f["value"] > 0 and f["rows"] == 2_000 for f in measured)
    page = (tmp_path / "b.md").read_text()
    assert all(f"- `{variant}`: " in page for variant in set(MODULES) - {"canonical"})
