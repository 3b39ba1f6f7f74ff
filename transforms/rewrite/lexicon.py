"""What is known of words: the vocabulary of the faithfulness checker, as it is held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from facecap.schemas.captions import RewriteFault

DEFAULT_VOCABULARY = Path(__file__).parent / "vocabulary.yaml"


class Outcome(NamedTuple):
    """What a word says: labels, each with +1 (stated) or -1 (denied), and a fault."""

    labels: tuple[tuple[str, int], ...] = ()
    fault: RewriteFault | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """What is known of a word or phrase.

    `pos` is its part of speech ("" where none is known), `feature` the part of the face or the
    thing that it names, `outcome` what it says wherever it stands (with `readings`: of what
    they lack), `readings` what it says of a feature, `neutral` whether it may otherwise stand
    anywhere, `known` whether it is English, `conceals` whether it is a verb of hiding, `no_noun`
    whether it is harmless as a verb only.
    """

    pos: str = ""
    feature: str = ""
    outcome: Outcome | None = None
    readings: Mapping[str, Outcome] | None = None
    negator: str = ""
    gender: str = ""
    existential: bool = False
    conceals: bool = False
    no_noun: bool = False
    foreign: bool = False
    neutral: bool = False
    known: bool = True


UNKNOWN = Word(known=False)


@dataclass(frozen=True)
class Vocabulary:
    """A checked vocabulary: single words, and phrases by their first word, longest first."""

    words: Mapping[str, Word]
    phrases: Mapping[str, tuple[tuple[tuple[str, ...], Word], ...]]
    allowed_with: Mapping[str, frozenset[str]]
    exclusive: Mapping[str, frozenset[str]]
    """The labels that each excludes."""
    same_values: Mapping[str, str]
    nouns: frozenset[str]
    """Features that state nothing by themselves."""
    parts: frozenset[str]
    """Those of them that every face has."""
    cache: dict[str, Word] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"cache": {}}

    def look_up(self, text: str) -> Word:
        """What is known of a lower-case word, by itself or by its prefix or suffix."""
        word = self.words.get(text) or self.cache.get(text)
        if word is None:
            word = self._derive(text)
            if len(self.cache) < 10_000:
                self.cache[text] = word
        return word

    def _derive(self, text: str) -> Word:
        for stem in _bases(text):
            base = self.words.get(stem)
            if base is not None and base.readings is not None and base.outcome is None:
                return replace(base, pos="adjective", feature="")
        for stem, sign in _stems(text):
            base = self.words.get(stem)
            if base is None:
                continue
            if sign > 0 and base.pos == "adjective" and base.outcome is None:
                return Word(pos="adverb")
            if sign < 0 and base.outcome and base.outcome.labels and not base.outcome.fault:
                said = tuple((label, -s) for label, s in base.outcome.labels)
                return Word(pos="adjective", outcome=Outcome(said))
            if sign < 0 and stem in ("eyebrow", "brow", "chin", "lip"):
                return Word(pos="adjective", outcome=Outcome((), RewriteFault.ADDED))
        if any(character.isdigit() for character in text):
            return Word(pos="noun", outcome=Outcome((), RewriteFault.BEYOND))
        return UNKNOWN


def _bases(text: str) -> Iterator[str]:
    """The adjective that a superlative or a noun in -ness is made of; -ish says the same, too."""
    for ending in ("est", "ness", "ish"):
        stem = text.removesuffix(ending)
        if stem == text or len(stem) < 3:
            continue
        yield stem
        yield stem + "e"
        if stem.endswith("i"):
            yield stem[:-1] + "y"
        if stem[-1] == stem[-2]:
            yield stem[:-1]


def _stems(text: str) -> Iterator[tuple[str, int]]:
    """What an adverb is made of (+1), and what is denied by un- or -less (-1)."""
    if text.endswith("ly") and len(text) > 4:
        yield text[:-2], 1
        yield text[:-2] + "le", 1
        yield text[:-3] + "y", 1
        if text.endswith("ically"):
            yield text[:-4], 1
    if text.startswith("un") and len(text) > 5:
        yield text[2:], -1
    if text.endswith("less"):
        yield text[:-4], -1
