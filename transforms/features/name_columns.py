"""Columns made of names: categories, lists and combinations of them, and words."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from skewless.transforms.features.column import NAMES, Column, SingleColumn, check, is_count

__all__ = ["Categories", "Category", "Cross", "Hashed", "Text", "Vocabulary"]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids by frequency in the training rows; of equal frequency, the greater string first.

    Attributes:
        top: Keep only that many.
        min_count: Keep only what occurs at least so often.
        oov: Ids for all other values, shared by hash.
    """

    top: int | None = None
    min_count: int | None = None
    oov: int = 1

    def __post_init__(self) -> None:
        check(self.top is None or is_count(self.top), "vocabulary(top)", self.top, "1 or more")
        right = self.min_count is None or is_count(self.min_count)
        check(right, "vocabulary(min_count)", self.min_count, "1 or more")
        right = self.oov == 0 or is_count(self.oov)
        check(right, "vocabulary(oov)", self.oov, "0 or more")


@dataclasses.dataclass(frozen=True)
class Hashed:
    """Ids by a hash that is the same on every machine, modulo `size`."""

    size: int

    def __post_init__(self) -> None:
        check(is_count(self.size), "hashed", self.size, "1 or more buckets")


@dataclasses.dataclass(frozen=True)
class Category(SingleColumn):
    """A string or integer as an id, int64 (or one-hot). Made by `category`.

    >>> from skewless.transforms.features.columns import category
    >>> category("carrier").vocabulary(top=50).encoding
    Vocabulary(top=50, min_count=None, oov=1)
    """

    kinds: ClassVar[frozenset[str]] = NAMES

    encoding: Vocabulary | Hashed = Vocabulary()
    hot: bool = False

    def vocabulary(
        self, top: int | None = None, min_count: int | None = None, oov: int = 1
    ) -> Category:
        """Give ids by frequency; with `oov=0`, an unknown value is as good as missing."""
        return dataclasses.replace(self, encoding=Vocabulary(top, min_count, oov))

    def hashed(self, size: int) -> Category:
        """Give ids by hash into `size` buckets: nothing is learnt from the data."""
        return dataclasses.replace(self, encoding=Hashed(size))

    def one_hot(self) -> Category:
        """Give float32 [rows, ids] with a single 1, instead of ids."""
        return dataclasses.replace(self, hot=True)


@dataclasses.dataclass(frozen=True)
class Categories(SingleColumn):
    """A list of strings or integers as a ragged list of ids, int64. Made by `categories`."""

    kinds: ClassVar[frozenset[str]] = NAMES
    takes_lists: ClassVar[bool | None] = True

    encoding: Vocabulary | Hashed = Vocabulary()
    hot: bool = False

    def vocabulary(
        self, top: int | None = None, min_count: int | None = None, oov: int = 1
    ) -> Categories:
        """Give ids by frequency; with `oov=0`, unknown values are left out of the list."""
        return dataclasses.replace(self, encoding=Vocabulary(top, min_count, oov))

    def hashed(self, size: int) -> Categories:
        """Give ids by hash into `size` buckets: nothing is learnt from the data."""
        return dataclasses.replace(self, encoding=Hashed(size))

    def multi_hot(self) -> Categories:
        """Give float32 [rows, ids] with a 1 for each id in the list, instead of ids."""
        return dataclasses.replace(self, hot=True)


@dataclasses.dataclass(frozen=True)
class Text(SingleColumn):
    """Text as a ragged list of ids of its words, int64. Made by `text`.

    Words are runs of letters and digits, in lower case.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"string"})

    widths: tuple[int, int] = (1, 1)
    encoding: Vocabulary | Hashed = Vocabulary(oov=0)
    hot: bool = False

    def ngrams(self, shortest: int, longest: int) -> Text:
        """Use runs of `shortest` to `longest` words instead of single words."""
        right = is_count(shortest) and is_count(longest) and shortest <= longest
        check(right, "ngrams", (shortest, longest), "1 <= shortest <= longest")
        return dataclasses.replace(self, widths=(shortest, longest))

    def vocabulary(
        self, top: int | None = None, min_count: int | None = None, oov: int = 0
    ) -> Text:
        """Give ids by frequency; with `oov=0`, unknown words are left out."""
        return dataclasses.replace(self, encoding=Vocabulary(top, min_count, oov))

    def hashed(self, size: int) -> Text:
        """Give ids by hash into `size` buckets: nothing is learnt from the data."""
        return dataclasses.replace(self, encoding=Hashed(size))

    def bag_of_words(self) -> Text:
        """Give float32 [rows, ids] with a 1 for each word that occurs, instead of ids."""
        return dataclasses.replace(self, hot=True)


@dataclasses.dataclass(frozen=True)
class Cross(Column):
    """Several categories as one id, int64, missing if one of them is. Made by `cross`."""

    kinds: ClassVar[frozenset[str]] = NAMES

    columns: tuple[str, ...]
    encoding: Vocabulary | Hashed = Hashed(1000)
    hot: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        right = len(set(self.columns)) == len(self.columns) >= 2
        check(right, "cross", self.columns, "two or more different columns")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The raw columns it reads."""
        return self.columns

    def hashed(self, size: int) -> Cross:
        """Give ids by hash into `size` buckets."""
        return dataclasses.replace(self, encoding=Hashed(size))

    def vocabulary(
        self, top: int | None = None, min_count: int | None = None, oov: int = 1
    ) -> Cross:
        """Give ids by frequency of the combination in the training rows."""
        return dataclasses.replace(self, encoding=Vocabulary(top, min_count, oov))

    def one_hot(self) -> Cross:
        """Give float32 [rows, ids] with a single 1, instead of ids."""
        return dataclasses.replace(self, hot=True)
