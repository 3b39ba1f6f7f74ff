"""Prompt sets: the packaged one is sound, its examples are true, and bad files are named."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.captions import Fault, RewriteFault
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.prompts import (
    DEFAULT_PROMPTS,
    PEOPLE,
    PromptError,
    load_prompts,
    parse_prompts,
)

PROMPTS = load_prompts()
DATA = yaml.safe_load(DEFAULT_PROMPTS.read_text())
EXAMPLES = [(name, example) for name, style in PROMPTS.styles.items() for example in style.examples]


@pytest.mark.parametrize(("style", "example"), EXAMPLES)
def test_the_examples_are_what_the_check_wants(style: str, example: Any) -> None:
    checker = Checker()
    for text in (example.caption, example.rewrite):
        assert checker.check(text, example.labels, example.person) is None, text
    assert example.rewrite != example.caption


def test_every_style_shows_every_person_and_nearly_all_labels_occur() -> None:
    for style in PROMPTS.styles.values():
        assert {e.person for e in style.examples} == set(PEOPLE)
    shown = {label for _, example in EXAMPLES for label in example.labels}
    assert shown <= set(ATTRIBUTES) and len(shown) >= 35


def test_a_prompt() -> None:
    prompt = PROMPTS.prompt("plain", "The man is bald.", ("Bald", "Male", "No_Beard"), "man", 5)
    roles = [message.role for message in prompt.messages]
    assert roles == ["system", *["user", "assistant"] * 3, "user"] and prompt.seed == 5
    assert prompt.messages[-1].content == (
        "Caption: The man is bald.\nAttributes: bald, man, no beard\nPerson: a man (he, his)"
    )
    others = {
        PROMPTS.prompt(name, "The man is bald.", ("Bald",), "man", 5) for name in PROMPTS.styles
    }
    assert len(others) == len(PROMPTS.styles) >= 5


def test_the_fault_is_named_once_more() -> None:
    prompt = PROMPTS.prompt("brief", "The man is bald.", ("Bald",), "man", 5)
    fault = Fault(RewriteFault.ADDED, "'hat' was not given {braces}")
    again = PROMPTS.once_more(prompt, "A bald man in a {hat}.", fault, 6)
    assert again.messages[:-2] == prompt.messages and again.seed == 6
    assert again.messages[-2].content == "A bald man in a {hat}."
    assert "Fault: 'hat' was not given {braces}" in again.messages[-1].content
    long = PROMPTS.once_more(prompt, "x" * 100_000, fault, 6)
    assert len(long.messages[-2].content) == 1000


def test_it_is_plain_data() -> None:
    assert pickle.loads(pickle.dumps(PROMPTS)) == PROMPTS and len(PROMPTS.sha256) == 64


def edited(*path: str | int, value: Any) -> Any:
    data = copy.deepcopy(DATA)
    at = data
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ([], "sections"),
        ({**DATA, "more": 1}, "sections"),
        (edited("version", value="1"), "version"),
        (edited("rules", value=" "), "rules"),
        (edited("request", value="{caption}"), "request"),
        (edited("request", value="{caption} {attributes} {person} {age}"), "request"),
        (edited("request", value="{caption} {attributes} {person.name}"), "request"),
        (edited("request", value="{caption!r} {attributes} {person}"), "request"),
        (edited("retry", value="{fault"), "retry"),
        (edited("people", value={"man": "a man"}), "people"),
        (edited("attributes", "Male", value=3), "attributes.Male"),
        (edited("styles", value={}), "styles"),
        (edited("styles", "plain", value={"instruction": "x"}), "styles.plain"),
        (edited("styles", "plain", "examples", value=[]), "styles.plain.examples"),
        (edited("styles", "plain", "examples", 0, "person", value="girl"), "examples.0.person"),
        (edited("styles", "plain", "examples", 1, "labels", value=[1]), "examples.1.labels"),
        (edited("styles", "plain", "examples", 1, "labels", value=["Mal"]), "examples.1.labels"),
        (edited("attributes", "Malle", value="man"), "attributes.Malle"),
    ],
)
def test_bad_prompts_are_named(data: Any, named: str) -> None:
    with pytest.raises(PromptError, match=named):
        parse_prompts(data)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"rewrite\.prompts: cannot read .*No such file"):
        load_prompts(tmp_path / "none.yaml")
    for text in ("a: [", "a: 2001-99-99", "\x00", "[" * 20_000):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(PromptError, match=r"rewrite\.prompts: .*bad\.yaml"):
            load_prompts(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PromptError, match=r"bad\.yaml"):
        load_prompts(tmp_path / "bad.yaml")
