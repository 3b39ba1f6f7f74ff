"""What the rules of a caption grammar are made of, and how one of several is picked.

The file's format is explained at the top of grammars/default.yaml; transforms/grammar.py reads it.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple, TypeVar

PARTS = ("has", "wears", "is", "does", "absolute", "clause")
"""The kinds of phrase that a sentence is put together from."""

KINDS = ("adjective", "picture", *PARTS, "sentence")
"""The rules that phrases are drawn from."""

HEDGED_AS = {
    "has": "does",
    "wears": "does",
    "is": "does",
    "absolute": "does",
    "sentence": "sentence",
}
"""The kinds that can be hedged, by the rule hedge_KIND, and the kind that each then becomes."""

GROUPING = 3.0
"""How much likelier a phrase is for each further label that it states."""

MARK = re.compile(r"\[(\w+):([^\[\]]+)\]")
SLOT = re.compile(r"\{(\w+)\}")
SYMBOL = re.compile(r"<(\w+)>")
TIGHT = re.compile(r"(?<!,) and ")
WITH = re.compile(r"\bwith\b")
BEHIND_WITH = re.compile(r"\bwith \{(\w+)\}")
LONG = re.compile(r",| and |\b(?:no|not|without)\b")

T = TypeVar("T")


def plain_words(text: str) -> str:
    """`text` without its marks."""
    return MARK.sub(itemgetter(2), text)


class Shape(NamedTuple):
    """What a sentence has to know of a list of phrases: their kind and topics, whether it is too
    `long` to be followed by a mere "and", and whether it has a "with" in it."""

    kind: str
    topics: frozenset[str]
    long: bool
    has_with: bool


Shapes = tuple[Shape, ...]


@dataclass(frozen=True)
class Alternative:
    """One right-hand side of a rule.

    `people` and `topics` (empty: all) are those that it can be said of, and those that the phrases
    in its holes may be about; `hedge` is "self" where its words are a hedge, "never" where none
    goes with them; `many` asks for lists of two phrases or more in its holes.
    """

    text: str
    weight: float
    people: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    hedge: str = ""
    many: bool = False

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset(label for label, _ in MARK.findall(self.text))

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        return tuple(SYMBOL.findall(self.text))

    @cached_property
    def slots(self) -> frozenset[str]:
        """The names in braces."""
        return frozenset(SLOT.findall(self.text))

    @cached_property
    def holes(self) -> frozenset[str]:
        """The kinds of phrase that it has a place for; `whose` is a place for a clause."""
        found = self.slots & set(PARTS)
        return found | {"clause"} if "whose" in self.slots else found

    @cached_property
    def tight(self) -> bool:
        """Whether a mere "and" in it joins the phrases in its holes, which must then be short."""
        return bool(TIGHT.search(self.text))

    @cached_property
    def behind_with(self) -> frozenset[str]:
        """The kinds of phrase that stand behind a "with", and must not have a second."""
        return frozenset(BEHIND_WITH.findall(self.text))

    @cached_property
    def free(self) -> bool:
        """Whether it can be used of anybody, whatever the phrases in its holes are."""
        limited = self.people or self.topics or self.many
        return not (limited or self.tight or self.behind_with or self.whose)

    @cached_property
    def whose(self) -> bool:
        return "whose" in self.slots

    def suits(self, shapes: Shapes) -> bool:
        """Whether lists of these shapes may stand in its holes and elsewhere in the sentence."""
        if self.free:
            return True
        if any([shape.has_with and shape.kind in self.behind_with for shape in shapes]):
            return False
        mine = [shape for shape in shapes if shape.kind in self.holes]
        if self.tight and any([shape.long for shape in mine]):
            return False
        if self.many and not all([shape.long for shape in mine]):
            return False
        return not self.topics or all([shape.topics <= self.topics for shape in mine])


@dataclass(frozen=True, slots=True)
class Frame:
    """An alternative that fits the kinds of a sentence: `rest` of them are left for its {vp}, and
    with `tail` a clause is left to be joined to it."""

    alternative: Alternative
    rest: frozenset[str]
    tail: bool


@dataclass(frozen=True, slots=True)
class Person:
    """The words for the person; `plural` is the number of the verb after `they`."""

    noun: str
    they: str
    their: str
    plural: bool


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase with marks and slots in it: what it states, and how it is weighted.

    `weight` is the product of the weights of the alternatives it is made of, times GROUPING for
    every label but the first; `people` and `hedge` are as in an Alternative.
    """

    kind: str
    text: str
    labels: frozenset[str]
    weight: float
    people: frozenset[str] = frozenset()
    hedge: str = ""

    def fits(self, person: str, doubt: bool) -> bool:
        """Whether it can be said of `person`, with a hedge (`doubt`) or without."""
        if self.people and person not in self.people:
            return False
        if not doubt:
            return self.hedge != "self"
        return self.hedge == "self" or (not self.hedge and self.kind in HEDGED_AS)


def pick(items: Sequence[T], weights: Sequence[float], rng: random.Random) -> T:
    """One of `items` by weight. Only `rng.random()` is used: of all of `random`, its sequence
    alone is promised to stay the same over Python versions."""
    point = rng.random() * math.fsum(weights)
    for at, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return items[at]
    return items[-1]


USED = 0.1
"""How much less likely an alternative is once it was used in the same caption."""


def pick_fresh(items: Sequence[Alternative], used: set[str], rng: random.Random) -> Alternative:
    """One of `items` by weight, those whose texts were `used` being less likely; it joins them."""
    weights = [item.weight * USED if item.text in used else item.weight for item in items]
    item = pick(items, weights, rng)
    used.add(item.text)
    return item
