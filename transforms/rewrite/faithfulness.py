"""Whether an LLM's rewrite of a caption states the labels that it was given, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from facecap.schemas.captions import Fault, Person, RewriteFault
from facecap.transforms.rewrite.lexicon import Vocabulary
from facecap.transforms.rewrite.noun_phrase import SENTENCE_END
from facecap.transforms.rewrite.reading import Reading, Statement, read
from facecap.transforms.rewrite.tokens import Token, split
from facecap.transforms.rewrite.vocabulary_file import default_vocabulary

MIN_WORDS = 3
FREE_WORDS, WORDS_PER_LABEL = 20, 12
"""A rewrite may have this many words, and this many for each label."""


MAX_CHARACTERS = 4000
"""Of 40 labels' rewrite, twice over. What is longer is not read: a server may send anything, and
reading takes time by the square of the length."""


class Checker:
    """Checks rewrites; built once, cheap to call, and picklable."""

    def __init__(self, vocabulary: Vocabulary | None = None):
        self.vocabulary = vocabulary or default_vocabulary()

    def check(self, text: str, labels: Collection[str], person: Person) -> Fault | None:
        """The first fault of `text` as a caption that is to state exactly `labels` (CelebA names)
        of a `person`, in the order meta_text, language, length, name, gender, negated, missing,
        added, beyond; None for a faithful one.

        Proof is asked for: a word that is neither licensed by a label nor known to be harmless is
        a fault.
        """
        if len(text) > MAX_CHARACTERS:
            return Fault(RewriteFault.LENGTH, f"it has {len(text)} characters")
        tokens = split(text, self.vocabulary)
        reading = read(tokens, self.vocabulary)
        return (
            _meta_text(text, tokens, reading)
            or _language(text, tokens)
            or _length(text, tokens, labels, reading)
            or _name(tokens, reading)
            or _gender(tokens, person)
            or _labels(reading, tokens, frozenset(labels), self.vocabulary)
            or _inventions(tokens, reading)
        )


# ---- the text as such

MARKUP = re.compile(
    r"[*#`~<>{}\[\]|\\=]|^\s*(?:[-•–]|\d+[.)])\s|https?:|[\U0001F000-\U0001FFFF☀-➿]", re.M
)
LEAD_IN = re.compile(
    r"^\W*(?!(?:pictured|shown|seen|depicted)(?: here)?:)"
    r"(?:(?:\w+\W+)?\w+\s*:(?!\w)|(?:here|below|the following)\b[^.:]{0,80}:)",
    re.M | re.I,
)
OPENING = re.compile(
    r"^\W*(?:sure|certainly|absolutely|of course|okay|ok|alright|great|got it|understood|yes|no "
    r"problem|definitely|indeed|hello|hi|thanks|thank you|as an?\b[^.]*\b(?:ai|assistant|model))"
    r"\s*[,!.:;—–-]",
    re.I,
)


def _meta_text(text: str, tokens: Sequence[Token], reading: Reading) -> Fault | None:
    for invention in reading.inventions:
        if invention.fault is RewriteFault.META_TEXT:
            return Fault(
                RewriteFault.META_TEXT, f"{invention.text!r} speaks of the text, not of the person"
            )
    if (found := MARKUP.search(text)) is not None:
        return Fault(RewriteFault.META_TEXT, f"{found[0].strip()!r} is no plain prose")
    if (found := OPENING.match(text)) is not None or (found := LEAD_IN.match(text)) is not None:
        return Fault(RewriteFault.META_TEXT, f"{found[0].strip()!r} is no part of a caption")
    bare = text.strip()
    if len(bare) > 1 and bare[0] in "\"“'‘" and bare[-1] in "\"”'’":
        return Fault(RewriteFault.META_TEXT, "the caption stands in quotation marks")
    return None


FUNCTION = frozenset(
    {"determiner", "possessive", "subject", "pronoun", "conjunction", "contrast", "copula"}
    | {"preposition", "verb", "negator"}
)
ARTICLES = frozenset({"a", "an", "the", "their", "its", "every"})
AFTER_NO_ARTICLE = frozenset(
    {"copula", "preposition", "conjunction", "determiner", "possessive"}
) | {
    *(".", ",", "!", "?", ";"),
}
NEVER_LAST = frozenset({"a", "an", "the", "and", "or", "his", "their", "of", "with"})


LATIN = 0x24F
"""The last letter of the Latin script, extended."""


def _language(text: str, tokens: Sequence[Token]) -> Fault | None:
    if "_" in text:
        return Fault(RewriteFault.LANGUAGE, "label names are no English prose")
    if not text.isascii() and any(c.isalpha() and ord(c) > LATIN for c in text):
        return Fault(RewriteFault.LANGUAGE, "it is not all in English")
    start = 0
    for at, token in enumerate(tokens):
        if token.text in SENTENCE_END or at == len(tokens) - 1:
            if (fault := _sentence_language(tokens[start : at + 1])) is not None:
                return fault
            start = at + 1
    return None


def _sentence_language(sentence: Sequence[Token]) -> Fault | None:
    words = [token for token in sentence if token.text[0].isalnum() or token.text[0] == "'"]
    if not words:
        return None
    foreign = sum(token.word.foreign for token in words)
    unknown = sum(not token.word.known for token in words)
    function = sum(map(_has_function, words))
    quote = " ".join(token.text for token in words[:4])
    if foreign >= 2 or (unknown > len(words) / 2 and len(words) >= 4):
        return Fault(RewriteFault.LANGUAGE, f"{quote!r} is not English")
    if len(words) >= 4 and function == 0:
        return Fault(RewriteFault.LANGUAGE, f"{quote!r} is a list, no sentence")
    if len(words) >= 8 and function < len(words) / 8:
        return Fault(RewriteFault.LANGUAGE, f"{quote!r} is a list, no sentence")
    for token, after in pairwise(sentence):
        text = token.text
        if text in ARTICLES and after.word.pos in AFTER_NO_ARTICLE:
            return Fault(RewriteFault.LANGUAGE, f"'{text} {after.text}' is no English")
        if text == after.text and text.isalpha() and text not in ("that", "had", "very"):
            return Fault(RewriteFault.LANGUAGE, f"'{text} {after.text}' is said twice")
    if len(words) > 2 and words[-1].text in NEVER_LAST and words[-2].text not in ("as", "are"):
        return Fault(RewriteFault.LANGUAGE, f"the sentence ends with {words[-1].text!r}")
    return None


def _has_function(token: Token) -> bool:
    """Whether it is a word, or a phrase with a word, that sentences are built with."""
    return token.word.pos in FUNCTION or not IN_PHRASES.isdisjoint(token.text.split())


IN_PHRASES = frozenset({"on", "of", "in", "the", "a", "his", "her", "their", "over", "at"})


def _length(
    text: str, tokens: Sequence[Token], labels: Collection[str], reading: Reading
) -> Fault | None:
    words = sum(any(map(str.isalnum, word)) for word in text.split())
    if words < MIN_WORDS:
        return Fault(RewriteFault.LENGTH, f"{words} words are too few")
    most = FREE_WORDS + WORDS_PER_LABEL * len(labels)
    if words > most:
        return Fault(RewriteFault.LENGTH, f"{words} words are too many for it: {most} at most")
    said: dict[str, int] = {}
    for statement in reading.statements:
        said[statement.label] = said.get(statement.label, 0) + 1
    texts = [token.text for token in tokens]
    fours = [tuple(texts[i : i + 4]) for i in range(len(texts) - 3)]
    if len(fours) >= 12 and len(set(fours)) < 0.75 * len(fours):
        return Fault(RewriteFault.LENGTH, "it repeats itself")
    for label, times in said.items():
        if times >= 4 or (times == 3 and words > 10 + 8 * len(labels)):
            return Fault(RewriteFault.LENGTH, f"it says {label} {times} times")
    return None


def _name(tokens: Sequence[Token], reading: Reading) -> Fault | None:
    for invention in reading.inventions:
        if invention.fault is RewriteFault.NAME:
            return Fault(RewriteFault.NAME, f"{invention.text!r} names somebody")
    first = True
    for token in tokens:
        if token.capital and not token.word.known and (not first or _like_a_name(token.text)):
            return Fault(RewriteFault.NAME, f"{token.text.capitalize()!r} names somebody")
        first = token.text in SENTENCE_END
    return None


def _like_a_name(text: str) -> bool:
    return not text.endswith(("ing", "ly", "ed", "ish", "ful", "ous", "less", "ness"))


def _gender(tokens: Sequence[Token], person: Person) -> Fault | None:
    for token in tokens:
        gender = token.word.gender
        if gender and gender != person:
            given = (
                "the person's gender is not given" if person == "person" else f"it is a {person}"
            )
            return Fault(RewriteFault.GENDER, f"{token.text!r} is said, but {given}")
    return None


# ---- the labels


def _labels(
    reading: Reading, tokens: Sequence[Token], labels: frozenset[str], vocabulary: Vocabulary
) -> Fault | None:
    stated = {"Male"} if any(token.word.gender == "man" for token in tokens) else set()
    denied: dict[str, Statement] = {}
    added: list[Statement] = []
    for statement in map(_as_label, reading.statements):
        label = statement.label
        others = vocabulary.exclusive.get(label, frozenset()) & labels
        if label == "5_o_Clock_Shadow" and statement.sign < 0 and "No_Beard" in labels:
            stated.add("No_Beard")  # "with neither beard nor stubble"
            continue
        if label in vocabulary.allowed_with:
            if "No_Beard" in labels and label in BEARDS:
                denied["No_Beard"] = statement
            elif statement.sign < 0 or not labels & vocabulary.allowed_with[label]:
                added.append(statement)
        elif label in labels and statement.sign > 0:
            stated.add(label)
        elif label in labels:
            denied[label] = statement
        elif statement.sign > 0 or not others:
            if statement.fault is not RewriteFault.BEYOND and label != "Hair":
                added.append(statement)
            if statement.sign > 0:
                denied |= {other: statement for other in others - denied.keys()}
    for label in denied.copy():
        # "Black and brown hair" adds; brown hair where black was given contradicts.
        if label in stated and denied[label].label in vocabulary.exclusive.get(label, ()):
            del denied[label]
    for label, statement in denied.items():
        return Fault(RewriteFault.NEGATED, f"{statement.text!r} contradicts {_plain(label)!r}")
    for label in sorted(labels - stated):
        return Fault(RewriteFault.MISSING, f"{_plain(label)!r} is not stated")
    for statement in added:
        return Fault(RewriteFault.ADDED, f"{statement.text!r} was not given")
    return None


BEARDS = frozenset({"Beard", "Facial_Hair"})


def _as_label(statement: Statement) -> Statement:
    """A denied beard is No_Beard, and denied hair is Bald."""
    if statement.sign < 0:
        if statement.label in BEARDS:
            return statement._replace(label="No_Beard", sign=1)
        if statement.label == "Hair":
            return statement._replace(label="Bald", sign=1)
    return statement


def _plain(label: str) -> str:
    return label.replace("_", " ").lower()


def _inventions(tokens: Sequence[Token], reading: Reading) -> Fault | None:
    for invention in reading.inventions:
        if invention.fault is RewriteFault.ADDED:
            return Fault(RewriteFault.ADDED, f"{invention.text!r} was not given")
    for invention in reading.inventions:
        return Fault(RewriteFault.BEYOND, f"{invention.text!r} is a guess beyond the labels")
    for token in tokens:
        if not token.word.known:
            return Fault(RewriteFault.ADDED, f"{token.text!r} was not given")
    return None
