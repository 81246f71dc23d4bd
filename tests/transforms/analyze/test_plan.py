import numpy as np

from skewless.transforms.analyze.combiner import Combiner
from skewless.transforms.analyze.plan import (
    Binding,
    Fold,
    Known,
    Phase,
    Progress,
    Reference,
    Step,
    advance,
)


class Least(Combiner):
    """The least value and, when it is asked to, how often it is there in a second pass."""

    def __init__(self, counts=False, least=None):
        self.counts, self.least = counts, least
        self.most_passes = 1 + counts

    def create_accumulator(self):
        return np.inf if self.least is None else 0

    def add_input(self, accumulator, batch_values):
        values = batch_values[0]
        if self.least is None:
            return min(accumulator, values.min(initial=np.inf))
        return accumulator + int((values == self.least).sum())

    def merge_accumulators(self, accumulators):
        return min(accumulators) if self.least is None else sum(accumulators)

    def refine(self, accumulator):
        return Least(least=accumulator) if self.counts else None

    def extract_output(self, accumulator):
        return [np.float32(accumulator)]


def double(value):
    return [value * 2, value * 3]


def phase(counts=False):
    return Phase(
        frozenset({"x"}),
        None,
        (Fold("least", Least(), ("x",)), Fold("rare", Least(counts), ("x",))),
        (
            Step("doubled", double, (Reference("least", 0),)),
            Step("again", double, (Reference("doubled", 1),)),
        ),
        (
            Binding("least:0", 1, Reference("least", 0)),
            Binding("rare:0", 1, Reference("rare", 0)),
            Binding("twelve:0", 1, Reference("again", 0)),
        ),
    )


def test_a_phase_binds_what_its_steps_make_of_its_folds():
    before = {"earlier:0": Known(7, 3)}
    done = advance(Progress.at(phase(), before), {"least": 2.0, "rare": 2.0}, phase())
    assert not done.running
    assert done.known == {
        **before,
        "least:0": Known(2.0, 1),
        "rare:0": Known(2.0, 1),
        "twelve:0": Known(12.0, 1),
    }


def test_nothing_is_bound_before_the_last_combiner_is_done():
    refining = phase(counts=True)
    assert refining.most_passes == 2
    first = advance(Progress.at(refining, {}), {"least": 2.0, "rare": 2.0}, refining)
    assert list(first.running) == ["rare"]
    assert not first.known
    second = advance(first, {"rare": 5}, refining)
    assert second.known["rare:0"].value == 5
    assert second.known["least:0"].value == 2


def test_what_no_later_pass_needs_is_not_carried_along():
    refining = phase(counts=True)
    refining = refining._replace(bindings=refining.bindings[1:])
    first = advance(Progress.at(refining, {}), {"least": 2.0, "rare": 2.0}, refining)
    assert first.finished == {"again": [12.0, 18.0]}
    second = advance(first, {"rare": 5}, refining)
    assert second.known == {"rare:0": Known(5.0, 1), "twelve:0": Known(12.0, 1)}


def test_a_step_waits_for_all_that_it_needs():
    refining = phase(counts=True)
    both = Step(
        "both", lambda one, other: [one + other], (Reference("doubled", 0), Reference("rare", 0))
    )
    refining = refining._replace(
        steps=(*refining.steps, both), bindings=(Binding("sum:0", 1, Reference("both", 0)),)
    )
    first = advance(Progress.at(refining, {}), {"least": 2.0, "rare": 2.0}, refining)
    assert sorted(first.finished) == ["doubled"]
    assert advance(first, {"rare": 5}, refining).known == {"sum:0": Known(9.0, 1)}


def test_a_phase_that_sees_no_rows_still_ends():
    done = advance(Progress.at(phase(), {}), {}, phase())
    assert done.known["least:0"].value == np.inf
