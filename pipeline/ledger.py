"""Every row is accounted for: read = written + rejected + duplicate + filtered + late.

In a stream that runs, some rows are `waiting` besides. Rows that a model is asked about are
`predicted` instead of written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from skewless.errors import RunError

__all__ = ["DROPPED", "Ledger"]

DROPPED = ("rejected", "duplicate", "filtered", "late")


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What became of every row, by input, kind and step.

    Args:
        inputs: Input name to kind to step to rows. Kinds are `read`, `rejected`,
            `duplicate`, `filtered`, `late`, and `written` (its steps are the splits),
            `predicted` or, for the right side of a join, `joined`.

    >>> ledger = Ledger.of([("a", "read", "Read", 3), ("a", "filtered", "Require", 1),
    ...                     ("a", "written", "train", 2)])
    >>> ledger.total("a", "read")
    3
    >>> ledger.check()
    """

    inputs: Mapping[str, Mapping[str, Mapping[str, int]]]

    @classmethod
    def of(cls, counts: Iterable[tuple[str, str, str, int]]) -> Ledger:
        """Return the ledger of (input, kind, step, rows) tuples, adding up equal ones."""
        inputs: dict[str, dict[str, dict[str, int]]] = {}
        for name, kind, step, rows in counts:
            steps = inputs.setdefault(name, {}).setdefault(kind, {})
            steps[step] = steps.get(step, 0) + rows
        return cls(inputs)

    def entries(self) -> list[tuple[str, str, str, int]]:
        """Return the (input, kind, step, rows) tuples, sorted."""
        return sorted(
            (name, kind, step, rows)
            for name, kinds in self.inputs.items()
            for kind, steps in kinds.items()
            for step, rows in steps.items()
        )

    def total(self, name: str, kind: str) -> int:
        """Return how many rows of input `name` were `kind`."""
        return sum(self.inputs.get(name, {}).get(kind, {}).values())

    def check(self) -> None:
        """Do nothing if every row read is accounted for.

        Raises:
            RunError: If a row was lost or counted twice; names the input and the numbers.
        """
        for name in self.inputs:
            read = self.total(name, "read")
            kinds = ("written", "predicted", "joined", "waiting", *DROPPED)
            parts = {kind: self.total(name, kind) for kind in kinds}
            if read != sum(parts.values()):
                listed = " + ".join(f"{rows:,} {kind}" for kind, rows in parts.items() if rows)
                raise RunError(
                    f'the ledger of "{name}" does not add up: {read:,} read, but {listed}; '
                    "this is a fault of skewless, and nothing was published"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as the manifest holds it, totals beside the steps."""
        return {
            name: {kind: {"rows": sum(s.values()), "steps": dict(s)} for kind, s in kinds.items()}
            for name, kinds in self.inputs.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ledger:
        """Return the ledger that a manifest holds."""
        return cls(
            {
                name: {kind: entry["steps"] for kind, entry in kinds.items()}
                for name, kinds in value.items()
            }
        )
