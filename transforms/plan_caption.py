"""From labels to the plan of a caption: which phrases state them, and which sentences these form.

Content is planned by topic: the labels of a topic become phrases, phrases of one kind become a
list ("wavy brown hair and bangs"), and lists of different kinds are merged into sentences as long
as the grammar has a sentence for them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import lru_cache

from facecap.transforms.grammar_model import Grammar
from facecap.transforms.grammar_rules import (
    HEDGED_AS,
    KINDS,
    LONG,
    PARTS,
    WITH,
    Phrase,
    Shape,
    Shapes,
    pick,
    plain_words,
)

MAX_LIST = {"has": 3, "wears": 3, "is": 1, "does": 1, "absolute": 1, "clause": 2, "sentence": 1}
"""Phrases of each kind in one list."""

REACHING = {"with", "on", "under", "beneath", "above", "over", "across", "behind", "of"}
"""Words that could take along what is said behind them."""

FAR_REACHING = re.compile(r"\b(?:no|not|without|framing)\b")
"""Words that would."""

ADJECTIVE_ALONE = 0.2
"""How often the first sentence is about the adjectives alone, where others follow: "This is a photo
of a smiling young woman." """

MAX_STATED = 5
"""Labels in one sentence, the adjectives of the person not counted, before it is called long."""


@dataclass(frozen=True, slots=True)
class Item:
    """A phrase in a list.

    The greater its `reach`, the later it stands: what would reach over the phrases behind it, a
    preposition ("bags under ..."), a negation or a hedge, comes last. `long` says that it has an
    "and", a comma or a negation in it, `has_with` that it has a "with".
    """

    text: str
    stated: int
    reach: int
    long: bool
    has_with: bool


@lru_cache(maxsize=20_000)
def _item(text: str, stated: int, hedged: bool) -> Item:
    words = plain_words(text)
    reach = int(not REACHING.isdisjoint(words.split()))
    if hedged or FAR_REACHING.search(words):
        reach = 2
    return Item(text, stated, reach, bool(LONG.search(words)), bool(WITH.search(words)))


@dataclass(frozen=True, slots=True)
class Part:
    """Phrases of one kind, said in one list."""

    items: tuple[Item, ...]
    shape: Shape

    @property
    def stated(self) -> int:
        """How many labels it states."""
        return sum([item.stated for item in self.items])


def _part(kind: str, items: tuple[Item, ...], topics: frozenset[str]) -> Part:
    long = len(items) > 1 or items[0].long
    return Part(items, Shape(kind, topics, long, any([item.has_with for item in items])))


Sentence = dict[str, Part]
"""The parts of a sentence by their kinds."""


@dataclass(slots=True)
class Plan:
    """The sentences of a caption in their order, the adjectives of the person, and what the
    picture is called, where a label says something of it."""

    sentences: list[Sentence] = field(default_factory=list)
    adjective: str | None = None
    picture: str | None = None


def plan_caption(
    labels: tuple[str, ...],
    person: str,
    grammar: Grammar,
    rng: random.Random,
    hedged: frozenset[str] = frozenset(),
) -> Plan:
    """A plan that states each of `labels` but Male once, those in `hedged` with a hedge."""
    plan = Plan()
    parts = _parts(plan, labels, person, grammar, rng, hedged)
    plan.sentences = [{part.shape.kind: part} for part in parts]
    target = _sentence_count(sum(part.stated for part in parts), rng)
    while len(plan.sentences) > target and _merge_two(plan.sentences, grammar, rng):
        pass
    poor = 1 if plan.adjective else 0  # That one comes first: the adjective is in it.
    while sum(map(_is_poor, plan.sentences)) > poor:
        if not _merge_two(plan.sentences, grammar, rng, poor=True):
            break
    plan.sentences.sort(
        key=lambda s: (_can_be_later(s, grammar), _is_of_the_picture(s), not _is_poor(s))
    )
    first = plan.sentences[0] if plan.sentences else {"sentence": None}
    if "sentence" in first and (plan.picture or plan.adjective or "Male" in labels):
        _put_first(plan, labels)
    elif plan.adjective and _can_wait(plan.sentences, grammar) and rng.random() < ADJECTIVE_ALONE:
        plan.sentences.insert(0, {})
    return plan


def _parts(
    plan: Plan,
    labels: tuple[str, ...],
    person: str,
    grammar: Grammar,
    rng: random.Random,
    hedged: frozenset[str],
) -> list[Part]:
    """Lists for all labels, the topics in random order; sets the plan's adjective and picture."""
    left = grammar.labels.intersection(labels)
    topics = [name for name, topic in grammar.by_topic.items() if not left.isdisjoint(topic)]
    parts: list[Part] = []
    while topics:
        # The first topic of the grammar comes first: its adjectives would find their place taken.
        first = topics[0] == next(iter(grammar.by_topic))
        topic = topics[0] if first else pick(topics, [1.0] * len(topics), rng)
        topics.remove(topic)
        sure: list[Phrase] = []
        unsure: list[Phrase] = []
        while here := left & grammar.by_topic[topic]:
            doubt = here <= hedged
            usable = left & hedged if doubt else left - hedged
            choice = grammar.usable_phrases(topic, usable, person, _open_kinds(plan), doubt)
            phrase = pick(*choice, rng)
            left -= phrase.labels
            if phrase.kind in ("adjective", "picture"):
                setattr(plan, phrase.kind, phrase.text)
            else:
                (unsure if doubt and phrase.hedge != "self" else sure).append(phrase)
        parts += _lists(sure, topic)
        parts += [_hedge(part, grammar, rng) for part in _lists(unsure, topic)]
    return parts


def _open_kinds(plan: Plan) -> tuple[str, ...]:
    """The kinds of phrase that can still be said: there is one adjective, and one picture."""
    if plan.picture is None:
        return KINDS if plan.adjective is None else KINDS[1:]
    return KINDS[2:] if plan.adjective else ("adjective", *KINDS[2:])


def _lists(phrases: list[Phrase], topic: str) -> list[Part]:
    """Phrases of one topic, one list for each kind, or more where one would be too long."""
    by_kind: dict[str, list[Item]] = {}
    for phrase in phrases:
        item = _item(phrase.text, len(phrase.labels), phrase.hedge == "self")
        by_kind.setdefault(phrase.kind, []).append(item)
    return [
        _part(kind, tuple(items[k::count]), frozenset({topic}))
        for kind, items in by_kind.items()
        for count in (-(-len(items) // MAX_LIST[kind]),)
        for k in range(count)
    ]


def _hedge(part: Part, grammar: Grammar, rng: random.Random) -> Part:
    """A list of labels that are not sure as one phrase: a verb phrase, or an item of a list."""
    kind, topics, _, _ = part.shape
    choices = [(a, HEDGED_AS[kind]) for a in grammar.rules[f"hedge_{kind}"]]
    if kind in ("has", "wears"):
        nouns = [a for a in grammar.rules["hedge_noun"] if topics <= a.topics or not a.topics]
        choices += [(a, kind) for a in nouns]
    alternative, kind = pick(choices, [a.weight for a, _ in choices], rng)
    text = grammar.expand(alternative, rng, set()).replace("{list}", join_items(part.items))
    return _part(kind, (_item(text, part.stated, True),), topics)


def join_items(items: tuple[Item, ...]) -> str:
    """ "A", "A and B" or "A, B, and C"."""
    *most, last = [item.text for item in sorted(items, key=lambda item: item.reach)]
    if len(most) > 1:
        return f"{', '.join(most)}, and {last}"
    return f"{most[0]} and {last}" if most else last


def _sentence_count(stated: int, rng: random.Random) -> int:
    """How many sentences are aimed at."""
    if stated <= 2:
        return 1
    if stated <= 5:
        return pick((1, 2), (1, 4), rng)
    return pick((2, 3), (1, 1), rng) if stated <= 8 else pick((3, 4), (1, 1), rng)


def _merge_two(
    sentences: list[Sentence], grammar: Grammar, rng: random.Random, poor: bool = False
) -> bool:
    """Merges two of `sentences`, preferably neighbours, with `poor` at least one of them a poor
    one; False where no two can be merged."""
    first_taken = any(not _can_be_later(sentence, grammar) for sentence in sentences)
    pairs = [(i, j) for j in range(len(sentences)) for i in range(j)]
    if poor:
        pairs = [(i, j) for i, j in pairs if _is_poor(sentences[i]) or _is_poor(sentences[j])]
    # Neighbours share a topic or follow each other by chance.
    weights = [
        (4.0 if j == i + 1 else 1.0) * (1 + 2 * _is_poor(sentences[i]) + 2 * _is_poor(sentences[j]))
        for i, j in pairs
    ]
    while pairs:
        at = pick(range(len(pairs)), weights, rng)
        i, j = pairs[at]
        if _fit(sentences[i], sentences[j], first_taken, grammar):
            sentences[i] = _merged(sentences[i], sentences.pop(j))
            return True
        del pairs[at], weights[at]
    return False


def _is_poor(sentence: Sentence) -> bool:
    """Whether it states a single label: "she smiles" reads like an afterthought."""
    return sum([part.stated for part in sentence.values()]) == 1


def _merged(one: Sentence, other: Sentence) -> Sentence:
    both = dict(one)
    for kind, part in other.items():
        both[kind] = _joined(both[kind], part) if kind in both else part
    return both


def _fit(one: Sentence, other: Sentence, first_taken: bool, grammar: Grammar) -> bool:
    """Whether two sentences read well as one; where another one has to be the first of the caption
    (`first_taken`), as one that can stand later."""
    if "sentence" in one or "sentence" in other:
        return False
    clauses = ("clause" in one) + ("clause" in other)
    if clauses and _topics(one) != _topics(other):
        return False
    if clauses == 1 and len(one) + len(other) > 2:
        return False
    if sum([part.stated for part in (*one.values(), *other.values())]) > MAX_STATED:
        return False
    if not all(_can_join(one[kind], other[kind]) for kind in one.keys() & other.keys()):
        return False
    first, later = grammar.places(shapes(_merged(one, other)))
    return first and (later or not first_taken)


def _can_wait(sentences: list[Sentence], grammar: Grammar) -> bool:
    """Whether they are worth a first sentence that says less, and may follow it."""
    stated = sum([part.stated for sentence in sentences for part in sentence.values()])
    return stated > 3 and 1 < len(sentences) < 4 and _can_be_later(sentences[0], grammar)


def _topics(sentence: Sentence) -> frozenset[str]:
    return frozenset().union(*[part.shape.topics for part in sentence.values()])


def shapes(sentence: Sentence) -> Shapes:
    return tuple([sentence[kind].shape for kind in PARTS if kind in sentence])


def _can_be_later(sentence: Sentence, grammar: Grammar) -> bool:
    return "sentence" in sentence or grammar.places(shapes(sentence))[1]


def _can_join(one: Part, other: Part) -> bool:
    items = one.items + other.items
    reaching = sum([item.reach > 1 for item in items])
    return len(items) <= MAX_LIST[one.shape.kind] and reaching <= 1


def _joined(one: Part, other: Part) -> Part:
    topics = one.shape.topics | other.shape.topics
    return _part(one.shape.kind, one.items + other.items, topics)


def _is_of_the_picture(sentence: Sentence) -> bool:
    """Whether it says nothing of the person; such a sentence comes last."""
    return "sentence" in sentence and not re.search("{the", sentence["sentence"].items[0].text)


def _put_first(plan: Plan, labels: tuple[str, ...]) -> None:
    """Sees to it that a sentence which can hold the noun and the picture comes first."""
    for index, sentence in enumerate(plan.sentences):
        if "sentence" not in sentence:
            plan.sentences.insert(0, plan.sentences.pop(index))
            return
    mentioned = any(not _is_of_the_picture(sentence) for sentence in plan.sentences)
    if plan.picture or not mentioned:
        plan.sentences.insert(0, {})
