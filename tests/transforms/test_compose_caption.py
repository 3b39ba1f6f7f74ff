import re
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec
from facecap.transforms.compose_caption import (
    NOT_CAREFUL,
    NOT_OF_MINORS,
    CaptionOptions,
    ComposeCaption,
    Composer,
    caption_face,
    choose_person,
)
from facecap.transforms.grammar import DEFAULT_GRAMMAR, load_grammar
from facecap.transforms.minors import minors_rule

GRAMMAR = load_grammar()
JUDGEMENTS = re.compile(
    r"\b(attractive|good-looking|chubby|double chin|(?:big|large)\b[^.]*\bnose|nose is big"
    r"|full lips|lips are full|pale)\b",
    re.I,
)
CONTRADICTIONS = [
    {"Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"},
    {"Straight_Hair", "Wavy_Hair"},
    *({"Bald", other} for other in ("Wavy_Hair", "Straight_Hair", "Bangs", "Black_Hair")),
    *({"No_Beard", other} for other in ("Goatee", "Mustache", "5_o_Clock_Shadow")),
]


def face(**probabilities: float) -> Face:
    """A face with these probabilities (0.3 for every other attribute), labelled over 0.85."""
    names = {name.replace("5", "Five"): name for name in ATTRIBUTES}
    values = np.full(40, 0.3, np.float32)
    for name, value in probabilities.items():
        values[ATTRIBUTES.index(names[name])] = value
    labels = tuple(n for n, v in zip(ATTRIBUTES, values, strict=True) if v > np.float32(0.85))
    return Face(0, (0, 0, 9, 9), 1.0, ((0, 0),) * 5, probabilities=values, labels=labels)


def caption(one: Face, key: str = "000000000000_00", **settings) -> Face:
    return caption_face(one, key, Composer(CaptionOptions(**settings), GRAMMAR))


def text(one: Face) -> str:
    """Its first caption."""
    return one.captions[0].raw


def stated(one: Face) -> tuple[str, ...]:
    return one.captions[0].stated


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=40, max_size=40),
    st.sampled_from(["careful", "paper"]),
    st.sampled_from(["inferred", "neutral"]),
)
def test_what_is_stated(values, policy: str, gender: str) -> None:
    probabilities = np.array(values, np.float32)
    labels = tuple(n for n, v in zip(ATTRIBUTES, values, strict=True) if v > 0.6)
    one = replace(face(), probabilities=probabilities, labels=labels)
    found = caption(one, policy=policy, gender=gender)
    assert found.labels == labels
    if found.drop:
        assert found.drop == Drop(Stage.CAPTION, Reason.NOTHING_TO_STATE)
        assert found.captions == ()
        return
    said = set(stated(found))
    assert said and said <= set(labels) and len(said) == len(stated(found))
    for exclusive in CONTRADICTIONS:
        assert len(said & exclusive) <= 1
    if policy == "careful":
        assert not said & NOT_CAREFUL
        assert not JUDGEMENTS.search(text(found)), text(found)
        assert "No_Beard" not in said or "Male" in labels
    male = probabilities[ATTRIBUTES.index("Male")]
    words = set(re.findall(r"[a-z]+", text(found).lower()))
    he, she = {"he", "his", "man"} & words, {"she", "her", "woman"} & words
    assert not he or (gender == "inferred" and male >= np.float32(0.85))
    assert not she or (gender == "inferred" and male <= np.float32(0.15))
    assert ("Male" in said) == ("Male" in labels and gender == "inferred" and male >= 0.85)
    assert not words & {"old", "elderly"}
    assert "No_Beard" in said or not words & {"no", "not", "shaven", "without"}


def test_of_contradicting_labels_the_most_probable_is_said() -> None:
    found = caption(face(Brown_Hair=0.9, Black_Hair=0.95, Wavy_Hair=0.9, Straight_Hair=0.86))
    assert set(stated(found)) == {"Black_Hair", "Wavy_Hair"}
    assert len(found.labels) == 4
    assert set(stated(caption(face(Bald=0.99, Bangs=0.9, Gray_Hair=0.9)))) == {"Bald"}
    assert set(stated(caption(face(Bald=0.9, Gray_Hair=0.99)))) == {"Gray_Hair"}


def test_the_paper_policy_states_what_the_careful_one_does_not() -> None:
    one = face(Attractive=0.9, Pale_Skin=0.9, No_Beard=0.9, Smiling=0.9)
    assert stated(caption(one)) == ("Smiling",)
    assert set(stated(caption(one, policy="paper"))) == set(one.labels)


@pytest.mark.parametrize("gender", ["inferred", "neutral"])
def test_facial_hair_is_not_said_of_a_woman_but_of_anybody_else(gender: str) -> None:
    hairy = {"Goatee": 0.9, "Sideburns": 0.9, "Smiling": 0.9}
    assert stated(caption(face(**hairy, Male=0.1), gender=gender)) == ("Smiling",)
    for male in (0.5, 0.95):
        assert {"Goatee", "Sideburns"} <= set(
            stated(caption(face(**hairy, Male=male), gender=gender))
        )
    assert "Goatee" in stated(caption(face(**hairy, Male=0.1), policy="paper"))


def test_nothing_to_state() -> None:
    found = caption(face(Attractive=0.99, No_Beard=0.9))
    assert found.drop == Drop(Stage.CAPTION, Reason.NOTHING_TO_STATE)
    assert caption(face(Male=0.9), gender="neutral").drop is not None
    assert stated(caption(face(Male=0.9))) == ("Male",)


@pytest.mark.parametrize(
    ("male", "person"),
    [(0.85, "man"), (0.849, "person"), (0.15, "woman"), (0.151, "person"), (None, "person")],
)
def test_person(male: float | None, person: str) -> None:
    stored = None if male is None else float(np.float32(male))
    assert choose_person(stored, "inferred") == person
    assert choose_person(stored, "neutral") == "person"


ONE = face(
    Male=0.95, Smiling=0.9, Brown_Hair=0.9, Wavy_Hair=0.9, Young=0.9, Oval_Face=0.9, Bangs=0.9
)


def test_key_and_seed_choose_the_words() -> None:
    keys = [f"000000{k:06d}_00" for k in range(50)]
    first = [text(caption(ONE, key)) for key in keys]
    assert first == [text(caption(ONE, key)) for key in keys]
    assert len(set(first)) >= 35
    assert sum(a == text(caption(ONE, k, seed=1)) for a, k in zip(first, keys, strict=True)) < 10


def test_batch_to_batch() -> None:
    bare = face(Attractive=0.9)
    sample = Sample(1007, "u", faces=(ONE, replace(bare, rank=1), replace(ONE, rank=2)))
    gone = Sample(1008, "u", drop=Drop(Stage.DOWNLOAD, Reason.DNS))
    batch = SampleBatch(ShardSpec(3, 1000, ()), (sample, gone))
    with beam.Pipeline("FnApiRunner") as pipeline:
        out = pipeline | beam.Create([batch]) | ComposeCaption(Composer(CaptionOptions(), GRAMMAR))

        def check(found) -> None:
            (one,) = found
            captions = [text(f) if f.captions else None for f in one.samples[0].faces]
            expected = [text(caption(ONE, f"000003000007_0{k}")) for k in (0, 2)]
            assert captions == [expected[0], None, expected[1]]
            assert one.samples[1] == gone

        assert_that(out, check)


def test_another_grammar_by_setting(tmp_path: Path) -> None:
    words = DEFAULT_GRAMMAR.read_text(encoding="utf-8").replace(":smiling]", ":beaming]")
    (tmp_path / "mine.yaml").write_text(words, encoding="utf-8")
    grammar = load_grammar(tmp_path / "mine.yaml")
    composer = Composer(CaptionOptions(), grammar)
    texts = [text(caption_face(ONE, str(k), composer)) for k in range(30)]
    assert any("beaming" in one for one in texts)


def test_several_captions_of_a_face_in_other_words() -> None:
    one = caption(ONE, per_face=5)
    assert len(one.captions) == 5 and len({c.raw for c in one.captions}) == 5
    for k in range(40):
        few = caption(face(Smiling=0.9, Male=0.9), str(k), per_face=3)
        assert len({c.raw for c in few.captions}) == 3
    assert all(set(c.stated) == set(stated(one)) for c in one.captions)
    assert one.captions[0] == caption(ONE).captions[0], "the first does not depend on their number"
    assert one.captions[:3] == caption(ONE, per_face=3).captions


def test_hedges_are_of_improbable_labels_only() -> None:
    sure, unsure = face(Smiling=0.99, Bangs=0.99), face(Smiling=0.99, Bangs=0.86)
    plain = [text(caption(one, str(k))) for one in (sure, unsure) for k in range(20)]
    same = [text(caption(sure, str(k), hedge_below=0.9)) for k in range(20)]
    hedged = [text(caption(unsure, str(k), hedge_below=0.9)) for k in range(20)]
    assert plain[:20] == same and plain[:20] == plain[20:]
    assert hedged != plain[20:]
    assert all(stated(caption(unsure, str(k), hedge_below=0.9)) for k in range(20))


@pytest.mark.parametrize("policy", ["careful", "paper"])
def test_a_face_that_looks_under_18(policy: str) -> None:
    """By a rule that takes everybody for a child."""
    everybody = replace(minors_rule(), threshold=0.0)
    composer = Composer(CaptionOptions(policy=policy), GRAMMAR, ATTRIBUTES, everybody)
    names = {name.replace("5", "Five"): 0.9 for name in ATTRIBUTES}
    for male in (0.99, 0.01):
        found = caption_face(face(**{**names, "Male": male}), "k", composer)
        assert found.looks_under_18 is True
        (one,) = found.captions
        assert one.person == "person" and not set(one.stated) & NOT_OF_MINORS
        assert not re.search(r"\b(he|she|his|her|man|woman|makeup|lipstick)\b", one.raw, re.I)
    nobody = replace(everybody, threshold=1.1)
    found = caption_face(ONE, "k", Composer(CaptionOptions(policy=policy), GRAMMAR, minors=nobody))
    assert found.looks_under_18 is False and found.captions == caption(ONE, "k").captions
    assert caption(ONE).looks_under_18 is None


def test_options_are_checked() -> None:
    for bad in ({"policy": "bold"}, {"gender": "x"}, {"seed": -1}):
        with pytest.raises(ValidationError):
            CaptionOptions(**bad)
