import shutil

import pytest
from benchmarks.captions import agreement, breakages, language_tool
from benchmarks.captions.language_tool import JARS, Match

GOOD = [
    "The man has a pointed nose and bags under his eyes, and he is smiling.",
    "A person with bags under their eyes has an oval face.",
    "She has arched eyebrows, her cheekbones are high, and she wears earrings.",
    "They still have bangs. The young woman appears to have wavy hair.",
]


def match(line: int, rule: str, kind: str, start: int = 0, end: int = 3) -> Match:
    return Match(line, rule, "X", kind, start, end, "")


def test_a_text_counts_once_and_taste_does_not() -> None:
    texts = ["She have have bangs.", "Fine.", "she smiles."]
    found = language_tool.summarise(
        texts,
        [
            match(0, "VERB", "grammar", 4, 8),
            match(0, "VERB", "duplication", 9, 13),
            match(1, "DULL", "style"),
            match(2, "UPPERCASE_SENTENCE_START", "typographical"),
        ],
    )
    assert (found.texts, found.wrong) == (3, 2)
    assert found.per_100 == pytest.approx(200 / 3)
    assert found.rules[0] == ("VERB", 2, "She [have] have bangs.")
    assert found.taste == (("DULL", 1, "[Fin]e."),)


def test_only_so_many_rules_are_told() -> None:
    matches = [match(0, f"R{i}", "grammar") for i in range(12)]
    assert len(language_tool.summarise(["text"], matches).rules) == 10


def test_our_patterns_find_nothing_in_good_captions() -> None:
    assert agreement.check(GOOD) == []


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The young man have bangs.", "OUR_PERSON_VERB"),
        ("Her eyebrows is arched.", "OUR_PLURAL_VERB"),
        ("His wavy hair are black.", "OUR_SINGULAR_VERB"),
        ("He smiles with he mouth open.", "OUR_PRONOUN"),
        ("She has a arched eyebrows.", "OUR_ARTICLE"),
        ("The woman has pointed nose.", "OUR_NO_ARTICLE"),
    ],
)
def test_our_patterns_find_what_is_wrong(text: str, rule: str) -> None:
    assert [m.rule for m in agreement.check([text])] == [rule]


def test_breakages_break_what_they_can_once() -> None:
    made = breakages.broken(["She has bangs. She has a hat.", "No verb here."])
    assert made["he/she have"] == ["She have bangs. She has a hat."]
    assert made["a small letter after a full stop"] == ["She has bangs. she has a hat."]
    assert "they has" not in made


@pytest.fixture(scope="module")
def languagetool() -> None:
    if not any(JARS.glob("language-en-*.jar")) or shutil.which("java") is None:
        pytest.skip("LanguageTool is not in build/languagetool, or there is no Java")


def test_languagetool_finds_errors_where_they_are(languagetool: None) -> None:
    wrong = "She have an pointed nose."
    found = language_tool.check([GOOD[0], wrong, GOOD[1], wrong])
    assert {m.line for m in found if m.counts} == {1, 3}
    assert [wrong[m.start : m.end] for m in found if m.counts and m.line == 1] == ["have", "an"]
