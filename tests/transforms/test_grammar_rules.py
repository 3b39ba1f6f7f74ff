import random

import pytest

from facecap.transforms.grammar_rules import (
    Alternative,
    Phrase,
    Shape,
    pick,
    pick_fresh,
    plain_words,
)


def test_pick_follows_the_weights() -> None:
    rng = random.Random(0)
    drawn = [pick("ab", (3, 1), rng) for _ in range(4000)]
    assert 0.72 < drawn.count("a") / 4000 < 0.78


def test_what_was_used_is_less_likely() -> None:
    items, rng = (Alternative("a", 1), Alternative("b", 1)), random.Random(0)
    drawn = [pick_fresh(items, {"a"}, rng).text for _ in range(2000)]
    assert 0.05 < drawn.count("a") / 2000 < 0.14
    used: set[str] = set()
    assert used == set() and {pick_fresh(items, used, rng).text} == used


def test_marks_are_taken_off() -> None:
    assert plain_words("{a} [Big_Nose:big], [Pointy_Nose:pointed] nose") == "{a} big, pointed nose"


SHORT = Shape("has", frozenset({"beard"}), long=False, has_with=False)
LONG = SHORT._replace(long=True)
WITH = SHORT._replace(has_with=True)


@pytest.mark.parametrize(
    ("alternative", "refused"),
    [
        (Alternative("{have} {has}", 1), []),
        (Alternative("{have} {has} and {are} {is}", 1), [LONG]),
        (Alternative("{have} {has}, and {they} {are} {is}", 1), []),
        (Alternative("{a} {noun} with {has}", 1), [WITH]),
        (Alternative("{has}", 1, topics=frozenset({"hair"})), [SHORT, LONG, WITH]),
        (Alternative("{has}", 1, topics=frozenset({"beard", "hair"})), []),
        (Alternative("{has}", 1, many=True), [SHORT, WITH]),
        (Alternative("{does}", 1, many=True, topics=frozenset({"hair"})), []),
    ],
)
def test_which_lists_a_sentence_takes(alternative: Alternative, refused: list[Shape]) -> None:
    for shape in (SHORT, LONG, WITH):
        assert alternative.suits((shape,)) == (shape not in refused)


def test_a_clause_can_follow_whose() -> None:
    assert Alternative("{a} {noun} {whose}", 1).holes == {"clause"}


@pytest.mark.parametrize(
    ("kind", "hedge", "sure", "doubtful"),
    [
        ("has", "", True, True),
        ("has", "never", True, False),
        ("clause", "", True, False),
        ("clause", "self", False, True),
    ],
)
def test_hedged_phrases(kind: str, hedge: str, sure: bool, doubtful: bool) -> None:
    phrase = Phrase(kind, "", frozenset(), 1, frozenset({"man"}), hedge)
    assert (phrase.fits("man", False), phrase.fits("man", True)) == (sure, doubtful)
    assert not phrase.fits("woman", False) and not phrase.fits("woman", True)
