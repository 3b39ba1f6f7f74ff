"""The subject of an adjective: the noun before it, and what is its subject besides."""

from __future__ import annotations

from collections.abc import Sequence

from facecap.transforms.rewrite.noun_phrase import (
    BREAKS,
    PEOPLE,
    RELATIVE,
    is_noun,
    is_object,
    is_possessor,
    phrase_start,
)
from facecap.transforms.rewrite.tokens import Token

PASSED_LEFT = frozenset(
    {"adjective", "adverb", "conjunction", ",", "determiner", "transparent"}
) | {"negator"}


def subject_before(tokens: Sequence[Token], at: int) -> tuple[int, bool]:
    """The noun before the adjective that it is said of (-1: none), and whether only a verb that
    joins them, or nothing, stands between."""
    place = at - 1
    if place > 0 and tokens[place].text == "as" and tokens[place - 1].word.pos == "copula":
        place -= 1  # "are as big as"
    article = listed = False
    while place >= 0:
        word = tokens[place].word
        listed = listed or word.pos in (",", "conjunction")
        if is_noun(tokens[place]) or (
            not word.feature and word.pos not in PASSED_LEFT and word.readings is None
        ):
            break
        article = article or word.pos == "determiner"
        place -= 1
    if place < 0 or tokens[place].word.pos in BREAKS:
        return -1, False
    if tokens[place].word.feature:
        # "hair and full lips" starts another phrase; "hair, black and wavy" may.
        after = tokens[place + 1].word.pos
        if after == "determiner" and not is_object(tokens, place):
            return place, True  # "her eyebrows form an arch, her nose a point"
        return (-1, False) if article or after == "conjunction" else (place, after != ",")
    described = -1 if listed else _described(tokens, place)
    if described >= 0:
        return described, True
    return _subject_of_clause(tokens, at, place)


def _subject_of_clause(tokens: Sequence[Token], at: int, verb: int) -> tuple[int, bool]:
    """As `subject_before`, of the adjective at `at` behind the verb (or other word) at `verb`."""
    place = verb
    direct = tokens[place].word.pos == "copula"
    aside = direct and tokens[place - 1].text == ","
    if aside:
        place = _before_aside(tokens, place)
    inside = -1
    relative = False
    while place >= 0 and tokens[place].word.pos not in BREAKS:
        word = tokens[place].word
        if tokens[place].text == "who":
            return -1, direct
        if (head := _relative_head(tokens, place, at)) >= 0:
            return head, direct
        if tokens[place].text in RELATIVE:
            relative = True
        elif word.feature:
            if relative or not is_object(tokens, place):
                return place, direct
            if inside < 0:
                inside = place
        elif tokens[place].text == "it" and place == verb - 1:
            return -1, False
        elif word.pos == "subject":
            # "He is pale" is said of him; what "they" or "it" means is not known.
            if tokens[place].text in ("he", "she"):
                return -1, direct
            if tokens[place].text == "they":
                return -1, False
            break
        elif word.pos in ("noun", "transparent") and inside >= 0:
            break  # "the tip of the nose"
        place -= 1
    return inside, direct


def _before_aside(tokens: Sequence[Token], verb: int) -> int:
    """The place before the clause between commas that ends at the verb: "the hair of the person,
    who wears glasses, is"; the verb's own where there is none."""
    for place in range(verb - 2, 0, -1):
        if tokens[place].word.pos in BREAKS:
            break
        if tokens[place].text in ("who", "whose", "which") and tokens[place - 1].text == ",":
            return place - 2
    return verb


def _relative_head(tokens: Sequence[Token], subject: int, at: int) -> int:
    """The noun that a clause with the subject at `subject` tells of, where another verb stands
    behind that clause: "the hair (that) he has is"; -1: none."""
    word = tokens[subject].word
    if word.pos != "subject" and word.feature not in PEOPLE:
        return -1
    verbs = sum(t.word.pos in VERBS or t.text in HAVING for t in tokens[subject + 1 : at])
    before = (phrase_start(tokens, subject) if word.feature else subject) - 1
    if before > 0 and tokens[before].text in RELATIVE:
        before -= 1
    thing = before >= 0 and is_noun(tokens[before]) and tokens[before].word.feature not in PEOPLE
    return before if thing and verbs >= 2 else -1


VERBS = frozenset({"verb", "copula", "participle"})
HAVING = frozenset({"wears", "wearing", "applied"})


def _described(tokens: Sequence[Token], at: int) -> int:
    """The noun that the preposition at `at` follows: "hair of a black color", "hair in a shade of
    brown"; -1: none."""
    while at > 0 and (tokens[at].word.pos == "preposition" or tokens[at].text == "with"):
        at -= 1
        if tokens[at].word.feature:
            return at
        while at > 0 and (tokens[at].word.pos == "participle" or tokens[at].word.readings):
            at -= 1  # "cheeks tinged with pink"
            if is_noun(tokens[at]):
                return at
        if tokens[at].word.pos != "transparent":
            return -1
        while at > 0 and tokens[at].word.pos in ("transparent", "determiner", "adjective"):
            at -= 1
    return -1


# ---- more than one subject

SINGULAR = frozenset({"is", "was", "looks", "seems", "appears", "remains"})
CLAUSE_START = BREAKS | {",", "conjunction", "contrast", "adverb"}


def joined_subjects(tokens: Sequence[Token], at: int, place: int) -> list[int]:
    """The nouns that are the subject of a verb in the plural together with the one at `place`."""
    between = tokens[place + 1 : at]
    plural = any(t.word.pos == "copula" and t.text not in SINGULAR for t in between)
    if not plural or any(t.text in RELATIVE or t.word.pos in ("contrast", ",") for t in between):
        return []
    found: list[int] = []
    start = phrase_start(tokens, place)
    if tokens[start - 1].word.pos != "conjunction":
        return []
    # ", and" starts a clause, unless it is the last of a list
    listed = start > 1 and tokens[start - 2].text == ","
    while start > 1 and tokens[start - 1].word.pos in ("conjunction", ","):
        loose = tokens[start - 1].text == "," and not listed
        before = start - 1
        while before > 0 and tokens[before].word.pos in ("conjunction", ",", "adverb"):
            before -= 1
        start = phrase_start(tokens, before)
        noun = is_noun(tokens[before]) and tokens[before].word.feature not in PEOPLE
        if not noun or (start > 0 and tokens[start - 1].word.pos not in CLAUSE_START):
            return found if loose else []
        found.append(before)
    return found if len(found) > listed else []


SO = frozenset({"so", "and so", "as"})
AS_IS = frozenset({"as is", "as are"})


def so_is(tokens: Sequence[Token], at: int) -> list[int]:
    """The noun behind "so are", "as is" or "the same is true of", where the adjective at `at` is
    the last before it."""
    for place in range(at + 1, len(tokens) - 1):
        token, after = tokens[place], tokens[place + 1]
        if token.word.pos in BREAKS and token.text != ";":
            return []
        if token.word.pos in ("copula", "verb"):
            return []  # "is blurry, but a hat can be seen, as can"
        if token.text == "," and (noun := _noun_too(tokens, place)) >= 0:
            return [noun]
        if place == at + 1 and token.text == "as" == tokens[at - 1].text:
            return _compared(tokens, place)
        same = token.text == "same" and tokens[place - 1].text == "the"
        if (
            same
            or (token.text in SO and after.word.pos in ("copula", "verb"))
            or token.text in AS_IS
        ):
            for noun in range(place + 1, min(place + 8, len(tokens))):
                if is_noun(tokens[noun]) and not is_possessor(tokens, noun):
                    return [noun]
                if tokens[noun].word.pos in (",", "subject", "conjunction") or (
                    tokens[noun].word.readings is not None
                ):
                    return []
        elif token.word.readings is not None and not token.word.feature:
            return []
    return []


def _compared(tokens: Sequence[Token], start: int) -> list[int]:
    """The noun of "as big as her nose", unless it has a verb of its own."""
    for noun in range(start + 1, min(start + 4, len(tokens))):
        if is_noun(tokens[noun]) and not is_possessor(tokens, noun):
            own = noun + 1 < len(tokens) and tokens[noun + 1].word.pos in ("copula", "verb")
            return [] if own else [noun]
    return []


TOO = frozenset({"too", "also", "as well", "likewise"})


def _noun_too(tokens: Sequence[Token], comma: int) -> int:
    """The noun of "her nose is big, her lips too"; -1: none."""
    for noun in range(comma + 1, min(comma + 4, len(tokens) - 1)):
        if is_noun(tokens[noun]):
            end = noun + 2
            ends = end >= len(tokens) or tokens[end].word.pos in CLAUSE_START | {"contrast"}
            thing = tokens[noun].word.feature not in PEOPLE
            return noun if thing and ends and tokens[noun + 1].text in TOO else -1
        if tokens[noun].word.pos not in ("conjunction", "determiner", "possessive"):
            return -1
    return -1
