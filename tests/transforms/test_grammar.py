import copy
import random
from pathlib import Path

import pytest
import yaml

from facecap.schemas.attributes import ATTRIBUTES
from facecap.transforms.grammar import (
    DEFAULT_GRAMMAR,
    GrammarError,
    load_grammar,
    parse_grammar,
    pick,
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
        (lambda d: d["rules"].pop("join"), "rule join: is missing"),
        (lambda d: d["rules"].update(join=["{one}"]), "rule join: '{one}' lacks {two}"),
        (lambda d: d["rules"].update(bare=["{noun} [Bald:b]"]), "rule bare: .* not state"),
        (lambda d: d["rules"].update(first=["{noun} {with}"]), "rule first: needs"),
        (lambda d: d["topics"]["person"].append("Bald"), "topics: Bald is in more"),
        (lambda d: d["topics"]["person"].append("Tall"), "topics: no rule can say Tall"),
        (lambda d: d["topics"].pop("worn"), "topics: Eyeglasses is said by a rule but"),
        (lambda d: d["conflicts"].append(["Bald", "Tall"]), "conflicts: Tall"),
        (lambda d: d["people"].pop("woman"), "people"),
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


def test_pick_follows_the_weights() -> None:
    rng = random.Random(0)
    drawn = [pick("ab", (3, 1), rng) for _ in range(4000)]
    assert 0.72 < drawn.count("a") / 4000 < 0.78


def test_the_phrase_that_states_most_is_preferred() -> None:
    grammar = load_grammar()
    for seed in range(50):
        phrase = grammar.draw_phrase({"Wavy_Hair", "Brown_Hair", "Bangs"}, random.Random(seed))
        assert phrase.labels == {"Wavy_Hair", "Brown_Hair", "Bangs"}
