"""Agreement that LanguageTool misses (breakages.py measures how often), by patterns over the words
that our captions are made of. It knows no other texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.captions.language_tool import Match

_SINGULAR_VERBS = r"(?:has|is|wears|looks|appears|seems|sports)"
_PLURAL_VERBS = r"(?:have|are|wear|look|appear|seem|sport)"
_PEOPLE = r"(?:man|woman|person|individual|subject|gentleman|lady)"
_PLURALS = r"(?:eyebrows|cheekbones|cheeks|eyes|lips|bangs|sideburns|earrings|eyeglasses|glasses)"
_VERBS = rf"(?:{_SINGULAR_VERBS}|{_PLURAL_VERBS}|also|still|with|without)\b"
_NOUNS = rf"(?:{_PLURALS}|nose|hair|face|hairline|mouth|chin|skin|goatee|mustache)"
_ITS = r"\b(?:her|his|their|the)(?: \w+)?"
_NO_PREPOSITION = "".join(
    f"(?<!\\b{word} )"
    for word in ("under", "beneath", "below", "behind", "over", "on", "with", "in")
)

PATTERNS = {
    "OUR_PERSON_VERB": rf"\b{_PEOPLE}(?: here| shown| pictured)? {_PLURAL_VERBS}\b",
    "OUR_PLURAL_VERB": rf"{_NO_PREPOSITION}{_ITS} {_PLURALS} {_SINGULAR_VERBS}\b",
    "OUR_SINGULAR_VERB": rf"{_ITS} (?:nose|hair|face|mouth) {_PLURAL_VERBS}\b",
    "OUR_PRONOUN": rf"\b(?:she|he|they) (?:{_NOUNS}|(?!{_VERBS})\w+ {_NOUNS})\b",
    "OUR_ARTICLE": rf"\ban? (?:\w+ )?{_PLURALS}\b",
    "OUR_NO_ARTICLE": r"\b(?:has|have|with|and) (?:pointed|pointy|oval|big) (?:nose|face)\b",
}
"""By the name of a rule, what it takes for an error."""

_COMPILED = {rule: re.compile(pattern, re.IGNORECASE) for rule, pattern in PATTERNS.items()}


def check(texts: Sequence[str]) -> list[Match]:
    """All matches of the patterns in `texts`, whatever the case of their letters."""
    return [
        Match(i, rule, "AGREEMENT", "grammar", found.start(), found.end(), "disagreement")
        for i, text in enumerate(texts)
        for rule, pattern in _COMPILED.items()
        for found in pattern.finditer(text)
    ]
