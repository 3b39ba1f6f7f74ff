"""Noun phrases of a split text: where they start, and what part of the sentence they are."""

from __future__ import annotations

from collections.abc import Sequence

from facecap.transforms.rewrite.tokens import Token

SENTENCE_END = frozenset({".", "!", "?"})
BREAKS = SENTENCE_END | {";", ":", "(", ")"}

RELATIVE = frozenset({"that", "which"})

PEOPLE = frozenset({"person", "man", "woman"})
DEFINITE = frozenset({"the", "this", "that"})

MODIFIERS = frozenset({"determiner", "possessive", "adjective", "adverb"})


def is_noun(token: Token) -> bool:
    """Whether it names a part or a thing: "eyes", not the end of "narrow-eyed"."""
    return bool(token.word.feature) and not (token.glued and token.text.endswith("ed"))


def is_object(tokens: Sequence[Token], at: int) -> bool:
    """Whether the noun at `at` is the object of a verb or preposition, or in a list of such."""
    before = phrase_start(tokens, at) - 1
    listed = tokens[at].word.feature not in PEOPLE
    if before > 0 and tokens[before - 1].text == "," and _is_subject_of_verb(tokens, at):
        return False  # "on the lips of the woman, and makeup lies"
    while listed and before > 0 and tokens[before].word.pos in (",", "conjunction"):
        if tokens[before + 1].word.pos == "possessive" or tokens[before + 1].text in DEFINITE:
            return False
        while before > 0 and tokens[before].word.pos in (",", "conjunction"):
            before -= 1
        if not tokens[before].word.feature:
            return False
        before = phrase_start(tokens, before) - 1
    if before >= 0 and tokens[before].text in COMPARING and _is_subject_of_verb(tokens, at):
        return False  # "as pale as her hair is black"
    return before >= 0 and governs(tokens[before])


COMPARING = frozenset({"as", "than", "like", "for"})


def _is_subject_of_verb(tokens: Sequence[Token], at: int) -> bool:
    return at + 1 < len(tokens) and tokens[at + 1].word.pos == "copula"


def phrase_start(tokens: Sequence[Token], at: int) -> int:
    """Where the noun phrase that ends at `at` starts."""
    while at > 0:
        word = tokens[at - 1].word
        owner = bool(word.feature) and tokens[at].text == "'s"
        modifier = word.readings is not None and not word.feature
        # "close-up photo"
        modifier = modifier or (word.feature != "" and word.feature == tokens[at].word.feature)
        comma = word.pos == "," and at > 1 and tokens[at - 2].word.readings is not None
        if comma and tokens[at].word.readings is not None and not tokens[at - 2].word.feature:
            at -= 1
            continue
        if not owner and not modifier and word.pos not in MODIFIERS:
            break
        at -= 1
    return at


def governs(token: Token) -> bool:
    pos = token.word.pos
    return pos in ("preposition", "verb", "participle", "negator") or token.text == "with"


def is_possessor(tokens: Sequence[Token], place: int) -> bool:
    return place + 1 < len(tokens) and tokens[place + 1].text == "'s"


def is_placed(tokens: Sequence[Token], at: int) -> bool:
    """Whether the noun at `at` only says where: "no hair on his head"."""
    before = phrase_start(tokens, at) - 1
    while before > 0 and tokens[before].word.pos in (",", "conjunction"):
        if not is_noun(tokens[before - 1]):
            return False
        before = phrase_start(tokens, before - 1) - 1
    return before >= 0 and tokens[before].word.pos == "preposition"


def names_a_thing(tokens: Sequence[Token], at: int) -> bool:
    """Whether the word at `at`, harmless as a verb, is a noun here: "brown hair with highlights",
    where makeup "highlights her eyes"."""
    if not tokens[at].word.no_noun or at == 0:
        return False
    before = tokens[at - 1].word
    return (
        before.pos in ("determiner", "possessive", "adjective", "preposition", "participle")
        or tokens[at - 1].text in ("with", "no", "has", "have", "having", "wears", "shows")
        or (before.readings is not None and not before.feature)
        or tokens[at - 1].glued
    )
