"""What every test runs under. Warnings are errors for our own code: see pyproject.toml."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from tests.what_works import keep

# Before anything imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The machines that run this are slow and shared: few examples, and no deadline for one.
# In CI they are the same each time: new ones are found where somebody can look at them.
settings.register_profile(
    "skewless",
    max_examples=50,
    deadline=None,
    print_blob=True,
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("skewless")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what a test has shown of a runner."""
    report = yield
    marks = list(item.iter_markers("works"))
    if marks and (call.when == "call" or report.failed):
        keep(marks, report.passed)
    return report
