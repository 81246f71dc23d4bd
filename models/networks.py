"""What a recipe says about its model: plain settings, readable without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from skewless.errors import RecipeError

__all__ = ["Dnn", "Linear", "Network", "Task", "WideAndDeep"]

Task = Literal["binary", "multiclass", "regression"]


@dataclasses.dataclass(frozen=True)
class Network:
    """How any network is trained; use one of its kinds: `Linear`, `Dnn`, `WideAndDeep`.

    Args:
        epochs: The most passes over the training rows.
        patience: Stop when the loss on the eval rows has not improved for this many
            epochs; the best epoch's weights are kept. Without eval rows all epochs run.
        batch_size: Rows per step.
        learning_rate: Of the Adam optimizer.
        l2: Penalty on the squares of all weights.
        class_weight: What a row of each class counts in the loss: None for 1, "balanced"
            for the inverse of the class's share, or a mapping from class to weight.

    Raises:
        RecipeError: If a value is out of range.
    """

    epochs: int = dataclasses.field(default=20, kw_only=True)
    patience: int = dataclasses.field(default=3, kw_only=True)
    batch_size: int = dataclasses.field(default=1024, kw_only=True)
    learning_rate: float = dataclasses.field(default=1e-3, kw_only=True)
    l2: float = dataclasses.field(default=0.0, kw_only=True)
    class_weight: Literal["balanced"] | Mapping[int, float] | None = dataclasses.field(
        default=None, kw_only=True
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            self._check_whole(name, getattr(self, name))
        self._check(
            "learning_rate",
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "a number above 0, such as 0.001",
        )
        self._check("l2", math.isfinite(self.l2) and self.l2 >= 0, "0 or more, such as 1e-5")
        weight = self.class_weight
        self._check(
            "class_weight",
            weight in (None, "balanced")
            or (isinstance(weight, Mapping) and all(w >= 0 for w in weight.values())),
            'None, "balanced", or weights by class such as {0: 1.0, 1: 3.0}',
        )

    def _check_whole(self, name: str, value: object) -> None:
        self._check(name, isinstance(value, int) and value >= 1, "a whole number above 0")

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise RecipeError(
                f"{type(self).__name__}: {name} is {getattr(self, name)!r}; expected {expected}"
            )


@dataclasses.dataclass(frozen=True)
class Linear(Network):
    """A linear model: one weight per number and one per category.

    Args:
        learning_rate: Larger than for a deep network, as nothing is stacked on it.

    See `Network` for the other arguments.

    >>> Linear(epochs=5).learning_rate
    0.01
    """

    learning_rate: float = dataclasses.field(default=1e-2, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Dnn(Network):
    """A feed-forward network over numbers and embedded categories.

    Args:
        hidden: Units of each hidden layer, first to last.
        dropout: The share of units dropped after each hidden layer while training.
        embedding_dim: Width of every category's embedding; None for the square root of
            the number of categories, at most 32.

    See `Network` for the other arguments.

    >>> Dnn([64, 32], dropout=0.2).hidden
    (64, 32)
    """

    hidden: Sequence[int] = (128, 64)
    dropout: float = 0.1
    embedding_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        self._check(
            "hidden",
            bool(self.hidden) and all(isinstance(u, int) and u >= 1 for u in self.hidden),
            "the units of at least one layer, such as [128, 64]; without any, use Linear()",
        )
        self._check("dropout", 0 <= self.dropout < 1, "a share from 0 to below 1")
        if self.embedding_dim is not None:
            self._check_whole("embedding_dim", self.embedding_dim)

    def embedding_width(self, size: int) -> int:
        """Return the width of the embedding of a feature with `size` categories."""
        return self.embedding_dim or min(32, math.ceil(math.sqrt(size)))


@dataclasses.dataclass(frozen=True)
class WideAndDeep(Dnn):
    """A `Dnn` and a `Linear` model trained as one, their outputs added.

    The wide part memorises single categories and crosses, the deep part generalises.
    See `Dnn` and `Network` for the arguments.
    """
