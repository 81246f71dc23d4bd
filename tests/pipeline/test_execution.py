"""Where pipelines run."""

import dataclasses
import inspect

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.runner import PipelineRunner, PipelineState

from skewless.errors import DataError, RecipeError, RunError, SkewlessError
from skewless.pipeline import execution as execution_module
from skewless.pipeline.execution import IN_PROCESS, Execution


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


@pytest.mark.parametrize(
    "option",
    [
        "--extra_package=a.whl",
        "--extra_packages=a.whl",
        "--label=a=b",
        "--labels=a=b",
        "--experiment=x",
        "--no_use_public_ips",
        "--worker_machine_type=n1",
        "--pubsub_root_url=x",
    ],
)
def test_an_option_is_known_by_each_of_its_names(option: str) -> None:
    assert Execution(options=(option,)).options == (option,)


def test_a_runner_has_options_of_its_own() -> None:
    option = ("--checkpointing_interval=7",)
    with pytest.raises(RecipeError, match="checkpointing_interval"):
        Execution(options=option)
    assert Execution("FlinkRunner", option, further=frozenset(["checkpointing_interval"]))


def test_little_work_is_done_here_with_the_same_files() -> None:
    options = ("--s3_endpoint_url=x", "--streaming", "--job_endpoint=y", "--environment_type=z")
    there = Execution("FlinkRunner", options, "tft", ends_streams=False, cancel=print)
    assert there.here() == Execution(IN_PROCESS, ("--s3_endpoint_url=x",), "tft")
    here = Execution()
    assert here.here() is here


@dataclasses.dataclass
class Result:
    """A pipeline that runs until it is cancelled, or has failed."""

    state: str = PipelineState.RUNNING
    fails: BaseException | None = None
    calls: list = dataclasses.field(default_factory=list)
    _job_id: str = "mine-1_77"

    def wait_until_finish(self, duration=None):
        self.calls.append(("wait", duration))
        if self.fails is not None:
            raise self.fails

    def cancel(self):
        self.calls.append("cancel")


class Far(PipelineRunner):
    """A runner elsewhere: all it does is to have a result."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def run_pipeline(self, pipeline, options):
        return self.result


@dataclasses.dataclass(eq=False)
class Nothing(beam.PTransform):
    def expand(self, begin):
        return begin | beam.Create([1])


@pytest.fixture
def far(monkeypatch):
    """Run on a runner elsewhere; return what was raised."""

    def run(result, **arguments):
        monkeypatch.setattr("apache_beam.pipeline.create_runner", lambda name: Far(result))
        Execution("FarRunner", cancel=result.calls.append).run(Nothing(), **arguments)

    return run


def test_it_is_waited_for_to_its_end(far) -> None:
    result = Result()
    far(result)
    assert result.calls == [("wait", None)]


def test_one_that_takes_too_long_is_cancelled(far) -> None:
    result = Result()
    with pytest.raises(RunError, match=r"^FarRunner: no worker answered within 2 s; see that"):
        far(result, within=2)
    assert result.calls == [("wait", 2000), "cancel", "mine-1_77"]


def test_one_that_is_done_in_time_is_not_cancelled(far) -> None:
    result = Result(PipelineState.DONE)
    far(result, within=2)
    assert result.calls == [("wait", 2000), ("wait", None)]


def test_it_is_cancelled_when_it_is_done_though_it_goes_on(far, monkeypatch) -> None:
    monkeypatch.setattr(execution_module, "_LOOK_SECONDS", 0)
    answers = [False, False, True]
    result = Result()
    far(result, until=lambda: answers.pop(0))
    assert answers == []
    assert result.calls == ["cancel", "mine-1_77"]


def test_who_is_asked_whether_it_is_done_is_not_when_it_has_ended(far) -> None:
    result = Result(PipelineState.DONE)
    far(result, until=lambda: pytest.fail("it has ended"))
    assert result.calls == [("wait", None)]


def test_who_interrupts_has_it_cancelled(far) -> None:
    result = Result(fails=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        far(result)
    assert result.calls == [("wait", None), "cancel", "mine-1_77"]


REMOTE = """Pipeline a_1 failed in state FAILED: java.lang.RuntimeException: Traceback
  File "x.py", line 1
skewless.errors.DataError: row 3: no number [while running 'Read/Map']
"""


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        (REMOTE, DataError, "row 3: no number"),
        (
            "Traceback\nModuleNotFoundError: No module named 'skewless.far'\n",
            RunError,
            "FarRunner: the workers have no package skewless.far; install the same there as "
            "here, or give them an image that has it",
        ),
        (
            "Pipeline a_1 failed in state FAILED: java.io.IOException: java.io.IOException: full\n"
            "\tat here",
            RunError,
            "FarRunner: java.io.IOException: full",
        ),
        (
            "Dataflow failed. Error:\nstack\nno quota\n",
            RunError,
            "FarRunner: Dataflow failed. Error: no quota",
        ),
        ("", RunError, "FarRunner: RuntimeError"),
    ],
)
def test_what_a_runner_says_is_one_line(text, kind, told, far) -> None:
    with pytest.raises(SkewlessError) as raised:
        far(Result(fails=RuntimeError(text)))
    assert type(raised.value) is kind
    assert str(raised.value) == told


def test_workers_that_cannot_be_reached_are_named(monkeypatch) -> None:
    refused = "java.net.ConnectException: "
    result = Result(fails=RuntimeError(f"{refused}{refused}Connection refused"))
    monkeypatch.setattr("apache_beam.pipeline.create_runner", lambda name: Far(result))
    there = Execution("FarRunner", ("--environment_config=there:50000",))
    with pytest.raises(RunError) as raised:
        there.run(Nothing())
    assert str(raised.value) == (
        "FarRunner: java.net.ConnectException: Connection refused; see that workers listen at "
        "there:50000, as --environment_config says"
    )


def test_another_error_is_not_changed(far) -> None:
    with pytest.raises(KeyError, match="mine"):
        far(Result(fails=KeyError("mine")))


def test_what_is_read_back_lies_where_workers_reach_it(tmp_path) -> None:
    with Execution().scratch(tmp_path) as here:
        assert here.is_dir()
        assert list(tmp_path.iterdir()) == []
    with Execution("FlinkRunner").scratch(tmp_path) as there:
        (there / "told.json").write_text("[]")
        assert list(tmp_path.iterdir()) == [there]
    assert not here.exists()
    assert list(tmp_path.iterdir()) == []
