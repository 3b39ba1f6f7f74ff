"""What an adjective is said of: the part of the face that it stands before, or its subject."""

from __future__ import annotations

from collections.abc import Sequence

from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite.lexicon import Outcome, Vocabulary
from facecap.transforms.rewrite.noun_phrase import (
    BREAKS,
    is_noun,
    is_possessor,
)
from facecap.transforms.rewrite.subject import joined_subjects, so_is, subject_before
from facecap.transforms.rewrite.tokens import Token


def bind(tokens: Sequence[Token], at: int, vocabulary: Vocabulary) -> tuple[Outcome, int]:
    """What the adjective at `at` says, and the place of what it says it of (-1: the person)."""
    word = tokens[at].word
    readings = word.readings or {}
    fronted = _fronted(tokens, at)
    if fronted >= 0 and (outcome := reading_of(tokens, at, fronted, vocabulary)):
        return outcome, fronted
    if fronted >= 0 and word.outcome is None and not word.neutral and "any" not in readings:
        return readings.get("every", INVENTED), fronted
    right, crossed = _noun_after(tokens, at)
    left, direct = subject_before(tokens, at)
    attributive = right >= 0 and crossed == NEXT
    if not attributive and _of_the_looks(tokens, at):
        alone = readings.get("face") or readings.get("any")
        if alone is not None:
            return alone, -1
    places = [right] if attributive else [right, left]
    if direct and (crossed == BEHIND_AND or _follows_verb(tokens, at)):
        places.reverse()
    empty = -1
    for place in places:
        if place >= 0 and (outcome := reading_of(tokens, at, place, vocabulary)):
            if outcome.labels or outcome.fault:
                return outcome, place
            empty = place
    if empty >= 0 and not attributive and left < 0:
        # "Full and covered with lipstick, her lips": not the lipstick is full.
        other = _nearest_fit(tokens, at, vocabulary, stating=True)
        if other >= 0 and (outcome := reading_of(tokens, at, other, vocabulary)):
            return outcome, other
    if empty >= 0:
        return NOTHING, empty
    if attributive:
        place = right
        if "every" in readings:
            return readings["every"], place
    else:
        place = left
        alone = readings.get("any")
        if alone is not None and alone.labels and not (direct and _is_part(tokens, left, at)):
            return alone, -1
        if "every" in readings:
            return readings["every"], place
        if not direct:
            # Nothing that it clearly belongs to: whatever of the sentence it can be said of.
            other = _nearest_fit(tokens, at, vocabulary, stating=left < 0)
            if other < 0:
                other = _nearest_fit(tokens, at, vocabulary)
            if other >= 0 and (outcome := reading_of(tokens, at, other, vocabulary)):
                return outcome, other
        if alone is not None and not alone.labels:
            return alone, -1
    if word.outcome is not None:
        return word.outcome, place
    harmless = word.neutral and not (attributive and word.pos in ("participle", "verb"))
    return (NOTHING if harmless else INVENTED), place


def _fronted(tokens: Sequence[Token], at: int) -> int:
    """The subject of "large is the nose, and large are the lips"; -1: none."""
    if at + 1 >= len(tokens) or tokens[at + 1].word.pos != "copula":
        return -1
    if at > 0 and tokens[at - 1].word.pos not in FRONT:
        return -1
    for place in range(at + 2, min(at + 6, len(tokens))):
        if is_noun(tokens[place]) and not is_possessor(tokens, place):
            return place
        if tokens[place].word.pos not in ("determiner", "possessive", "adjective"):
            return -1
    return -1


FRONT = BREAKS | {",", "conjunction"}


LOOKS = frozenset({"features", "appearance", "look", "looks", "appeal"})


def _of_the_looks(tokens: Sequence[Token], at: int) -> bool:
    """Whether the adjective is said of the looks as a whole: "chubby features"."""
    place = at + 1
    while place < len(tokens) and tokens[place].word.pos in ("adjective", "adverb"):
        place += 1
    return place < len(tokens) and tokens[place].text in LOOKS


def _follows_verb(tokens: Sequence[Token], at: int) -> bool:
    """Whether nothing but adverbs stands between the adjective and what it is joined to."""
    place = at - 1
    while place >= 0 and tokens[place].word.pos == "adverb":
        place -= 1
    return place >= 0 and tokens[place].word.pos == "copula"


def _is_part(tokens: Sequence[Token], left: int, at: int) -> bool:
    """Whether the subject at `left` is a part of the face or a thing, and surely the subject."""
    if left < 0 or tokens[left].word.feature in ("person", "man", "woman", "face"):
        return False
    return not any(token.text == "," for token in tokens[left:at])


NOTHING, INVENTED = Outcome(), Outcome((), RewriteFault.ADDED)


def reading_of(
    tokens: Sequence[Token], at: int, place: int, vocabulary: Vocabulary
) -> Outcome | None:
    readings = tokens[at].word.readings or {}
    feature = tokens[place].word.feature
    found = readings.get(feature)
    if found is None and feature in vocabulary.same_values:
        found = readings.get(vocabulary.same_values[feature])
    if found is None and feature not in vocabulary.nouns:
        found = readings.get("things")
    return found


OF = frozenset({"of", "in", "to", "at", "on", "between", "across"})
JOINED = frozenset({"adjective", "adverb", "conjunction", ",", "transparent", "participle"})


NEXT, BEHIND_COMMA, BEHIND_AND = 0, 1, 2


def _noun_after(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """The noun that the adjective stands before (-1: none), and what stands between them: NEXT,
    BEHIND_COMMA (also a preposition) or BEHIND_AND."""
    crossed = NEXT
    for place in range(at + 1, min(at + 14, len(tokens))):
        token, before = tokens[place], tokens[place - 1]
        word = token.word
        if token.text in ("smiles", "grins"):
            return -1, crossed  # "a woman with skin like porcelain smiles"
        if word.feature:
            if before.word.pos in (",", "conjunction"):
                return -1, crossed  # "full, eyebrows bushy"
            if (
                word.pos == "noun"
                and token.text.endswith("ed")
                and not _compound(tokens, at, place)
            ):
                continue  # "oval, pale-skinned face": oval is not the skin
            if crossed != NEXT and is_possessor(tokens, place):
                continue
            return place, crossed
        if word.pos == ",":
            crossed = max(crossed, BEHIND_COMMA)
        elif word.pos == "conjunction":
            crossed = BEHIND_AND
        elif word.pos == "participle" and (crossed or token.text.endswith("ing")):
            return -1, crossed
        elif word.pos == "preposition":
            crossed = max(crossed, BEHIND_COMMA)
            if token.text not in OF or (before.word.readings is None and not _empty(before)):
                return -1, crossed
        elif token.text == "'s" and before.word.feature:
            continue
        elif word.pos in ("determiner", "possessive") and token.text != "'s":
            if before.word.pos != "preposition" and place != at + 1:
                return -1, crossed
        elif word.pos not in JOINED and word.readings is None:
            return -1, crossed
    return -1, crossed


def _empty(token: Token) -> bool:
    return token.word.pos in ("transparent", "adverb")


def _compound(tokens: Sequence[Token], at: int, place: int) -> bool:
    """Whether the adjective is a part of the compound that ends at `place`: "brown-haired"."""
    return place == at + 1 or all(
        tokens[k].glued or tokens[k].word.readings is not None for k in range(at + 1, place)
    )


def _nearest_fit(
    tokens: Sequence[Token], at: int, vocabulary: Vocabulary, stating: bool = False
) -> int:
    """The place of the nearest noun of which the adjective says something (`stating`: a label),
    in the sentence or, where that has none, in the one before or behind a colon."""
    start, end = _sentence_start(tokens, at), _sentence_end(tokens, at)
    stretches = [range(start, end)]
    if start > 0 and not stating:
        stretches.append(range(_sentence_start(tokens, start - 1), start))
    if end < len(tokens) and tokens[end].text == ":":
        stretches.append(range(end + 1, _sentence_end(tokens, end + 1)))
    for stretch in stretches:
        for place in sorted(stretch, key=lambda place: abs(place - at)):
            if tokens[place].word.feature and not is_possessor(tokens, place):
                outcome = reading_of(tokens, at, place, vocabulary)
                if outcome is None or outcome.fault is not None:
                    continue
                if outcome.labels or not stating:
                    return place
    return -1


def _sentence_end(tokens: Sequence[Token], at: int) -> int:
    while at < len(tokens) and tokens[at].word.pos not in BREAKS:
        at += 1
    return at


def _sentence_start(tokens: Sequence[Token], at: int) -> int:
    while at > 0 and tokens[at - 1].word.pos not in BREAKS:
        at -= 1
    return at


# ---- what else the adjective is said of


def also_said_of(
    tokens: Sequence[Token], at: int, place: int, vocabulary: Vocabulary
) -> list[tuple[Outcome, int]]:
    """What the adjective at `at`, said of the noun at `place`, says of others: "her nose and her
    lips are large", "her nose is large, and so are her lips"."""
    joined = joined_subjects(tokens, at, place) if place < at else _both(tokens, at, place)
    nouns = [*joined, *so_is(tokens, at)]
    word = tokens[at].word
    empty = word.neutral or "every" in (word.readings or {})
    other = NOTHING if empty else INVENTED
    return [(reading_of(tokens, at, noun, vocabulary) or other, noun) for noun in nouns]


def _both(tokens: Sequence[Token], at: int, place: int) -> list[int]:
    """The second noun of "big in both nose and lips", whose first is at `place`."""
    if tokens[at + 1].text not in ("of", "in") or place + 2 >= len(tokens):
        return []
    second = place + 2
    if tokens[second].word.pos == "possessive":
        second += 1
    joined = tokens[place + 1].text in ("and", "as well as") and second < len(tokens)
    return [second] if joined and is_noun(tokens[second]) else []
