"""Whether a caption grammar holds together: a fault is a `GrammarError` that names the rule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from facecap.transforms.grammar_model import Grammar
from facecap.transforms.grammar_rules import (
    HEDGED_AS,
    KINDS,
    MARK,
    PARTS,
    SLOT,
    Alternative,
    Shape,
)

PEOPLE = ("man", "woman", "person")


class GrammarError(ValueError):
    """The grammar file cannot be used; the message names the file and the rule."""


FRAMES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    name: (frozenset(required), frozenset(optional))
    for name, required, optional in (
        ("first", [], ["picture", "noun", "vp", *PARTS]),
        ("opening", ["noun"], ["picture", "vp", "whose", *PARTS[:-1]]),
        ("later", [], ["vp", "noun", *PARTS]),
        ("vp", [], PARTS[:-1]),
        ("camera", [], []),
        ("pair", ["one", "two"], []),
        ("pair_last", ["one", "two"], []),
        ("triple", ["one", "two", "three"], []),
        ("triple_last", ["one", "two", "three"], []),
        ("two_clauses", ["one", "two"], []),
        ("and_clause", ["one", "two"], []),
        ("hedge_noun", ["list"], []),
        *((f"hedge_{kind}", ["list"], []) for kind in HEDGED_AS),
    )
}
"""The rules that phrases are put together by: the holes each must have, and those it may have."""


def check_rules(grammar: Grammar) -> None:
    """Symbols, slots and holes: all defined, all reachable, none in a circle."""
    rules = grammar.rules
    for root in (*KINDS, *FRAMES):
        if root not in rules:
            raise GrammarError(f"rule {root}: is missing")
    states: dict[str, frozenset[str]] = {}

    def visit(rule: str, trail: tuple[str, ...]) -> frozenset[str]:
        """The labels that `rule` can state."""
        if rule in trail:
            raise GrammarError(f"rule {rule}: is made of itself ({' > '.join((*trail, rule))})")
        if rule in states:
            return states[rule]
        found: set[str] = set()
        for alternative in rules[rule]:
            _check_alternative(grammar, rule, alternative)
            said = set(alternative.labels)
            for symbol in alternative.symbols:
                if symbol not in rules:
                    raise GrammarError(f"rule {rule}: <{symbol}> is not defined")
                below = visit(symbol, (*trail, rule))
                if said & below:
                    raise GrammarError(f"rule {rule}: {alternative.text!r} may state a label twice")
                said |= below
            if rule in FRAMES and said:
                raise GrammarError(f"rule {rule}: {alternative.text!r} must not state a label")
            if rule in KINDS and not said:
                raise GrammarError(f"rule {rule}: {alternative.text!r} states no label")
            found |= said
        states[rule] = frozenset(found)
        return states[rule]

    for root in (*KINDS, *FRAMES):
        visit(root, ())
    if unreachable := sorted(set(rules) - set(states)):
        raise GrammarError(f"rule {unreachable[0]}: is never used")


def _check_alternative(grammar: Grammar, rule: str, alternative: Alternative) -> None:
    """Its slots, and whom and what it is limited to."""
    text, frame = alternative.text, rule in FRAMES
    required, optional = FRAMES.get(rule, (frozenset(), frozenset()))
    words = {"a", "they", "their", *grammar.verbs, *required, *optional}
    words |= {"picture"} if rule in ("picture", "sentence") else set()
    if unknown := alternative.slots - words:
        raise GrammarError(f"rule {rule}: unknown slot {{{min(unknown)}}}")
    if missing := required - alternative.slots:
        raise GrammarError(f"rule {rule}: {text!r} lacks {{{min(missing)}}}")
    for _, marked in MARK.findall(text):
        if unknown := frozenset(SLOT.findall(marked)) - set(grammar.verbs):
            raise GrammarError(
                f"rule {rule}: {{{min(unknown)}}} is no verb, yet in a label's words"
            )
    if unknown := alternative.people - set(PEOPLE):
        raise GrammarError(f"rule {rule}: {text!r} is for unknown people, {min(unknown)}")
    if unknown := alternative.topics - set(grammar.topics):
        raise GrammarError(f"rule {rule}: {text!r} is for an unknown topic, {min(unknown)}")
    if alternative.topics and not frame:
        raise GrammarError(f"rule {rule}: {text!r} has no place for phrases of some topics")


def check_topics(grammar: Grammar) -> None:
    """Every label that is said is in one topic."""
    listed = [label for topic in grammar.topics.values() for label in topic]
    for label in listed:
        if listed.count(label) > 1:
            raise GrammarError(f"topics: {label} is in more than one place")
    if homeless := sorted(grammar.realisations().keys() - set(listed)):
        raise GrammarError(f"topics: {homeless[0]} is said by a rule but is in no topic")
    for section, lines in (("conflicts", grammar.conflicts), ("together", grammar.together)):
        for line in lines:
            if unknown := set(line) - set(listed):
                raise GrammarError(f"{section}: {min(unknown)} is in no topic")


def check_labels(grammar: Grammar) -> None:
    """Every label can be said by itself of everybody, with a hedge and without."""
    for topic, labels in grammar.topics.items():
        for label in labels:
            for person in PEOPLE:
                alone = frozenset({label})
                usable, _ = grammar.usable_phrases(topic, alone, person)
                if all(phrase.kind in ("adjective", "picture") for phrase in usable):
                    raise GrammarError(f"topics: no rule can say {label} of a {person} by itself")
                if not grammar.usable_phrases(topic, alone, person, doubt=True)[0]:
                    raise GrammarError(f"topics: {label} of a {person} cannot be hedged")


def check_frames(grammar: Grammar) -> None:
    """There is a sentence for every kind of phrase, and every alternative can be used."""
    everything = frozenset(grammar.topics)
    for kind in PARTS:
        places = grammar.places((Shape(kind, everything, long=True, has_with=True),))
        for rule, possible in zip(("first", "later"), places, strict=True):
            if not possible:
                raise GrammarError(
                    f"rule {rule}: needs an alternative for {{{kind}}} alone that is not limited"
                    + (" and speaks of the {picture}" if rule == "first" else "")
                )
    if not grammar.places(())[0]:
        raise GrammarError("rule opening: needs an alternative with {picture} and {noun} alone")
    used = {
        alternative
        for count in range(len(PARTS) + 1)
        for kinds in combinations(PARTS, count)
        for alternative in _usable(grammar, kinds)
    }
    for rule in ("first", "opening", "later", "vp"):
        for alternative in grammar.rules[rule]:
            if alternative not in used:
                raise GrammarError(
                    f"rule {rule}: {alternative.text!r} can never be used: no other "
                    "alternative can say these kinds of phrase where it cannot"
                )


def _usable(grammar: Grammar, kinds: tuple[str, ...]) -> Iterator[Alternative]:
    """The alternatives for sentences of `kinds`, if there is one for them whatever they say."""
    shapes = tuple(Shape(kind, frozenset(), long=False, has_with=False) for kind in kinds)
    places = grammar.places(shapes)
    for rule, possible in zip(("first", "opening", "later"), (places[0], *places), strict=True):
        if possible:
            for frame in grammar.frames(rule, frozenset(kinds)):
                yield frame.alternative
                yield from grammar.verb_phrases(frame.rest)
