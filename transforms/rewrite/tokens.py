"""Splits a text into the words, phrases and punctuation marks of the vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from facecap.transforms.rewrite.lexicon import Vocabulary, Word


class Token(NamedTuple):
    """A word, phrase or punctuation mark of a text, as it stands there, and its place."""

    text: str
    word: Word
    capital: bool
    glued: bool
    """Whether a hyphen joins it to the token before."""


TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|'s\b|[^\s'\"“”]")
CONTRACTIONS = (
    (re.compile(r"\b(ca)n't\b", re.IGNORECASE), r"\1n not"),
    (re.compile(r"\b(wo)n't\b", re.IGNORECASE), r"will not"),
    (re.compile(r"\bcannot\b", re.IGNORECASE), r"can not"),
    (re.compile(r"n't\b", re.IGNORECASE), " not"),
    (re.compile(r"\b(he|she|it|there|that|who|here|what)'s\b", re.IGNORECASE), r"\1 is"),
    (re.compile(r"'re\b", re.IGNORECASE), " are"),
    (re.compile(r"'ve\b", re.IGNORECASE), " have"),
    (re.compile(r"'ll\b", re.IGNORECASE), " will"),
    (re.compile(r"(?<=\w)'s\b"), " 's"),
    (re.compile(r"(?<=s)'(?=\s)"), " 's"),
)
HYPHEN = re.compile(r"(?<=\w)[-‐‑](?=\w)")
DASH = re.compile(r"\s*(?:[–—―]|\s-{1,2}\s|--)\s*")


def split(text: str, vocabulary: Vocabulary) -> list[Token]:
    """The words, phrases and punctuation marks of `text`; quotation marks are left out."""
    text = text.replace("’", "'").replace("‘", "'").replace("w/o", "without")
    if "'" in text or "annot" in text:
        for pattern, spaced in CONTRACTIONS:
            text = pattern.sub(spaced, text)
    if "-" in text or "–" in text or "—" in text or "‑" in text:
        text = DASH.sub(" , ", text)
        text = HYPHEN.sub(" \x01", text)
    raw = TOKEN.findall(text)
    lower: list[str] = []
    glued: list[bool] = []
    cased: list[str] = []
    glue = False
    for piece in raw:
        if piece == "\x01":
            glue = True
            continue
        cased.append(piece)
        lower.append(piece.lower())
        glued.append(glue)
        glue = False
    return _in_context(list(_merge(lower, cased, glued, vocabulary)), vocabulary)


def _in_context(tokens: list[Token], vocabulary: Vocabulary) -> list[Token]:
    """The tokens with the words that mean another thing where they stand."""
    for at, token in enumerate(tokens):
        if token.text in SORTS and at > 1 and _is_of_a_kind(tokens, at):
            tokens[at] = token._replace(word=vocabulary.look_up("sort"))
        elif token.text in ("blonde", "blond") and at > 1 and _is_of_a_kind(tokens, at):
            # "Under the eyes of the smiling blonde" it is not the eyes.
            tokens[at] = token._replace(word=vocabulary.look_up("blondes"))
        elif token.glued and token.word.pos in ("participle", "adjective") and at > 0:
            before = tokens[at - 1].word
            if before.feature and before.outcome is not None and token.text != "free":
                # In "full, lipstick-covered lips" the lips are full.
                thing = replace(before, pos="adjective", feature="")
                tokens[at - 1] = tokens[at - 1]._replace(word=thing)
                tokens[at] = token._replace(word=replace(token.word, pos="adjective"))
    return tokens


SORTS = frozenset({"kind", "kinds", "type", "types", "sort", "sorts", "variety", "varieties"})
BEHIND_SORTS = frozenset(
    {"preposition", "conjunction", "contrast", "copula", "verb", "pronoun", "adverb", "participle"}
    | {".", ",", ";", ":", "!", "?", ")"}
)


def _is_of_a_kind(tokens: list[Token], at: int) -> bool:
    """Whether the noun "kind" stands at `at`: "of the pointed kind", not "a kind man"."""
    if at + 1 < len(tokens) and tokens[at + 1].word.pos not in BEHIND_SORTS:
        return False
    start = at
    while start > 0 and tokens[start - 1].word.pos in ("adjective", "adverb", ",", "conjunction"):
        start -= 1
    return start > 0 and tokens[start - 1].word.pos == "determiner"


def _merge(
    lower: list[str], cased: list[str], glued: list[bool], vocabulary: Vocabulary
) -> Iterator[Token]:
    at, end = 0, len(lower)
    phrases = vocabulary.phrases
    while at < end:
        text = lower[at]
        size, word = 1, None
        if text in phrases:
            for rest, phrase in phrases[text]:
                stop = at + 1 + len(rest)
                if tuple(lower[at + 1 : stop]) == rest and lower[stop : stop + 1] != ["free"]:
                    size, word, text = 1 + len(rest), phrase, " ".join(lower[at:stop])
                    break
        yield Token(text, word or vocabulary.look_up(text), cased[at][0].isupper(), glued[at])
        at += size
