import pickle

import pytest

from facecap.transforms.grammar import load_grammar
from facecap.transforms.grammar_model import MAX_CACHED
from facecap.transforms.grammar_rules import PARTS, Shape

GRAMMAR = load_grammar()
PLAIN = {"long": False, "has_with": False}


def usable(topic: str, labels: set[str], person: str = "man", **more) -> list:
    phrases, weights = GRAMMAR.usable_phrases(topic, frozenset(labels), person, **more)
    assert len(phrases) == len(weights) > 0 and min(weights) > 0
    return list(phrases)


def test_phrases_state_nothing_else() -> None:
    labels = {"Wavy_Hair", "Brown_Hair", "Bangs", "Oval_Face"}
    found = usable("hairstyle", labels)
    assert all(phrase.labels <= labels for phrase in found)
    assert {frozenset({"Bangs"}), frozenset({"Wavy_Hair", "Brown_Hair"})} <= {
        phrase.labels for phrase in found
    }


def test_what_belongs_together_is_said_together() -> None:
    hair = {"Wavy_Hair", "Brown_Hair"}
    for phrase in usable("hairstyle", hair | {"Bangs"}):
        assert phrase.kind == "adjective" or not phrase.labels & hair or hair <= phrase.labels
    # Two colours cannot be one phrase: then each is said.
    assert usable("hairstyle", {"Black_Hair", "Brown_Hair"})


def test_phrases_are_limited_to_people() -> None:
    words = {p: {f.text for f in usable("beard", {"No_Beard"}, p)} for p in ("man", "woman")}
    assert "[No_Beard:clean-shaven]" in words["man"] - words["woman"]


def test_only_hedges_of_their_own_and_what_can_be_hedged() -> None:
    found = usable("hairstyle", {"Brown_Hair"}, doubt=True)
    assert {phrase.kind for phrase in found} == {"has", "clause"}
    assert all(phrase.hedge == "self" for phrase in found if phrase.kind == "clause")
    assert not any(phrase.hedge == "self" for phrase in usable("hairstyle", {"Brown_Hair"}))


@pytest.mark.parametrize("kind", PARTS)
def test_every_kind_can_be_said_alone_everywhere(kind: str) -> None:
    assert GRAMMAR.places((Shape(kind, frozenset(GRAMMAR.topics), True, True),)) == (True, True)


def test_some_sentences_can_only_be_first() -> None:
    shapes = tuple(Shape(kind, frozenset(), **PLAIN) for kind in ("has", "absolute"))
    assert GRAMMAR.places(shapes) == (True, False)


def test_frames_have_a_place_for_everything() -> None:
    kinds = frozenset({"has", "wears", "clause"})
    for rule in ("first", "later"):
        for frame in GRAMMAR.frames(rule, kinds):
            tail = frozenset({"clause"}) if frame.tail else frozenset()
            assert frame.alternative.holes | frame.rest | tail == kinds
    assert not any(frame.tail for frame in GRAMMAR.frames("opening", kinds))


def test_workers_get_no_caches() -> None:
    usable("hairstyle", {"Brown_Hair"})
    copy = pickle.loads(pickle.dumps(GRAMMAR))
    assert copy == GRAMMAR and "_choices" not in vars(copy) and "_choices" in vars(GRAMMAR)


def test_the_cache_is_bounded() -> None:
    grammar = load_grammar()
    full = {("x", frozenset[str](), str(i), (), False): ((), ()) for i in range(MAX_CACHED)}
    grammar._choices.update(full)
    grammar.usable_phrases("hairstyle", frozenset({"Bangs", "Bald"}), "man")
    assert len(grammar._choices) == 1
