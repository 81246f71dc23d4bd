"""Where pipelines run."""

import dataclasses
import inspect

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner

from skewless.errors import RecipeError
from skewless.pipeline.execution import Execution


@dataclasses.dataclass(eq=False)
class Look(beam.PTransform):
    """Keeps what adds up metrics while a pipeline runs."""

    seen: list

    def expand(self, begin):
        self.seen.append(fn_runner.consolidate_monitoring_infos)
        return begin | beam.Create([1])


def test_metrics_are_added_up_bundle_by_bundle() -> None:
    # The runner's own way is a generator: chained once a bundle, it would hold all of them.
    lazily = fn_runner.consolidate_monitoring_infos
    assert inspect.isgeneratorfunction(lazily)
    seen = []
    Execution().run(Look(seen))
    assert seen[0]([]) == []
    assert fn_runner.consolidate_monitoring_infos is lazily


def test_an_option_that_nobody_has_is_named() -> None:
    with pytest.raises(RecipeError, match="did you mean --streaming"):
        Execution(options=("--streamin=yes",))
