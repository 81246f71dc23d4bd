import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.transforms.evaluation.decision import (
    Blessing,
    Evaluation,
    at_least,
    at_most,
    decide,
    improves,
)

METRICS = {
    "overall": {"auc": 0.7, "calibration": 1.2, "recall": None},
    "slices": [{"slice": {"origin": "EWR"}, "metrics": {"auc": 0.6, "calibration": 1.0}}],
}
FIRST_RUN = "no baseline: decided by the thresholds alone"


def test_no_thresholds_bless():
    assert decide(METRICS, []) == Blessing(True, ("no thresholds were set",))


def test_a_first_run_is_decided_by_the_thresholds_alone():
    assert decide(METRICS, [at_least("auc", 0.65), at_most("calibration", 1.5)]) == Blessing(
        True, ("auc is 0.7, at least 0.65", "calibration is 1.2, at most 1.5", FIRST_RUN)
    )
    assert decide(METRICS, [at_least("auc", 0.65), at_most("calibration", 1.1)]) == Blessing(
        False, ("auc is 0.7, at least 0.65", "calibration is 1.2, more than 1.1", FIRST_RUN)
    )


def test_slices_have_their_own_thresholds():
    thresholds = [at_least("auc", 0.65, slice={"origin": "EWR"})]
    assert decide(METRICS, thresholds).reasons[0] == ("auc where origin=EWR is 0.6, less than 0.65")
    gone = decide(METRICS, [at_least("auc", 0.1, slice={"origin": "JFK"})])
    assert not gone.blessed
    assert "cannot be computed" in gone.reasons[0]


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_an_undefined_metric_fails_its_threshold(undefined):
    metrics = {"overall": {"recall": undefined}, "slices": []}
    blessed, reasons = decide(metrics, [at_most("recall", 1.0)])
    assert not blessed
    assert reasons[0].startswith("recall cannot be computed")


def test_improves_compares_with_the_baseline_where_there_is_one():
    before = {"overall": {"auc": 0.69, "rmse": 2.0}, "slices": []}
    now = {"overall": {"auc": 0.70, "rmse": 1.9}, "slices": []}
    assert decide(now, [improves("auc"), improves("rmse", by=0.05)], before).blessed
    blessed, reasons = decide(now, [improves("auc", by=0.02)], before)
    assert not blessed
    assert reasons == ("auc is 0.7, less than 0.71 (the baseline's 0.69 bettered by 0.02)",)
    assert not decide(before, [improves("rmse")], now).blessed
    assert decide(now, [improves("auc")]) == Blessing(
        True, ("auc is 0.7, and no baseline has it to compare with", FIRST_RUN)
    )


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_decision_is_what_its_thresholds_say(value, bound):
    metrics = {"overall": {"auc": value}, "slices": []}
    assert decide(metrics, [at_least("auc", bound)]).blessed == (value >= bound)
    assert decide(metrics, [at_most("auc", bound)]).blessed == (value <= bound)
    assert decide(metrics, [improves("auc")], metrics).blessed


def test_mistakes_name_the_repair():
    with pytest.raises(RecipeError, match='there is no metric "acu"; did you mean "auc"'):
        at_least("acu", 0.5)
    with pytest.raises(RecipeError, match='no metric "mae"; the metrics are auc, calib'):
        decide(METRICS, [at_most("mae", 1)])
    with pytest.raises(RecipeError, match="use at_least and at_most instead"):
        improves("calibration")
    with pytest.raises(RecipeError, match="expected a finite number"):
        at_least("auc", float("nan"))
    with pytest.raises(RecipeError, match="every slice, and every column in it, once"):
        Evaluation([("a", "b"), ("b", "a")])
    with pytest.raises(RecipeError, match="rename the raw column"):
        Evaluation(["label"])
    with pytest.raises(RecipeError, match="there are no slices by carrier; add them"):
        Evaluation(["origin"], [at_least("auc", 0.5, slice={"carrier": "AA"})])


def test_an_evaluation_is_plain_data():
    evaluation = Evaluation(["origin", ["origin", "dest"]], [at_least("auc", 0.5)])
    assert evaluation.slices == (("origin",), ("origin", "dest"))
    assert pickle.loads(pickle.dumps(evaluation)) == evaluation
    assert hash(evaluation) == hash(pickle.loads(pickle.dumps(evaluation)))
    assert Evaluation("origin").slices == (("origin",),)


def test_importing_it_loads_neither_tensorflow_nor_beam():
    code = (
        "import sys, skewless.transforms.evaluation.decision\n"
        "sys.exit(bool({'tensorflow', 'apache_beam', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
