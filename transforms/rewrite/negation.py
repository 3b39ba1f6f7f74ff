"""What a negator reaches."""

from __future__ import annotations

from collections.abc import Sequence

from facecap.transforms.rewrite.noun_phrase import BREAKS, DEFINITE, phrase_start
from facecap.transforms.rewrite.tokens import Token

EXCUSED = -2
"""In place of a count: the word is said only to be denied, and that denies nothing else."""


def negations(tokens: Sequence[Token]) -> list[int] | None:
    """How many negators reach each token, or EXCUSED; None where the text has none."""
    if not any(token.word.negator or token.text in ("free", "little") for token in tokens):
        return None
    reach = [0] * len(tokens)
    excused: list[int] = []
    for at, token in enumerate(tokens):
        kind = token.word.negator
        if not kind and token.text != "little":
            continue
        if kind != "absent" and (verb := _verb_of_hiding(tokens, at)) >= 0:
            excused.append(verb)
            continue
        if not kind or at in excused or _goes_unnoticed(tokens, at):
            continue
        if token.text == "nowhere" and _starts_clause(tokens, at):
            kind = "not"
        if kind == "absent":
            if token.text != "hidden" or not _is_of_forehead(tokens, at):
                _deny_subject(tokens, at, reach)
            continue
        end = _scope_end(tokens, at, kind)
        if kind == "no" and end < len(tokens) and tokens[end].word.conceals:
            excused.append(end)
        if token.text in ("not", "none") and _is_empty(tokens[at + 1 : end]):
            _deny_noun(tokens, at, reach)
        sign = token.text == "no" and at + 1 < end and tokens[at + 1].text in SIGNS
        if sign and _is_empty(tokens[at + 1 : end]):
            _deny_noun(tokens, at, reach)  # "of a beard there is no sign"
        for place in range(at + 1, end):
            reach[place] += 1
        if kind == "not" and any(t.word.existential for t in tokens[at + 1 : at + 4]):
            _deny_subject(tokens, at, reach)
    for at in range(len(tokens) - 1):  # "glasses-free"
        if tokens[at + 1].text == "free" and tokens[at + 1].glued:
            reach[at] += 1
    for at in excused:
        reach[at] = EXCUSED
    return reach


def _verb_of_hiding(tokens: Sequence[Token], at: int) -> int:
    """The place of the verb of hiding that the negator at `at` denies ("do not hide the bags",
    "nothing to conceal"); -1: none."""
    either = tokens[at].text in ("neither", "nor")  # "neither her smile nor her hat hides"
    if tokens[at].text == "not" and at + 1 < len(tokens):
        either = tokens[at + 1].text == "even"  # "not even her glasses hide"
    for place in range(at + 1, len(tokens) if either else min(at + 5, len(tokens))):
        token = tokens[place]
        if token.word.conceals:
            return place
        if either and token.word.pos not in BREAKS:
            continue
        if token.text != "to" and token.word.pos not in ("adverb", "verb", "copula", "adjective"):
            return -1
    return -1


UNNOTICED = frozenset({"unnoticed", "overlooked", "missed", "ignored", "unseen", "mistaken"}) | {
    *("deny", "doubt", "miss", "overlook", "escape", "escapes", "denying", "missing_it"),
    *("could miss", "can miss", "not miss", "would miss", "will miss", "to miss", "ignore"),
    *("could fail", "can fail"),
}


def _goes_unnoticed(tokens: Sequence[Token], at: int) -> bool:
    """Whether what the negator at `at` denies is that something escapes notice."""
    for token in tokens[at + 1 :]:
        if token.word.pos in BREAKS or token.word.pos == "contrast":
            return False
        if token.text in UNNOTICED:
            return True
    return False


SIGNS = frozenset({"sign", "signs", "trace", "traces", "hint", "evidence", "bit"})


def _is_of_forehead(tokens: Sequence[Token], at: int) -> bool:
    """Whether it is the forehead that is hidden: bangs do so."""
    nouns = [token.word.feature for token in tokens[:at] if token.word.feature]
    return bool(nouns) and nouns[-1] == "forehead"


def _starts_clause(tokens: Sequence[Token], at: int) -> bool:
    return at == 0 or tokens[at - 1].word.pos in BREAKS


def _is_empty(scope: Sequence[Token]) -> bool:
    """Whether nothing that could be denied follows: "his glasses are not", "a beard he does not
    have"."""
    return not any(
        t.word.feature or t.word.outcome or t.word.readings or t.word.existential or t.text == "one"
        for t in scope
    )


def _deny_noun(tokens: Sequence[Token], at: int, reach: list[int]) -> None:
    place = at - 1
    while place >= 0 and tokens[place].word.pos not in BREAKS:
        if tokens[place].word.feature:
            for noun in range(phrase_start(tokens, place), place + 1):
                reach[noun] += 1
            return
        place -= 1


def _deny_subject(tokens: Sequence[Token], at: int, reach: list[int]) -> None:
    place = at - 1
    while place >= 0 and tokens[place].word.pos not in BREAKS:
        if tokens[place].word.pos in (",", "contrast"):
            break
        reach[place] += 1
        place -= 1


def _scope_end(tokens: Sequence[Token], at: int, kind: str) -> int:
    """The place behind the last token that the negator at `at` reaches."""
    crossed = False
    for place in range(at + 1, len(tokens)):
        word, text = tokens[place].word, tokens[place].text
        pos = word.pos
        if pos == "subject" and tokens[place - 1].text in SAYING and place > at + 1:
            continue  # "nobody would say he wears a hat"
        if pos in BREAKS or pos == "contrast" or pos == "subject":
            return place
        if text == "with" or (kind == "no" and word.conceals and place > at + 1):
            return place  # "no beard hides his double chin"
        if pos in ("verb", "copula") and (crossed or kind != "not") and place > at + 1:
            return place
        definite = (pos == "possessive" and text != "'s") or text in DEFINITE
        if definite and place > at + 2 and tokens[place - 1].word.feature:
            return place  # "bare of any beard the chin"
        if definite and tokens[place - 1].word.pos == "preposition" and place > at + 2:
            return place  # "no smile on her full lips": her lips are full
        if pos == "negator" and crossed and word.negator != "absent":
            return place
        if pos == ",":
            if kind == "rather_than" or not _list_goes_on(tokens, place, kind):
                return place
            crossed = True
        elif pos == "conjunction":
            if not _next_is_listed(tokens, place, kind) or (
                text == "and" and _is_beard(tokens[at + 1 : place]) and _is_of_part(tokens, place)
            ):
                return place
            crossed = True
        elif kind == "rather_than" and word.feature:
            return place + 1
        elif text == "nor" and place > at + 1:
            return place
    return len(tokens)


BEARDS = frozenset({"Beard", "Facial_Hair", "5_o_Clock_Shadow"})


SAYING = frozenset({"say", "says", "suggest", "suggests", "indicates", "think", "claim", "that"})


def _is_beard(denied: Sequence[Token]) -> bool:
    """Whether a beard alone is denied: who has none may well have what every face has."""
    features = [token.word.feature for token in denied if token.word.feature]
    return len(features) == 1 and features[0] in BEARDS


def _is_of_part(tokens: Sequence[Token], conjunction: int) -> bool:
    """Whether behind the conjunction stands an adjective with a part that every face has."""
    described = False
    for token in tokens[conjunction + 1 :]:
        if token.word.feature:
            return described and token.word.feature == token.word.feature.lower()
        described = described or token.word.readings is not None
        if token.word.readings is None and token.word.pos not in INSIDE:
            return False
    return False


INSIDE = frozenset({"determiner", "adjective", "adverb", ",", "conjunction"})


def _list_goes_on(tokens: Sequence[Token], comma: int, kind: str) -> bool:
    """Whether the list that the comma stands in is denied as a whole."""
    after = comma + 1
    if after < len(tokens) and tokens[after].word.pos == "conjunction":
        if tokens[after].text == "and" and _is_clause(tokens, after + 1):
            return False
        return tokens[after].text == "or" or _next_is_listed(tokens, after, kind)
    if after < len(tokens) and _starts_anew(tokens[after]):
        return False
    for place in range(after, len(tokens)):
        token = tokens[place]
        if token.text in ("or", "nor"):
            return True
        if token.text == "and":
            return kind == "without"
        if token.word.pos in BREAKS or _starts_anew(token):
            return False
    return False


def _is_clause(tokens: Sequence[Token], start: int) -> bool:
    """Whether a noun with a verb of its own starts here: ", and a smile is there"."""
    for token in tokens[start:]:
        if token.word.pos == "copula":
            return True
        inside = token.word.feature or token.word.readings is not None
        if not inside and token.word.pos not in INSIDE - {",", "conjunction"}:
            return False
    return False


def _next_is_listed(tokens: Sequence[Token], conjunction: int, kind: str) -> bool:
    after = conjunction + 1
    if after >= len(tokens):
        return False
    text = tokens[conjunction].text
    if text == "or":
        return tokens[after].word.pos not in ("subject", "possessive", "negator")
    if kind in ("no", "rather_than") or text != "and":
        return False
    token = tokens[after]
    return not _starts_anew(token)


def _starts_anew(token: Token) -> bool:
    """Whether a new clause or a phrase of its own starts here."""
    pos = token.word.pos
    return (
        pos in ("subject", "possessive", "verb", "copula", "contrast", "negator", "preposition")
        or (pos == "participle" or token.text in ("wearing", "smiling", "grinning"))
        or token.text == "with"
    )
