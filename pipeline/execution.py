"""Where a Beam pipeline runs, and with which engine it analyzes."""

from __future__ import annotations

import dataclasses
import re

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from skewless import errors
from skewless.errors import SkewlessError

__all__ = ["Execution"]

_RAISED = re.compile(r"^skewless\.errors\.(\w+Error): (.*)", re.MULTILINE)
_WHILE_RUNNING = re.compile(r"\s*\[while running '.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Execution:
    """A runner and its options, the same for every pipeline of a command.

    Args:
        runner: Beam's name of the runner. The default runs in this process; `DirectRunner`
            would try Prism first, which needs a download.
        options: Further options as on Beam's command line.
        analysis: The engine of `Analyze`.
    """

    runner: str = "FnApiRunner"
    options: tuple[str, ...] = ()
    analysis: str = "auto"

    def run(self, build: beam.PTransform) -> None:
        """Apply `build` to an empty pipeline and wait until it is done.

        Raises:
            SkewlessError: As a step raised it, without Beam's stack of stages.
        """
        try:
            with beam.Pipeline(self.runner, options=PipelineOptions(list(self.options))) as begin:
                begin | build
        except SkewlessError as error:
            raise type(error)(_WHILE_RUNNING.sub("", str(error))) from error
        except RuntimeError as error:
            # A runner that works in other processes sends home no more than text.
            found = _RAISED.findall(str(error))
            if not found:
                raise
            kind, message = found[-1]
            raise getattr(errors, kind)(_WHILE_RUNNING.sub("", message)) from error
