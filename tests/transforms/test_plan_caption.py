import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms.grammar import load_grammar
from facecap.transforms.grammar_rules import MARK
from facecap.transforms.plan_caption import MAX_LIST, MAX_STATED, Plan, plan_caption, shapes

GRAMMAR = load_grammar()
label_sets = st.lists(st.sampled_from(sorted(GRAMMAR.labels)), unique=True, min_size=1).map(tuple)


def stated(plan: Plan) -> list[str]:
    parts = [part for sentence in plan.sentences for part in sentence.values()]
    texts = [item.text for part in parts for item in part.items]
    return MARK.findall(" ".join([*texts, plan.adjective or "", plan.picture or ""]))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(label_sets, st.sampled_from(["man", "woman", "person"]), st.integers(0, 2**32), st.data())
def test_plans(labels: tuple[str, ...], person: str, seed: int, data) -> None:
    hedged = data.draw(st.sets(st.sampled_from(labels)))
    plan = plan_caption(labels, person, GRAMMAR, random.Random(seed), frozenset(hedged))
    assert sorted(label for label, _ in stated(plan)) == sorted(labels)
    for index, sentence in enumerate(plan.sentences):
        for kind, part in sentence.items():
            assert kind == part.shape.kind and 1 <= len(part.items) <= MAX_LIST[kind]
            assert part.shape.topics <= set(GRAMMAR.topics)
        if sentence and "sentence" not in sentence:
            first, later = GRAMMAR.places(shapes(sentence))
            assert first if index == 0 else later
        elif not sentence:
            assert index == 0
    merged = [s for s in plan.sentences if len(s) > 1]
    assert all(sum(part.stated for part in s.values()) <= MAX_STATED for s in merged)


@pytest.mark.parametrize(
    ("labels", "sentences"),
    [(("Bald",), {1}), (("Bald", "Smiling", "Bangs", "Eyeglasses"), {1, 2}), (("Blurry",), {1})],
)
def test_few_labels_make_few_sentences(labels: tuple[str, ...], sentences: set[int]) -> None:
    plans = [plan_caption(labels, "man", GRAMMAR, random.Random(s)) for s in range(60)]
    assert {len(plan.sentences) for plan in plans} == sentences


def test_the_noun_and_the_picture_have_a_first_sentence() -> None:
    for seed in range(60):
        plan = plan_caption(("Male", "Blurry"), "man", GRAMMAR, random.Random(seed))
        assert plan.sentences[0] == {}
        plan = plan_caption(("Blurry", "Goatee"), "man", GRAMMAR, random.Random(seed))
        assert "sentence" not in plan.sentences[0]
