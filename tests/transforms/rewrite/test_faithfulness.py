import pickle
import random
import re
from pathlib import Path

import pytest
from benchmarks.captions.checker import Case, load_cases, measure

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.captions import Person, RewriteFault
from facecap.transforms.grammar import load_grammar
from facecap.transforms.realise import realise
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.vocabulary_file import (
    VocabularyError,
    default_vocabulary,
    load_vocabulary,
    parse_vocabulary,
)

CASES = Path(__file__).parent / "cases"
CHECKER = Checker()
GRAMMAR = load_grammar()
LABELS = sorted(GRAMMAR.labels)
OF_THE_TEXT = ("missing", "negated", "added", "gender", "beyond")
PEOPLE: tuple[Person, ...] = ("man", "woman", "person")
KINDS = (*OF_THE_TEXT, "name", "meta_text", "length", "language")


def check(text: str, labels: str = "", person: Person = "person") -> str:
    """The kind of fault, or `good`."""
    fault = CHECKER.check(text, labels.split(), person)
    return "good" if fault is None else fault.kind.value


# ---- files of cases

FILES = ["own.jsonl", "dev.jsonl", "first_blind.jsonl", "second_blind.jsonl", "third_blind.jsonl"]


@pytest.mark.parametrize("name", FILES)
def test_precision_and_recall(name: str) -> None:
    """`own` and `dev` were written beside the checker. The blind files were each written by
    somebody who had not read it; at first sight the precision was 0.9643, 0.9677 and 0.9945, the
    recall 0.9947, 1.0 and 1.0. The checker has been mended by the first two since, so their figures
    say no more than those of `own`; it has not been touched since it first met the third."""
    measured = measure(load_cases(CASES / name), CHECKER)
    blamed = [(case.text, fault.detail) for case, fault in measured.blamed]
    assert measured.precision >= 0.99, blamed
    assert measured.recall >= 0.99, [case.text for case in measured.missed]
    assert measured.right_kind >= 0.95


def test_own_cases_are_of_every_kind() -> None:
    verdicts = [case.verdict for case in load_cases(CASES / "own.jsonl")]
    assert verdicts.count("good") >= 110
    assert {kind: verdicts.count(kind) for kind in KINDS if verdicts.count(kind) < 20} == {}


@pytest.mark.parametrize("name", FILES)
def test_cases_are_well_formed(name: str) -> None:
    cases = load_cases(CASES / name)
    assert len({(case.text, case.labels) for case in cases}) == len(cases)
    for case in cases:
        assert set(case.labels) <= set(ATTRIBUTES), case
        assert case.person in ("man", "woman", "person") and case.labels, case
        assert case.verdict in ("good", *KINDS), case
        assert case.person == "man" or "Male" not in case.labels, case


# ---- named cases


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        # FaceCaption-15M's own text turned a pointed nose into its absence
        ("A person sans glasses and a pointed nose.", "Eyeglasses Pointy_Nose", "negated"),
        ("The person has black hair, sans a pointed nose.", "Black_Hair Pointy_Nose", "negated"),
        ("There are no glasses or earrings.", "Eyeglasses Wearing_Earrings", "negated"),
        ("The person wears glasses, but no earrings.", "Eyeglasses Wearing_Earrings", "negated"),
        ("The person wears glasses, but no earrings.", "Eyeglasses", "added"),
        ("The person is not without a smile.", "Smiling", "good"),
        ("The person is neither smiling nor wearing a hat.", "Smiling Wearing_Hat", "negated"),
        ("They have no beard and wear glasses.", "No_Beard Eyeglasses", "good"),
        ("They have no beard and a hat on.", "No_Beard Wearing_Hat", "good"),
        ("They do not have a beard, glasses, or a hat.", "No_Beard Eyeglasses", "negated"),
        ("There is no beard on their oval face.", "No_Beard Oval_Face", "good"),
        ("A smile is nowhere to be seen on the face.", "Smiling", "negated"),
        ("No smile is visible on the face.", "Smiling", "negated"),
        ("A hat is not present in the picture.", "Wearing_Hat", "negated"),
        ("Their eyes are not wide but narrow.", "Narrow_Eyes", "good"),
        ("Their mouth is not closed.", "Mouth_Slightly_Open", "good"),
        ("The beardless person is smiling.", "No_Beard Smiling", "good"),
        ("The hatless person is smiling.", "Wearing_Hat Smiling", "negated"),
        ("The person is unsmiling and bald.", "Smiling Bald", "negated"),
        ("The person's head has no hair.", "Bald", "good"),
        ("The person's glasses-free face is oval.", "Oval_Face Eyeglasses", "negated"),
    ],
)
def test_negation(text: str, labels: str, expected: str) -> None:
    assert check(text, labels) == expected


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("Glasses do not hide the bags under their eyes.", "Eyeglasses Bags_Under_Eyes", "good"),
        (
            "The face has no trace of a beard and black hair.",
            "No_Beard Black_Hair",
            "good",
        ),
        ("They have no trace of a beard and a hat.", "No_Beard Wearing_Hat", "good"),
        ("The hat hides their glasses.", "Wearing_Hat Eyeglasses", "added"),
        ("A beard they do not have, but black hair.", "No_Beard Black_Hair", "good"),
        (
            "The hat shows; the glasses, however, do not.",
            "Wearing_Hat Eyeglasses",
            "negated",
        ),
        ("Neither the smile nor the hat goes unnoticed.", "Smiling Wearing_Hat", "good"),
        ("Neither a smile nor a hat is seen.", "Smiling Wearing_Hat", "negated"),
        ("One can't help noticing the full lips.", "Big_Lips", "good"),
        ("It is hard not to notice the goatee and the hat.", "Goatee Wearing_Hat", "good"),
        ("Nobody would say they wear a hat; they smile.", "Wearing_Hat Smiling", "negated"),
        ("No beard hides their double chin.", "No_Beard Double_Chin", "good"),
        ("Not even the hat can hide the rosy cheeks.", "Wearing_Hat Rosy_Cheeks", "good"),
        ("Of a beard there is no sign, and the hair is black.", "No_Beard Black_Hair", "good"),
        ("Of a smile there is no sign, and the hair is black.", "Smiling Black_Hair", "negated"),
        ("Bare of any beard is the chin, and a smile is there.", "No_Beard Smiling", "good"),
        ("The hat is gone, but they smile.", "Wearing_Hat Smiling", "negated"),
        ("They have yet to put on a hat, but they smile.", "Wearing_Hat Smiling", "negated"),
    ],
)
def test_what_a_negator_reaches(text: str, labels: str, expected: str) -> None:
    assert check(text, labels) == expected


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("Both their nose and their lips are big.", "Big_Nose Big_Lips", "good"),
        ("Their nose is big, and so are their lips.", "Big_Nose Big_Lips", "good"),
        ("Their nose is big, and so are their ears.", "Big_Nose", "added"),
        ("Their eyes and hair are black.", "Black_Hair", "added"),
        ("They have glasses on, and their lips are big.", "Big_Lips Eyeglasses", "good"),
        ("The hair they have is black.", "Black_Hair", "good"),
        ("The makeup that they have put on is heavy.", "Heavy_Makeup", "good"),
        ("The hair of the person, who wears glasses, is black.", "Black_Hair Eyeglasses", "good"),
        ("They have black hair with highlights.", "Black_Hair", "added"),
        ("Heavy makeup highlights the full lips.", "Heavy_Makeup Big_Lips", "good"),
        ("The brows form an arch, the nose a point.", "Arched_Eyebrows Pointy_Nose", "good"),
        ("The brows form an arch, the chin a point.", "Arched_Eyebrows Pointy_Nose", "missing"),
        ("Their nose is big, their lips too.", "Big_Nose Big_Lips", "good"),
        ("Their nose is big, their ears too.", "Big_Nose", "added"),
        ("Large is the nose, and large are the lips.", "Big_Nose Big_Lips", "good"),
        ("Large is the nose, and large are the ears.", "Big_Nose", "added"),
        ("They are big in both nose and lips.", "Big_Nose Big_Lips", "good"),
        ("They are big in both nose and ears.", "Big_Nose", "added"),
        ("A blurry hat can be seen.", "Wearing_Hat", "added"),
        ("It is blurry, yet a hat can be seen, as can glasses.", "Blurry Wearing_Hat", "added"),
        (
            "The shot is blurry, yet a hat can be seen, as can glasses.",
            "Blurry Wearing_Hat Eyeglasses",
            "good",
        ),
    ],
)
def test_what_a_subject_is(text: str, labels: str, expected: str) -> None:
    assert check(text, labels) == expected


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("They have bushy, arched eyebrows.", "Bushy_Eyebrows Arched_Eyebrows", "good"),
        ("Their hair is brown and wavy.", "Brown_Hair Wavy_Hair", "good"),
        ("They have full lips and a pointed nose.", "Big_Lips Pointy_Nose", "good"),
        ("They have full lips and pointed ears.", "Big_Lips Pointy_Nose", "missing"),
        ("Wavy, black locks frame the face.", "Wavy_Hair Black_Hair", "good"),
        ("Wavy and black, the person's hair frames the face.", "Wavy_Hair Black_Hair", "good"),
        ("An oval, pale-skinned face.", "Oval_Face Pale_Skin", "good"),
        ("The color of their hair is black.", "Black_Hair", "good"),
        ("Their hair frames their face and is black.", "Black_Hair", "good"),
        ("The person has black hair and black eyes.", "Black_Hair", "added"),
        ("Their hair is black, and so are their black eyes.", "Black_Hair", "added"),
        ("The person has black hair and wears a black tie.", "Black_Hair Wearing_Necktie", "added"),
        ("The person has straight hair and a straight nose.", "Straight_Hair", "added"),
        ("The person has full lips and a full beard.", "Big_Lips", "added"),
        ("The person is pale, wearing lipstick.", "Pale_Skin Wearing_Lipstick", "good"),
        ("The person wears pale lipstick.", "Pale_Skin Wearing_Lipstick", "missing"),
        ("Narrow eyes are set in a narrow face.", "Narrow_Eyes", "added"),
        ("The person wears a tie.", "Wearing_Necktie", "good"),
        ("A hat ties the look together.", "Wearing_Hat", "good"),
        ("The hair is parted.", "Mouth_Slightly_Open", "missing"),
        ("The person in the hat is chubby.", "Wearing_Hat Chubby", "good"),
        ("Their full, lipstick-covered lips smile.", "Big_Lips Wearing_Lipstick Smiling", "good"),
        ("Their full, gloss-covered lips smile.", "Big_Lips Smiling", "added"),
        ("Their nose is of the pointed kind.", "Pointy_Nose", "good"),
        ("Their nose is of the hooked kind.", "Pointy_Nose", "missing"),
        ("A kind person has a pointed nose.", "Pointy_Nose", "beyond"),
        ("Bags sit under the eyes of the blonde.", "Bags_Under_Eyes Blond_Hair", "good"),
        ("Bags sit under the eyes of the blonde.", "Bags_Under_Eyes", "added"),
        ("A heavy layer of makeup covers the face.", "Heavy_Makeup", "good"),
        ("A thin layer of makeup covers the face.", "Heavy_Makeup", "negated"),
        ("A black person.", "Black_Hair", "missing"),
        ("A black person with black hair.", "Black_Hair", "beyond"),
    ],
)
def test_an_adjective_is_said_of_one_thing(text: str, labels: str, expected: str) -> None:
    assert check(text, labels) == expected


@pytest.mark.parametrize(
    ("text", "labels", "person", "expected"),
    [
        ("This man has black hair.", "Black_Hair", "man", "good"),
        ("This person has black hair.", "Black_Hair", "man", "good"),
        ("This person has black hair.", "Black_Hair Male", "man", "missing"),
        (
            "This person has black hair, and his nose is big.",
            "Black_Hair Big_Nose Male",
            "man",
            "good",
        ),
        ("This woman has black hair.", "Black_Hair", "man", "gender"),
        ("The man has black hair that frames her face.", "Black_Hair", "man", "gender"),
        ("She has black hair.", "Black_Hair", "person", "gender"),
        ("They have black hair.", "Black_Hair", "woman", "good"),
        ("A bearded man.", "Male Goatee", "man", "missing"),
        ("A man with a goatee beard.", "Male Goatee", "man", "good"),
        ("A man with a mustache and a beard.", "Male Mustache", "man", "added"),
        ("A man with a beard.", "Male No_Beard", "man", "negated"),
        ("The man's face is free of facial hair.", "Male No_Beard", "man", "good"),
        ("The woman wears makeup.", "Heavy_Makeup", "woman", "good"),
        ("The woman wears little makeup.", "Heavy_Makeup", "woman", "negated"),
        ("The woman wears lipstick.", "Heavy_Makeup", "woman", "missing"),
        ("A beautiful woman with bangs.", "Bangs", "woman", "added"),
        ("A beautiful woman with bangs.", "Bangs Attractive", "woman", "good"),
        ("A boy with bangs.", "Bangs Young", "man", "beyond"),
    ],
)
def test_people(text: str, labels: str, person: Person, expected: str) -> None:
    assert check(text, labels, person) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The person has black hair and a quokka.", "added"),
        ("The person has black hair and resembles Zorblatt.", "name"),
        ("The person with black hair looks happy.", "beyond"),
        ("Caption: The person has black hair.", "meta_text"),
        ("**The person** has black hair.", "meta_text"),
        ('"The person has black hair."', "meta_text"),
        ("Portrait of a person: black hair.", "good"),
        ("La persona tiene el pelo negro.", "language"),
        ("The person has black hair. 他很年轻。", "language"),
        ("Black_Hair, person", "language"),
        ("Black hair.", "length"),
        ("", "length"),
        ("...", "length"),
        ("The person has black hair. " * 5, "length"),
        ("The person has black hair, " + "as one can see in this portrait, " * 5, "length"),
    ],
)
def test_other_faults(text: str, expected: str) -> None:
    assert check(text, "Black_Hair") == expected


def test_the_first_fault_in_order_is_told() -> None:
    text = "Anna is a happy man with glasses, but no hat."
    assert check(text, "Wearing_Hat Young", "woman") == "name"
    assert check(text.replace("Anna", "This"), "Wearing_Hat Young", "woman") == "gender"
    assert check(text.replace("Anna", "This"), "Wearing_Hat Young", "man") == "negated"
    assert check("This is a happy man with glasses.", "Wearing_Hat", "man") == "missing"
    assert check("This is a happy man with glasses.", "Male", "man") == "added"
    assert check("This is a happy man with glasses.", "Male Eyeglasses", "man") == "beyond"


@pytest.mark.parametrize(
    ("text", "labels", "detail"),
    [
        ("The person is shown here.", "Pointy_Nose", "'pointy nose' is not stated"),
        ("The person wears glasses and a hat.", "Wearing_Hat", "'glasses' was not given"),
        ("They are bald, without glasses.", "Bald", "'no glasses' was not given"),
        ("She is bald.", "Bald", "'she' is said, but the person's gender is not given"),
    ],
)
def test_the_detail_can_be_acted_upon(text: str, labels: str, detail: str) -> None:
    fault = CHECKER.check(text, labels.split(), "person")
    assert fault is not None and fault.detail == detail


# ---- the grammar as a test


def random_caption(rng: random.Random) -> tuple[str, tuple[str, ...], Person]:
    """A caption of the grammar over a random set of labels that do not contradict each other."""
    person: Person = rng.choice(PEOPLE)
    labels: list[str] = ["Male"] if person == "man" and rng.random() < 0.7 else []
    for label in rng.sample(LABELS, rng.randint(1, 9)):
        if not any(_contradict(label, other) for other in labels):
            labels.append(label)
    text, _ = realise(tuple(labels), person, GRAMMAR, rng)
    return text, tuple(labels), person


def _contradict(one: str, other: str) -> bool:
    return any(
        (line[0] == one and other in line) or (line[0] == other and one in line)
        for line in GRAMMAR.conflicts
    )


def test_every_caption_of_the_grammar_is_faithful() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        text, labels, person = random_caption(rng)
        assert CHECKER.check(text, labels, person) is None, (text, labels)


def test_a_label_left_out_is_missing() -> None:
    """A caption of the grammar is no faithful caption of one label more."""
    rng = random.Random(1)
    for label in LABELS:
        for _ in range(10):
            text, labels, person = random_caption(rng)
            if label in labels or any(_contradict(label, other) for other in labels):
                continue
            fault = CHECKER.check(text, (*labels, label), person)
            assert fault is not None and fault.kind is RewriteFault.MISSING, (text, label)


def test_a_label_said_but_not_given_is_added() -> None:
    """A caption of the grammar is no faithful caption of one label less."""
    rng = random.Random(2)
    seen: set[str] = set()
    for _ in range(1500):
        text, labels, person = random_caption(rng)
        label = rng.choice(labels)
        if label == "Male" or len(labels) < 2 or len(text.split()) > 20 + 12 * (len(labels) - 1):
            continue
        seen.add(label)
        fault = CHECKER.check(text, [other for other in labels if other != label], person)
        assert fault is not None, (text, label)
        # A beard may deny what is left.
        assert fault.kind in (RewriteFault.ADDED, RewriteFault.NEGATED), (text, label)
    assert seen == set(LABELS)


def test_a_wrong_gender_is_found_in_every_caption() -> None:
    rng = random.Random(3)
    found = 0
    for _ in range(500):
        text, labels, person = random_caption(rng)
        if re.search(r"\b(?:he|she|his|her|man|woman)\b", text, re.IGNORECASE):
            found += 1
            for wrong in set(PEOPLE) - {person}:
                fault = CHECKER.check(text, labels, wrong)
                assert fault is not None and fault.kind is RewriteFault.GENDER, text
    assert found > 200


# ---- the checker as a part


def test_pickled_it_finds_the_same() -> None:
    copy = pickle.loads(pickle.dumps(CHECKER))
    cases: list[Case] = load_cases(CASES / "own.jsonl")
    for case in cases:
        assert copy.check(case.text, case.labels, case.person) == CHECKER.check(
            case.text, case.labels, case.person
        )


def test_the_order_of_the_labels_says_nothing() -> None:
    text = "This is a picture of nobody in particular."
    labels = ["Young", "Smiling", "Bald", "Wearing_Hat"]
    faults = {CHECKER.check(text, order, "person") for order in (labels, labels[::-1], set(labels))}
    assert len(faults) == 1


def test_every_label_can_be_read() -> None:
    """No label is without words that state it."""
    vocabulary = default_vocabulary()
    words = [*vocabulary.words.values()]
    words += [word for phrases in vocabulary.phrases.values() for _, word in phrases]
    stated = {
        label
        for word in words
        for outcome in (word.outcome, *(word.readings or {}).values())
        if outcome is not None
        for label, sign in outcome.labels
        if sign > 0
    }
    assert set(ATTRIBUTES) - stated == {"Male"}


def test_a_vocabulary_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="cannot read"):
        load_vocabulary(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [", encoding="utf-8")
    with pytest.raises(VocabularyError, match="is not YAML"):
        load_vocabulary(broken)
    with pytest.raises(VocabularyError, match="must have the sections"):
        parse_vocabulary({"states": {}})
