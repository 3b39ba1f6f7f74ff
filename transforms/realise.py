"""From labels to a caption: puts the planned phrases into the grammar's sentences.

Pronouns, verbs, articles, capitals and full stops are set last, from left to right, over the whole
caption.
"""

from __future__ import annotations

import hashlib
import random
import re

from facecap.transforms.grammar_model import Grammar
from facecap.transforms.grammar_rules import (
    MARK,
    SLOT,
    Alternative,
    Frame,
    Person,
    Shapes,
    pick_fresh,
    plain_words,
)
from facecap.transforms.plan_caption import Part, Plan, Sentence, plan_caption, shapes

MAX_DRAFTS = 12
"""Captions drawn until one has nothing in it that the grammar avoids; the best is taken."""


def realise(
    labels: tuple[str, ...],
    person: str,
    grammar: Grammar,
    rng: random.Random,
    hedged: frozenset[str] = frozenset(),
) -> tuple[str, tuple[str, ...]]:
    """A caption that states `labels`, each once and no other, and the labels in the order said.

    `person` is `man`, `woman` or `person`; Male is said by the noun `man`. Of `labels`, those in
    `hedged` are said with a hedge ("appears to have ..."); Male never is.
    """
    marked, fewest = "", len(grammar.avoid) + 1
    for _ in range(MAX_DRAFTS):
        draft = _with_articles(_draft(labels, person, grammar, rng, hedged))
        faults = _count_faults(plain_words(draft), grammar, fewest)
        if faults < fewest:
            marked, fewest = draft, faults
        if not faults:
            break
    said = dict.fromkeys(label for label, _ in MARK.findall(marked))
    return plain_words(marked), tuple(label for label in said if label in labels)


def _count_faults(text: str, grammar: Grammar, enough: int) -> int:
    """How much of what the grammar avoids is in `text`; counted up to `enough`."""
    count = 0
    for pattern in grammar.avoid:
        if pattern.search(text):
            count += 1
            if count == enough:
                break
    return count


def _draft(
    labels: tuple[str, ...],
    person: str,
    grammar: Grammar,
    rng: random.Random,
    hedged: frozenset[str],
) -> str:
    """A caption with marks in it."""
    plan = plan_caption(labels, person, grammar, rng, hedged)
    writer = _Writer(grammar, rng, plan, person)
    sentences = [writer.sentence(sentence) for sentence in plan.sentences]
    camera = grammar.draw("camera", rng, writer.used)
    return _inflect(sentences, grammar.people[person], grammar, plan, camera)


def seeded(seed: int, key: str) -> random.Random:
    """A generator that depends on `seed` and `key` alone, equal in every process and version."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


class _Writer:
    """Writes the sentences of one caption, with slots, marks and without capitals or full stops;
    it remembers which alternatives were `used`."""

    def __init__(self, grammar: Grammar, rng: random.Random, plan: Plan, person: str) -> None:
        self.grammar, self.rng, self.plan, self.person = grammar, rng, plan, person
        self.used: set[str] = set()
        self.first = True

    def sentence(self, parts: Sentence) -> str:
        """The next sentence of the caption."""
        first, self.first = self.first, False
        if "sentence" in parts:
            return parts["sentence"].items[0].text
        frame, verb_phrases = self._frame(parts, first)
        text = self.grammar.expand(frame.alternative, self.rng, self.used)
        if frame.rest:
            verb_phrase = pick_fresh(verb_phrases, self.used, self.rng)
            text = text.replace("{vp}", self.grammar.expand(verb_phrase, self.rng, self.used))
        for kind, part in parts.items():
            text = self._fill(text, kind, part)
        if first and self.plan.picture:
            text = text.replace("{picture}", self.plan.picture)
        if frame.tail:
            text = self._join("and_clause", text, self._list(parts["clause"]))
        return text

    def _frame(self, parts: Sentence, first: bool) -> tuple[Frame, list[Alternative]]:
        """A frame for these parts, and the verb phrases that may stand in it."""
        kinds, lists = frozenset(parts), shapes(parts)
        usable: list[Alternative] = []
        frames: list[tuple[Frame, list[Alternative]]] = []
        for rule in ("first", "opening") if first else ("later",):
            for frame in self.grammar.frames(rule, kinds):
                alternative = frame.alternative
                if not self._suits(alternative, parts, lists):
                    continue
                if first and self.plan.picture and "picture" not in alternative.slots:
                    continue
                verb_phrases = self._verb_phrases(frame.rest, lists) if frame.rest else []
                if frame.rest and not verb_phrases:
                    continue
                usable.append(alternative)
                frames.append((frame, verb_phrases))
        return frames[usable.index(pick_fresh(usable, self.used, self.rng))]

    def _suits(self, alternative: Alternative, parts: Sentence, lists: Shapes) -> bool:
        if alternative.people and self.person not in alternative.people:
            return False
        if alternative.whose:
            clauses = parts["clause"].items
            if len(clauses) > 1 or not clauses[0].text.startswith("{their} "):
                return False
        return alternative.suits(lists)

    def _verb_phrases(self, kinds: frozenset[str], lists: Shapes) -> list[Alternative]:
        return [phrase for phrase in self.grammar.verb_phrases(kinds) if phrase.suits(lists)]

    def _fill(self, text: str, kind: str, part: Part) -> str:
        """`text` with the phrases of `part` in its place for them, if it has one."""
        before, place, after = text.partition(f"{{{kind}}}")
        if place:
            return before + self._list(part, not after or after.startswith(",")) + after
        if "{whose}" in text and kind == "clause":
            return text.replace("{whose}", self._list(part).replace("{their}", "whose", 1))
        return text

    def _list(self, part: Part, last: bool = False) -> str:
        """The phrases of `part` as one text; see `plan_caption.Item` for their order. `last`: what
        they stand in ends with them."""
        texts = [item.text for item in sorted(part.items, key=lambda item: item.reach)]
        if len(texts) == 1:
            return texts[0]
        if part.shape.kind == "clause":
            return self._join("two_clauses", *texts)
        if part.shape.kind in ("is", "does"):
            return " and ".join(texts)
        rule = "pair" if len(texts) == 2 else "triple"
        return self._join(f"{rule}_last" if last else rule, *texts)

    def _join(self, rule: str, *texts: str) -> str:
        joined = self.grammar.draw(rule, self.rng, self.used)
        for name, text in zip(("one", "two", "three"), texts, strict=False):
            joined = joined.replace(f"{{{name}}}", text)
        return joined


def _inflect(
    sentences: list[str], person: Person, grammar: Grammar, plan: Plan, camera: str
) -> str:
    """The sentences as one text, every slot but {a} filled.

    The first mention of the person is by the noun; pronouns may stand before it where it is in the
    same sentence. A verb agrees with the last subject before it: singular after the noun, also
    where the pronoun is "they".
    """
    mentioned = plural = False
    noun = f"{plan.adjective} {person.noun}" if plan.adjective else person.noun

    def fill(match: re.Match[str]) -> str:
        nonlocal mentioned, plural, noun
        slot = match[1]
        if slot == "a":
            return "{a}"
        if slot == "picture":
            return camera
        if slot in grammar.verbs:
            return slot if plural else grammar.verbs[slot]
        first = not mentioned and (slot == "noun" or "{noun}" not in match.string)
        if slot == "noun" or first:
            mentioned, plural = True, False
            said, noun = noun, person.noun
            return {"noun": said, "they": f"the {said}", "their": f"the {said}'s"}[slot]
        if slot == "they":
            plural = person.plural
            return person.they
        return person.their

    return " ".join(f"{_capitalise(SLOT.sub(fill, sentence))}." for sentence in sentences)


def _capitalise(text: str) -> str:
    """The first letter upper case; an article there becomes {A}."""
    if text.startswith("{a}"):
        return "{A}" + text[3:]
    first = re.search(r"(?:^|(?<=:))[A-Za-z]", text)
    at = first.start() if first and text.startswith("[") else 0
    return text[:at] + text[at].upper() + text[at + 1 :]


VOWEL_SOUND = re.compile(r"(?!uni|use|usu|eu|one\b|once\b)[aeiou]|hour|honest|heir", re.IGNORECASE)


def _with_articles(text: str) -> str:
    """`text` with {a} and {A} set by the sound of the word that follows."""

    def article(match: re.Match[str]) -> str:
        word = "an" if VOWEL_SOUND.match(match[2].rpartition(":")[2]) else "a"
        return f"{word.capitalize() if match[1] == 'A' else word} {match[2]}"

    return re.sub(r"\{([aA])\} ((?:\[\w+:)?\w+)", article, text)
