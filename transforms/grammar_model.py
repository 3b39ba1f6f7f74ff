"""A caption grammar once it is read: which phrases and sentences can say something."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from facecap.transforms.grammar_rules import (
    KINDS,
    MARK,
    SLOT,
    SYMBOL,
    Alternative,
    Frame,
    Person,
    Phrase,
    Shapes,
    pick_fresh,
)

Choice = tuple[tuple[Phrase, ...], tuple[float, ...]]
"""Phrases, and their weights."""

MAX_CACHED = 20_000
"""Entries of each cache."""


@dataclass(frozen=True)
class Grammar:
    """A checked grammar. `sha256` is the hash of its file; `phrases` has for each topic all
    phrases whose first label is of that topic, and all adjectives with a label of it."""

    sha256: str
    verbs: Mapping[str, str]
    people: Mapping[str, Person]
    topics: Mapping[str, tuple[str, ...]]
    conflicts: tuple[tuple[str, ...], ...]
    together: tuple[frozenset[str], ...]
    avoid: tuple[re.Pattern[str], ...]
    rules: Mapping[str, tuple[Alternative, ...]]
    phrases: Mapping[str, tuple[Phrase, ...]]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is cached: workers find it anew."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def labels(self) -> frozenset[str]:
        """The labels it can say of a face; Male is said by the noun."""
        return frozenset(label for topic in self.topics.values() for label in topic)

    @cached_property
    def by_topic(self) -> dict[str, frozenset[str]]:
        """The labels of each topic."""
        return {name: frozenset(topic) for name, topic in self.topics.items()}

    def usable_phrases(
        self,
        topic: str,
        labels: frozenset[str],
        person: str,
        kinds: tuple[str, ...] = KINDS,
        doubt: bool = False,
    ) -> Choice:
        """The phrases of `topic` and one of `kinds` that state nothing but `labels`; with `doubt`
        those that are, or can be, hedged.

        Those that part labels which are said `together` are used only where there are no others.
        """
        key = (topic, labels & self._reach[topic], person, kinds, doubt)
        found = self._choices.get(key)
        if found is None:
            if len(self._choices) >= MAX_CACHED:
                self._choices.clear()
            found = self._choices[key] = self._find_phrases(*key)
        return found

    def _find_phrases(
        self, topic: str, labels: frozenset[str], person: str, kinds: tuple[str, ...], doubt: bool
    ) -> Choice:
        usable = [
            phrase
            for phrase in self.phrases[topic]
            if phrase.labels <= labels and phrase.kind in kinds and phrase.fits(person, doubt)
        ]
        groups = [group & labels for group in self.together]
        whole = [p for p in usable if p.kind == "adjective" or not _parts_any(p.labels, groups)]
        chosen = tuple(whole if any(p.kind != "adjective" for p in whole) else usable)
        return chosen, tuple(phrase.weight for phrase in chosen)

    @cached_property
    def _choices(self) -> dict[tuple[str, frozenset[str], str, tuple[str, ...], bool], Choice]:
        return {}

    @cached_property
    def _reach(self) -> dict[str, frozenset[str]]:
        """For each topic the labels on which it depends what phrases of it are usable."""
        reach = {}
        for topic, phrases in self.phrases.items():
            said = frozenset(label for phrase in phrases for label in phrase.labels)
            reach[topic] = said.union(*(group for group in self.together if group & said))
        return reach

    def draw(self, rule: str, rng: random.Random, used: set[str]) -> str:
        """An alternative of a rule that states no label, expanded."""
        return self.expand(pick_fresh(self.rules[rule], used, rng), rng, used)

    def expand(self, alternative: Alternative, rng: random.Random, used: set[str]) -> str:
        """Its text, every symbol in it replaced."""
        if not alternative.symbols:
            return alternative.text
        return SYMBOL.sub(lambda match: self.draw(match[1], rng, used), alternative.text)

    @cached_property
    def _frames(self) -> dict[tuple[str, frozenset[str]], tuple[Frame, ...]]:
        return {}

    def frames(self, rule: str, kinds: frozenset[str]) -> tuple[Frame, ...]:
        """The alternatives of first, opening or later that have a place for exactly `kinds`."""
        if (rule, kinds) not in self._frames:
            fits = (self._fit(rule, alternative, kinds) for alternative in self.rules[rule])
            self._frames[rule, kinds] = tuple(frame for frame in fits if frame is not None)
        return self._frames[rule, kinds]

    def _fit(self, rule: str, alternative: Alternative, kinds: frozenset[str]) -> Frame | None:
        if not alternative.holes <= kinds:
            return None
        rest = kinds - alternative.holes
        tail = "clause" in rest
        rest -= {"clause"}
        if tail and rule == "opening":
            return None
        if bool(rest) != ("vp" in alternative.slots) or (rest and not self.verb_phrases(rest)):
            return None
        return Frame(alternative, rest, tail)

    def verb_phrases(self, kinds: frozenset[str]) -> tuple[Alternative, ...]:
        """The alternatives of vp that have a place for exactly `kinds`."""
        return self._verb_phrases.get(kinds, ())

    @cached_property
    def _verb_phrases(self) -> dict[frozenset[str], tuple[Alternative, ...]]:
        rule = self.rules["vp"]
        return {a.holes: tuple(b for b in rule if b.holes == a.holes) for a in rule}

    def places(self, shapes: Shapes) -> tuple[bool, bool]:
        """Whether a sentence of these lists can be said first, also where the picture has to be
        spoken of, and whether it can be said later; whoever the person is."""
        if shapes not in self._places:
            if len(self._places) >= MAX_CACHED:
                self._places.clear()
            kinds = frozenset(shape.kind for shape in shapes)
            opening = [f for rule in ("first", "opening") for f in self.frames(rule, kinds)]
            first = [f for f in opening if "picture" in f.alternative.slots]
            later = self.frames("later", kinds)
            self._places[shapes] = (
                any(self._is_safe(frame, shapes) for frame in first),
                any(self._is_safe(frame, shapes) for frame in later),
            )
        return self._places[shapes]

    @cached_property
    def _places(self) -> dict[Shapes, tuple[bool, bool]]:
        return {}

    def _is_safe(self, frame: Frame, shapes: Shapes) -> bool:
        def is_safe(alternative: Alternative) -> bool:
            limited = alternative.people or alternative.whose or alternative.many
            return not limited and alternative.suits(shapes)

        phrases = self.verb_phrases(frame.rest) if frame.rest else ()
        return is_safe(frame.alternative) and (not frame.rest or any(map(is_safe, phrases)))

    def realisations(self) -> dict[str, set[str]]:
        """The words by which each label is said; Male is said by `people.man`."""
        wordings: dict[str, set[str]] = {}
        for alternatives in self.rules.values():
            for alternative in alternatives:
                for label, words in MARK.findall(alternative.text):
                    wordings.setdefault(label, set()).update(self._numbers(words))
        return wordings

    def _numbers(self, words: str) -> Iterator[str]:
        """`words` with the verbs in them in the plural and in the singular."""
        yield SLOT.sub(r"\1", words)
        yield SLOT.sub(lambda match: self.verbs[match[1]], words)


def _parts_any(labels: frozenset[str], groups: Sequence[frozenset[str]]) -> bool:
    """Whether `labels` has some but not all of a group."""
    return any(group & labels and not group <= labels for group in groups)
