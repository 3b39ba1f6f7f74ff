"""Captions broken on purpose in known ways, to see what a checker of grammar misses: a share of
wrong captions says little where it does not see what is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

EACH = 50


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is done once to a text that has `pattern`; `\\1` and `\\2` are its groups."""

    name: str
    pattern: str
    replacement: str

    def apply(self, text: str) -> str | None:
        """`text` broken; None where it cannot be."""
        broken, count = re.subn(self.pattern, self.replacement, text, count=1)
        return broken if count else None


BREAKAGES = (
    Breakage("he/she have", r"\b(he|she|He|She) has\b", r"\1 have"),
    Breakage("he/she are", r"\b(he|she|He|She) is\b", r"\1 are"),
    Breakage("he/she wear", r"\b(he|she|He|She) wears\b", r"\1 wear"),
    Breakage("they has", r"\b(they|They) have\b", r"\1 has"),
    Breakage("the man/woman/person have", r"\b(man|woman|person) has\b", r"\1 have"),
    Breakage("the man/woman/person are", r"\b(man|woman|person) is\b", r"\1 are"),
    Breakage("eyebrows/cheeks is", r"\b(eyebrows|cheekbones|cheeks|eyes) are\b", r"\1 is"),
    Breakage("an before a consonant", r"\ba ([bcdfgmnpstw])", r"an \1"),
    Breakage("a before a vowel", r"\ban ([aeio])", r"a \1"),
    Breakage("no article before a noun", r"\b(has|have) an? ([^.,]*?nose)", r"\1 \2"),
    Breakage(
        "article before a plural", r"\b(has|have) ([a-z]+ (?:eyebrows|cheekbones))", r"\1 a \2"
    ),
    Breakage("a word twice", r"\b(with|has|and|wears) ", r"\1 \1 "),
    Breakage("a word misspelt", r"\b(eyebrow|cheekbone|earring|lipstic)", r"x\1"),
    Breakage("a small letter after a full stop", r"\. S(?=he)", ". s"),
    Breakage("she for her", r"\bher (?=\w)", "she "),
)


def broken(texts: Sequence[str], each: int = EACH) -> dict[str, list[str]]:
    """By breakage: the first `each` of `texts` that it applies to, broken once."""
    found: dict[str, list[str]] = {}
    for breakage in BREAKAGES:
        made = [b for text in texts if (b := breakage.apply(text)) is not None][:each]
        if made:
            found[breakage.name] = made
    return found
