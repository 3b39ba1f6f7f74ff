import copy
from pathlib import Path

import pytest
import yaml

from facecap.schemas.attributes import ATTRIBUTES
from facecap.transforms.grammar import (
    DEFAULT_GRAMMAR,
    GrammarError,
    load_grammar,
    parse_grammar,
)

DATA = yaml.safe_load(DEFAULT_GRAMMAR.read_text(encoding="utf-8"))


def changed(change) -> dict:
    data = copy.deepcopy(DATA)
    change(data)
    return data


def test_the_default_grammar_has_words_for_all_40() -> None:
    grammar = load_grammar()
    assert grammar.labels | {"Male"} == set(ATTRIBUTES)
    assert grammar.realisations().keys() == grammar.labels


def test_no_two_labels_share_a_wording() -> None:
    words = [word for words in load_grammar().realisations().values() for word in words]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("verbs"), "sections"),
        (lambda d: d["rules"].update(spare=["[Bald:bald]"]), "rule spare: is never used"),
        (lambda d: d["rules"]["has"].append("<hare>"), "rule has: <hare> is not defined"),
        (lambda d: d["rules"].update(colour=[]), "rule colour: must be a list"),
        (lambda d: d["rules"]["is"].append(" "), "rule is: ' ' is neither"),
        (
            lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "weight": 0}),
            "rule is: the weight",
        ),
        (
            lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "weight": -1}),
            "rule is: the weigh",
        ),
        (
            lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "weihgt": 1}),
            "rule is: .* neither",
        ),
        (lambda d: d["rules"]["is"].append("nice"), "rule is: 'nice' states no label"),
        (lambda d: d["rules"]["is"].append("[Bald:bald"), "rule is: unbalanced"),
        (lambda d: d["rules"]["is"].append("{it} [Bald:bald]"), "rule is: unknown slot {it}"),
        (lambda d: d["rules"]["is"].append("[Bald:a] [Bald:b]"), "rule is: .* twice"),
        (lambda d: d["rules"]["is"].append("<colour> [Black_Hair:b]"), "rule is: .* twice"),
        (lambda d: d["rules"]["hair"].append("<hair>"), "rule hair: is made of itself"),
        (lambda d: d["rules"].pop("pair"), "rule pair: is missing"),
        (lambda d: d["rules"].update(pair=["{one}"]), "rule pair: '{one}' lacks {two}"),
        (lambda d: d["rules"].update(camera=["[Bald:b]"]), "rule camera: .* not state"),
        (lambda d: d["rules"]["is"].append("[Bald:{they}]"), "rule is: {they} is no verb"),
        (lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "people": "man"}), "list of names"),
        (
            lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "people": ["boy"]}),
            "rule is: .* unknown people, boy",
        ),
        (
            lambda d: d["rules"]["later"].append({"say": "{has}", "topics": ["feet"]}),
            "rule later: .* unknown topic, feet",
        ),
        (
            lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "topics": ["beard"]}),
            "rule is: .* no place for phrases",
        ),
        (
            lambda d: d["rules"]["is"].append({"say": "[Bald:x]", "hedge": "yes"}),
            "rule is: hedge of .* must be self or never",
        ),
        (
            lambda d: d["rules"]["vp"].append({"say": "{have} {has}", "many": "yes"}),
            "rule vp: many of .* must be true or false",
        ),
        (
            lambda d: d["rules"]["vp"].append(
                {"say": "{have} {has} {wears} {does} {is}", "people": ["man"]}
            ),
            "rule vp: .* can never be used",
        ),
        (
            lambda d: d["rules"]["opening"].append("{a} {noun} with {has} {absolute} {wears} {is}"),
            "rule opening: .* can never be used",
        ),
        (lambda d: d["rules"].update(later=["{they} {vp}"]), "rule later: .*{clause} alone"),
        (
            lambda d: d["rules"].update(first=["the {noun} {vp}", "{clause}"]),
            "rule first: .*{clause} alone .* speaks of the {picture}",
        ),
        (
            lambda d: d["rules"].update(opening=["<shows> {a} {noun} with {has}"]),
            "rule opening: needs an alternative with {picture}",
        ),
        (lambda d: d["topics"]["elementary"].append("Bald"), "topics: Bald is in more"),
        (lambda d: d["topics"]["elementary"].append("Tall"), "topics: no rule can say Tall of a"),
        (lambda d: d["topics"].pop("photograph"), "topics: Blurry is said by a rule but"),
        (
            lambda d: d["rules"]["does"].remove(
                {"say": "{appear} to have [No_Beard:no] beard", "hedge": "self"}
            ),
            "topics: No_Beard of a woman cannot be hedged",
        ),
        (lambda d: d["conflicts"].append(["Bald", "Tall"]), "conflicts: Tall"),
        (lambda d: d["together"].append(["Bald", "Tall"]), "together: Tall"),
        (lambda d: d["avoid"].append("(a"), r"avoid: '\(a' is no regular expression"),
        (lambda d: d["people"].pop("woman"), "people: must be"),
        (lambda d: d["people"]["man"].update(plural="no"), "people.man.plural"),
        (lambda d: d["people"]["man"].pop("they"), "people.man: must have"),
    ],
)
def test_a_fault_is_named(change, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        parse_grammar(changed(change))


def test_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match=r"caption\.grammar: cannot read .*none\.yaml"):
        load_grammar(tmp_path / "none.yaml")
    for text, message in ((": [", "is not YAML"), ("- 1", "sections")):
        (tmp_path / "g.yaml").write_text(text)
        with pytest.raises(GrammarError, match=rf"g\.yaml.*{message}"):
            load_grammar(tmp_path / "g.yaml")


def test_the_hash_follows_the_file(tmp_path: Path) -> None:
    copied = tmp_path / "g.yaml"
    copied.write_bytes(DEFAULT_GRAMMAR.read_bytes())
    assert load_grammar(copied).sha256 == load_grammar().sha256
    copied.write_bytes(DEFAULT_GRAMMAR.read_bytes() + b"\n")
    assert load_grammar(copied).sha256 != load_grammar().sha256


def test_phrases_are_weighted_by_their_rules() -> None:
    phrases = {p.text: p for p in load_grammar().phrases["hairstyle"]}
    one, two = phrases["[Wavy_Hair:wavy] hair"], phrases["[Wavy_Hair:wavy] [Brown_Hair:brown] hair"]
    assert two.labels == {"Wavy_Hair", "Brown_Hair"} and two.weight == 3 * one.weight


def test_people_pass_down_to_phrases() -> None:
    (pair,) = [
        phrase
        for phrase in load_grammar().phrases["facial_features"]
        if phrase.text == "[Smiling:smiling], [No_Beard:clean-shaven]"
    ]
    assert pair.kind == "adjective" and pair.people == {"man", "person"}


def test_too_many_phrases_are_refused() -> None:
    def change(data: dict) -> None:
        data["rules"]["word"] = [f"word{i}" for i in range(150)]
        data["rules"]["is"].append("[Bald:bald] <word> <word>")

    with pytest.raises(GrammarError, match="rule is: over 20000 phrases"):
        parse_grammar(changed(change))
