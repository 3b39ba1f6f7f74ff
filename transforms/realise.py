"""From labels to sentences: plans a caption, and puts the grammar's phrases together.

Content is planned by topic: the labels of a topic become phrases, phrases of one kind become a
part ("wavy brown hair and bangs"), one or two parts become a sentence. Pronouns, verbs, articles,
capitals and full stops are set last, from left to right, over the whole caption.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

from facecap.transforms.grammar import MARK, SLOT, Grammar, Person, pick

MAX_LIST = {"clause": 2, "sentence": 1, "wears": 4}
"""Phrases of one kind in one list ("A, B, and C"); 3 of any other."""


MAX_SENTENCES = 4


@dataclass(frozen=True, slots=True)
class Part:
    """Phrases of one kind, said in one list."""

    kind: str
    phrases: tuple[str, ...]


Plan = list[tuple[Part, ...]]
"""The parts of each sentence, one or two."""


def realise(
    labels: tuple[str, ...], person: str, grammar: Grammar, rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """A caption that states `labels`, each once and no other, and the labels in the order said.

    `person` is `man`, `woman` or `person`; Male is said by the noun `man`.
    """
    words = grammar.people[person]
    sentences: list[str] = []
    for parts in plan(labels, grammar, rng):
        sentences.append(_sentence(parts, sentences, grammar, rng))
    mentioned = any({"noun", "they", "their"} & set(SLOT.findall(s)) for s in sentences)
    if not mentioned and (not sentences or "Male" in labels):
        sentences.insert(0, grammar.draw_frame("bare", rng))
    marked = _inflect(sentences, words, grammar)
    said = dict.fromkeys(label for label, _ in MARK.findall(marked))
    text = _with_articles(MARK.sub(r"\2", marked))
    return text, tuple(label for label in said if label in labels)


def seeded(seed: int, key: str) -> random.Random:
    """A generator that depends on `seed` and `key` alone, equal in every process and version."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def plan(labels: tuple[str, ...], grammar: Grammar, rng: random.Random) -> Plan:
    """The parts of a caption over `labels`, in the order of their sentences: at most MAX_SENTENCES
    of them, unless there are very many labels."""
    drawn = _plan(labels, grammar, rng)
    for _ in range(7):
        if len(drawn) <= MAX_SENTENCES:
            break
        drawn = min(drawn, _plan(labels, grammar, rng), key=len)
    return drawn


def _plan(labels: tuple[str, ...], grammar: Grammar, rng: random.Random) -> Plan:
    sentences: Plan = [(part,) for part in _parts(labels, grammar, rng)]
    target = _sentence_count(len(labels), rng)
    while len(sentences) > target:
        pairs = [
            (i, j)
            for j in range(len(sentences))
            for i in range(j)
            if _fit(sentences[i], sentences[j])
        ]
        if not pairs:
            break
        # Neighbours share a topic or follow each other by chance: prefer them.
        weights = [4.0 if j == i + 1 else 1.0 for i, j in pairs]
        i, j = pick(pairs, weights, rng)
        sentences[i] = _merge(sentences[i][0], sentences.pop(j)[0])
    return sentences


def _sentence_count(labels: int, rng: random.Random) -> int:
    if labels <= 2:
        return 1
    if labels <= 5:
        return 2
    return pick((2, 3), (1, 1), rng) if labels <= 7 else pick((3, 4), (1, 1), rng)


def _parts(labels: tuple[str, ...], grammar: Grammar, rng: random.Random) -> list[Part]:
    """Phrases for all labels, the topics in random order, one part for each kind in a topic."""
    topics = [set(topic) & set(labels) for topic in grammar.topics.values()]
    parts = []
    while topics:
        left = pick(topics, [1.0] * len(topics), rng)
        topics.remove(left)
        by_kind: dict[str, list[str]] = {}
        while left:
            phrase = grammar.draw_phrase(left, rng)
            left = left - phrase.labels
            by_kind.setdefault(phrase.kind, []).append(phrase.text)
        for kind, phrases in by_kind.items():
            count = -(-len(phrases) // MAX_LIST.get(kind, 3))
            parts += [Part(kind, tuple(phrases[k::count])) for k in range(count)]
    return parts


def _fit(one: tuple[Part, ...], other: tuple[Part, ...]) -> bool:
    """Whether two sentences of one part each read well as one."""
    if len(one) > 1 or len(other) > 1 or "sentence" in (one[0].kind, other[0].kind):
        return False
    kinds = {one[0].kind, other[0].kind}
    if len(kinds) == 1:
        return len(one[0].phrases + other[0].phrases) <= MAX_LIST.get(one[0].kind, 3)
    return all(len(part.phrases) == 1 for part in (one[0], other[0]) if part.kind == "clause")


def _merge(one: Part, other: Part) -> tuple[Part, ...]:
    if one.kind == other.kind:
        return (Part(one.kind, one.phrases + other.phrases),)
    return (other, one) if one.kind == "clause" else (one, other)


def _sentence(
    parts: tuple[Part, ...], before: list[str], grammar: Grammar, rng: random.Random
) -> str:
    """One sentence over `parts`, with slots, marks and without capital or full stop."""
    phrases = [part for part in parts if part.kind != "clause"]
    clauses = [_list(part) for part in parts if part.kind == "clause"]
    if not phrases:
        return clauses[0]
    if phrases[0].kind == "sentence":
        return phrases[0].phrases[0]
    shapes = [{"phrases"}]
    if not before and any(p.kind == "has" and " with " not in _list(p) for p in phrases):
        shapes.append({"with"} if len(phrases) == 1 else {"with", "phrases"})
    frame = grammar.draw_frame("later" if before else "first", rng, shapes)
    if "{with}" in frame:
        having = next(part for part in phrases if part.kind == "has")
        phrases.remove(having)
        frame = frame.replace("{with}", _list(having))
    again = sum("{have}" in sentence for sentence in before) == 1
    verbal = [_verb_phrase(part, again, grammar, rng) for part in phrases]
    if len(verbal) == 2:
        verbal = [_join("join_long" if _is_long(verbal[0]) else "join", verbal, grammar, rng)]
    sentence = frame.replace("{phrases}", verbal[0]) if verbal else frame
    return _join("join_clause", [sentence, *clauses], grammar, rng) if clauses else sentence


def _verb_phrase(part: Part, again: bool, grammar: Grammar, rng: random.Random) -> str:
    if part.kind == "does":
        return _list(part)
    rule = "say_has_again" if part.kind == "has" and again else f"say_{part.kind}"
    return grammar.draw_frame(rule, rng).replace("{list}", _list(part))


def _join(rule: str, texts: list[str], grammar: Grammar, rng: random.Random) -> str:
    frame = grammar.draw_frame(rule, rng)
    return frame.replace("{one}", texts[0]).replace("{two}", texts[1])


def _is_long(verb_phrase: str) -> bool:
    """Whether what is joined to it by a mere "and" could be read as a part of it."""
    return bool(re.search(r",| and | not\b|:not\b", verb_phrase))


def _list(part: Part) -> str:
    """ "A", "A and B" or "A, B, and C". What would reach over the phrases behind it, a negation or
    a preposition ("bags under ..."), comes last."""

    def reach(phrase: str) -> tuple[bool, bool]:
        words = MARK.sub(r"\2", phrase).split()
        return bool({"no", "not"} & set(words)), bool({"with", "on", "under"} & set(words))

    *most, last = sorted(part.phrases, key=reach)
    if not most:
        return last
    if part.kind == "clause" or len(most) > 1:
        return f"{', '.join(most)}, and {last}"
    return f"{most[0]} and {last}"


def _inflect(sentences: list[str], person: Person, grammar: Grammar) -> str:
    """The sentences as one text, every slot but {a} filled.

    The first mention of the person is by the noun. A verb agrees with the last subject before it:
    singular after the noun, also where the pronoun is "they".
    """
    mentioned = plural = False

    def fill(match: re.Match[str]) -> str:
        nonlocal mentioned, plural
        slot = match[1]
        if slot == "a":
            return "{a}"
        if slot in grammar.verbs:
            return slot if plural else grammar.verbs[slot]
        first, mentioned = not mentioned, True
        if slot == "noun" or first:
            plural = False
            return {"noun": "", "they": "the ", "their": "the "}[slot] + (
                f"{person.noun}'s" if slot == "their" else person.noun
            )
        if slot == "they":
            plural = person.plural
            return person.they
        return person.their

    return " ".join(f"{_capitalise(SLOT.sub(fill, s))}." for s in sentences)


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
        word = "an" if VOWEL_SOUND.match(match[2]) else "a"
        return f"{word.capitalize() if match[1] == 'A' else word} {match[2]}"

    return re.sub(r"\{([aA])\} (\w+)", article, text)
