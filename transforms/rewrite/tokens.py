"""Splits a text into the words, phrases and punctuation marks of the vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    return list(_merge(lower, cased, glued, vocabulary))


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
                if tuple(lower[at + 1 : stop]) == rest:
                    size, word, text = 1 + len(rest), phrase, " ".join(lower[at:stop])
                    break
        yield Token(text, word or vocabulary.look_up(text), cased[at][0].isupper(), glued[at])
        at += size
