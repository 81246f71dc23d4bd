"""Write a few values that a pipeline computed to one JSON file, for whoever started it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import apache_beam as beam

from skewless.storage import path_of
from skewless.transforms.sinks.files import whole_file

__all__ = ["WriteSummary"]


@dataclasses.dataclass(eq=False)
class WriteSummary(beam.PTransform):  # type: ignore[misc]
    """Write all elements, which must be few, as one JSON list.

    Args:
        path: The file; replaced when whole.
    """

    path: str

    def expand(self, values: beam.PCollection[Any]) -> beam.PCollection[None]:
        """Collect and write."""
        return (
            values
            | "Collect" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write, path=self.path)
        )


def _write(values: list[Any], path: str) -> None:
    with whole_file(path_of(path)) as temporary:
        temporary.write_text(json.dumps(sorted(values)), encoding="utf-8")
