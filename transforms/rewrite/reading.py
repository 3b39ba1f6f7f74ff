"""What a caption says of a face: statements about labels, each with its place and its polarity.

There is no parser of English here. An adjective is bound to the part of the face that it stands
before ("wavy, black hair"), or to the subject of its clause ("her hair is black and wavy"); a
negator reaches to the end of its clause or list; two that reach one word cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite.binding import also_said_of, bind
from facecap.transforms.rewrite.lexicon import Outcome, Vocabulary
from facecap.transforms.rewrite.negation import EXCUSED, negations
from facecap.transforms.rewrite.noun_phrase import is_placed, names_a_thing
from facecap.transforms.rewrite.tokens import Token


class Statement(NamedTuple):
    """A label (or another of the vocabulary's) that the text states (+1) or denies (-1)."""

    label: str
    sign: int
    at: int
    text: str
    fault: RewriteFault | None = None
    """What the same words are guilty of besides."""


class Invention(NamedTuple):
    """Words that no label can license: `fault` is ADDED, BEYOND, NAME or META_TEXT."""

    fault: RewriteFault
    text: str
    at: int
    opposite: bool = False
    """Whether the words, denied, state a label: "not wide but narrow"."""


class Reading(NamedTuple):
    """All that a text says."""

    statements: list[Statement]
    inventions: list[Invention]


def read(tokens: Sequence[Token], vocabulary: Vocabulary) -> Reading:
    """What the tokens of a text say, negation taken into account."""
    reading = Reading([], [])
    bound: set[int] = set()
    for at, token in enumerate(tokens):
        if token.word.readings is not None:
            outcome, place = bind(tokens, at, vocabulary)
            _say(reading, outcome, at, _quote(tokens, at, place))
            bound.add(place)
            if place >= 0:
                for outcome, other in also_said_of(tokens, at, place, vocabulary):
                    _say(reading, outcome, at, _quote(tokens, at, other))
                    bound.add(other)
        elif token.word.outcome is not None:
            _say(reading, token.word.outcome, at, token.text)
        elif names_a_thing(tokens, at):
            reading.inventions.append(Invention(RewriteFault.ADDED, token.text, at))
    reach = negations(tokens)
    return reading if reach is None else _denied(reading, tokens, reach, bound, vocabulary)


def _quote(tokens: Sequence[Token], at: int, place: int) -> str:
    return tokens[at].text if place < 0 else f"{tokens[at].text} {tokens[place].text}"


def _say(reading: Reading, outcome: Outcome, at: int, text: str) -> None:
    labels, fault = outcome
    for label, sign in labels:
        reading.statements.append(Statement(label, sign, at, text, fault))
    if fault is not None:
        opposite = any(sign < 0 for _, sign in labels)
        reading.inventions.append(Invention(fault, text, at, opposite))


def _denied(
    reading: Reading,
    tokens: Sequence[Token],
    reach: Sequence[int],
    bound: set[int],
    vocabulary: Vocabulary,
) -> Reading:
    """The reading with what the negators reach turned into its opposite."""
    statements = [
        s._replace(sign=-s.sign, text=f"no {s.text}") if reach[s.at] % 2 else s
        for s in reading.statements
    ]
    inventions = [
        i
        for i in reading.inventions
        if not (i.opposite and reach[i.at] % 2) and reach[i.at] != EXCUSED
    ]
    for at, token in enumerate(tokens):
        if reach[at] % 2 and at not in bound and token.word.outcome is None:
            if token.word.feature == "hair":
                statements.append(Statement("Hair", -1, at, "no hair"))
            elif token.word.feature in vocabulary.parts and not is_placed(tokens, at):
                inventions.append(Invention(RewriteFault.ADDED, f"no {token.text}", at))
    return Reading(statements, inventions)
