from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite.backend import Message, Prompt
from facecap.transforms.rewrite.chat_completion import (
    Completion,
    read_answer,
    read_caption,
    read_completion,
    request,
)
from facecap.transforms.rewrite.options import RewriteOptions

TEXT = "The man wears a hat."
JSON = json.dumps({"caption": TEXT})


def _body(**changes: Any) -> bytes:
    choice = {"message": {"content": TEXT}, "finish_reason": "stop"} | changes
    return json.dumps({"choices": [choice]}).encode()


def test_a_request_has_all_settings_of_the_sampling() -> None:
    options = RewriteOptions(model="m", temperature=0.3, top_p=0.8, max_tokens=77)
    prompt = Prompt((Message("system", "Be brief."), Message("user", "Caption: x")), seed=2**31 - 1)
    plain = request(options, prompt, structured=False)
    assert plain == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Caption: x"},
        ],
        "temperature": 0.3,
        "top_p": 0.8,
        "max_tokens": 77,
        "seed": 2**31 - 1,
        "n": 1,
        "stream": False,
    }
    structured = request(options, prompt, structured=True)
    schema = structured.pop("response_format")["json_schema"]
    assert structured == plain
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["caption"]
    assert schema["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        f"\n  {TEXT} \n",
        f'"{TEXT}"',
        f"“{TEXT}”",
        f"'{TEXT}'",
        JSON,
        f"```json\n{JSON}\n```",
        f"```{JSON}```",
        f"```\n{TEXT}\n```",
        f"<think>A hat? {{}}</think>\n\n{JSON}",
        f"<think></think>{TEXT}",
        f"He has a hat.\n</think>\n{TEXT}",
        f"<think>x</think>```json\n{JSON}```",
    ],
)
def test_captions_are_found(content: str) -> None:
    assert read_caption(content, must_be_json=False) == TEXT


@pytest.mark.parametrize(
    "content",
    [
        'A "hat" and "glasses"',
        '"Hat" is what he wears, "glasses" too, he says "no"',
        "The man's hat is the woman's",
        "He wears a hat. <think>No.</think>",
        'The caption: {"caption": "x"}',
    ],
)
def test_what_does_not_enclose_the_whole_stays(content: str) -> None:
    assert read_caption(content, must_be_json=False) == content


def test_an_apostrophe_is_no_quotation_mark() -> None:
    assert read_caption("'The man's hat'", must_be_json=False) == "The man's hat"
    assert read_caption("'Hat' and 'tie'", must_be_json=False) == "'Hat' and 'tie'"


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ('" "', "empty"),
        ("<think>hm</think> ", "empty"),
        ("<think>hm", "thoughts"),
        ('{"caption": ""}', "empty"),
        ('{"caption": "x', "JSON"),
        ('{"text": "x"}', "caption"),
        ('{"caption": ["x"]}', "caption"),
        ('["x"]', "caption"),
        ("[" * 100_000, "JSON"),
        ('{"caption": "\\ud83d"}', "surrogate"),
    ],
)
def test_what_is_no_caption_is_said(content: str, detail: str) -> None:
    with pytest.raises(ValueError, match=detail):
        read_caption(content, must_be_json=False)


def test_plain_text_is_none_where_json_was_demanded() -> None:
    assert read_caption(JSON, must_be_json=True) == TEXT
    with pytest.raises(ValueError, match="JSON"):
        read_caption(TEXT, must_be_json=True)


@pytest.mark.parametrize(
    "content",
    [
        " " * 500_000 + "x",
        "```" + " " * 500_000 + "x",
        "``` x" + " " * 500_000 + "```",
        "<think>" * 100_000,
        '"' + "a" * 500_000,
        "'" + "a'" * 200_000,
        "'" + "' " * 200_000,
    ],
)
def test_no_text_takes_long(content: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError):
        read_caption(content, must_be_json=False)
    assert time.process_time() - began < 1


def test_a_completion_is_read() -> None:
    answer = json.loads(_body())
    answer["usage"] = {"prompt_tokens": 12, "completion_tokens": 3}
    completion = read_completion(json.dumps(answer).encode())
    assert completion == Completion(TEXT, "stop", False, 12, 3)
    assert read_answer(completion, False).text == TEXT
    assert read_answer(completion, False).completion_tokens == 3


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": None}, {"prompt_tokens": "7"},
                                   {"prompt_tokens": -1}, {"prompt_tokens": 1e300}])  # fmt: skip
def test_senseless_counts_are_none(usage: Any) -> None:
    answer = json.loads(_body()) | {"usage": usage}
    assert read_completion(json.dumps(answer).encode()).prompt_tokens == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"choices": [',
        b"[" * 500_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": "text"}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": [{"type": "text", "text": "x"}]}}]}',
        b'{"error": {"message": "no"}}',
    ],
)
def test_what_is_no_completion_is_said(body: bytes) -> None:
    with pytest.raises(ValueError, match="answer"):
        read_completion(body)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"finish_reason": "length"}, RewriteFault.TRUNCATED),
        ({"finish_reason": "content_filter"}, RewriteFault.REFUSED),
        ({"message": {"content": None, "refusal": "No."}}, RewriteFault.REFUSED),
        ({"message": {"content": None}}, RewriteFault.MALFORMED),
        ({"message": {}}, RewriteFault.MALFORMED),
    ],
)
def test_faults_of_a_completion(changes: dict[str, Any], kind: RewriteFault) -> None:
    answer = read_answer(read_completion(_body(**changes)), must_be_json=False)
    assert answer.text is None
    assert answer.fault is not None
    assert answer.fault.kind is kind
