"""What is stored of captions, and which of them is the text."""

from __future__ import annotations

import pyarrow as pa
import pytest

from facecap.schemas.captions import Caption, CaptionSource, Fault, Rewrite, RewriteFault
from facecap.schemas.tables import METADATA
from facecap.transforms.caption_columns import (
    Asked,
    CaptionConfig,
    caption_columns,
    choose_text,
    count_captions,
    too_few_answers,
)

FAULT = Fault(RewriteFault.MISSING, "'smiling' is not stated")
PASSED = Rewrite("He smiles.", None, "plain", 7, 1, "k")
FAILED = Rewrite(None, FAULT, "brief", 8, 2, "k")
ASKED = Asked("qwen", "v1 abc", 0.7, 0.9, 200)


def caption(rewrite: Rewrite | None) -> Caption:
    return Caption("The man is smiling.", ("Smiling", "Male"), "man", rewrite)


@pytest.mark.parametrize(
    ("rewrite", "alt", "text", "expected"),
    [
        (None, "alt", "rewrite", ("The man is smiling.", "grammar")),
        (PASSED, "alt", "rewrite", ("He smiles.", "rewrite")),
        (FAILED, "alt", "rewrite", ("The man is smiling.", "grammar")),
        (PASSED, "alt", "grammar", ("The man is smiling.", "grammar")),
        (PASSED, "alt", "alt_text", ("alt", "alt_text")),
        (PASSED, " ", "alt_text", ("He smiles.", "rewrite")),
        (FAILED, None, "alt_text", ("The man is smiling.", "grammar")),
    ],
)
def test_the_text_and_whose_words_it_is(rewrite, alt, text, expected) -> None:
    assert choose_text(caption(rewrite), alt, text) == expected


def test_all_texts_of_every_caption_are_stored() -> None:
    row = caption_columns(
        [caption(PASSED), caption(FAILED)], "alt", CaptionConfig("rewrite", ASKED)
    )
    assert (row["caption"], row["caption_source"]) == ("He smiles.", CaptionSource.REWRITE)
    assert (row["rewritten_caption"], row["rewrite_fault"]) == ("He smiles.", None)
    first, second = row["captions"]
    assert (second["caption"], second["rewrite_fault"]) == ("The man is smiling.", "missing")
    assert second["rewritten_caption"] is None and second["raw_caption"] == second["caption"]
    assert second["rewrite"] == {
        "model": "qwen",
        "prompts": "v1 abc",
        "style": "brief",
        "seed": 8,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 200,
        "tries": 2,
        "key": "k",
        "error": "'smiling' is not stated",
    }
    assert first["stated_labels"] == ["Smiling", "Male"]
    schema = pa.schema([METADATA.field(name) for name in row])
    assert pa.Table.from_pylist([row], schema=schema).to_pylist()[0]["captions"][0]["caption"]


def test_nothing_is_said_of_a_rewriting_that_did_not_take_place() -> None:
    row = caption_columns([caption(None)], None, CaptionConfig())
    assert row["caption_source"] == "grammar" and row["captions"][0]["rewrite"] is None


def test_captions_are_counted_by_source_and_fault() -> None:
    config = CaptionConfig("rewrite", ASKED)
    faces = [
        caption_columns([caption(PASSED), caption(FAILED)], None, config)["captions"],
        caption_columns([caption(None)], None, config)["captions"],
    ]
    assert count_captions(faces) == {"grammar": 1, "grammar/missing": 1, "rewrite": 1}


@pytest.mark.parametrize(
    ("counts", "minimum", "few"),
    [
        ({"rewrite": 90, "grammar/timeout": 10}, 0.9, False),
        ({"rewrite": 89, "grammar/timeout": 10, "grammar/connection": 1}, 0.9, True),
        ({"rewrite": 10, "grammar/missing": 90}, 0.9, False),
        ({"rewrite": 10, "grammar/refused": 90}, 0.9, False),
        ({"alt_text": 10, "alt_text/timeout": 90}, 0.9, True),
        ({"grammar/malformed": 50, "grammar/truncated": 50, "rewrite": 9}, 0.9, True),
        ({"grammar/timeout": 3}, 0.9, False),
        ({"grammar/timeout": 4}, 0.9, True),
        ({"grammar/timeout": 4}, 0.0, False),
        ({}, 1.0, False),
    ],
)
def test_too_few_answers(counts: dict[str, int], minimum: float, few: bool) -> None:
    said = too_few_answers(counts, minimum)
    assert bool(said) is few
    if said:
        assert "rewrite.min_answered" in said
        assert all(name.split("/")[1] in said for name in counts if "/" in name)
