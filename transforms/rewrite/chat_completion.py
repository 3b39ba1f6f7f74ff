"""The texts of OpenAI's chat-completions protocol: what is sent, and what its answers mean.

Source: https://platform.openai.com/docs/api-reference/chat and the servers that speak the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from facecap.schemas.captions import Fault, RewriteFault
from facecap.transforms.rewrite.backend import Answer, Prompt
from facecap.transforms.rewrite.options import RewriteOptions

RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "caption",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"caption": {"type": "string"}},
            "required": ["caption"],
            "additionalProperties": False,
        },
    },
}

# Patterns that take time in proportion to the text: a model may write a megabyte of spaces.
_THOUGHTS = re.compile(r"(?:<think>)?(?:(?!<think>).)*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*")
_QUOTED = re.compile(r""""([^"]*)"|“([^“”]*)”|'((?:[^']|(?<=\w)'(?=\w))*)'""")


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server's answer holds. `content` is what the model wrote, as it wrote it."""

    content: str
    finish_reason: str
    refused: bool
    prompt_tokens: int
    completion_tokens: int


def request(options: RewriteOptions, prompt: Prompt, structured: bool) -> dict[str, Any]:
    """The body of a request: equal prompts give equal requests."""
    body: dict[str, Any] = {
        "model": options.model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "seed": prompt.seed,
        "n": 1,
        "stream": False,
    }
    if structured:
        body["response_format"] = RESPONSE_FORMAT
    return body


def read_completion(body: bytes) -> Completion:
    """Raises ValueError, whose text is the detail of a fault, where `body` is no completion."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the server's answer is not JSON") from None
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish_reason = choice.get("finish_reason")
        usage = answer.get("usage")
    except (LookupError, TypeError, AttributeError):
        raise ValueError("the server's answer is no chat completion") from None
    if not isinstance(content, str | None):
        raise ValueError("the answer's content is not text")
    return Completion(
        content=content or "",
        finish_reason=finish_reason if isinstance(finish_reason, str) else "",
        refused=bool(refusal) or finish_reason == "content_filter",
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def read_answer(completion: Completion, must_be_json: bool) -> Answer:
    """The caption that a completion holds, or what is wrong with it."""
    text, fault = None, None
    if completion.refused:
        fault = Fault(RewriteFault.REFUSED, "the model or its server declined")
    elif completion.finish_reason == "length":
        fault = Fault(RewriteFault.TRUNCATED, "the answer was longer than rewrite.max_tokens")
    else:
        try:
            text = read_caption(completion.content, must_be_json)
        except ValueError as error:
            fault = Fault(RewriteFault.MALFORMED, str(error))
    return Answer(text, fault, completion.prompt_tokens, completion.completion_tokens)


def read_caption(content: str, must_be_json: bool) -> str:
    """The caption in what a model wrote: JSON `{"caption": ...}`, bare or in a fence, or else the
    plain text, unless it `must_be_json`. Thoughts before it and quotation marks round the whole
    are taken away. Raises ValueError, whose text is the detail of a fault."""
    text = content.strip()
    # The opening tag is often a part of the prompt, and so not of the answer.
    if thoughts := _THOUGHTS.match(text):
        text = text[thoughts.end() :].strip()
    elif text.startswith("<think>"):
        raise ValueError("the answer ends within its thoughts")
    fence = _FENCE.match(text)
    if fence and text.endswith("```") and len(text) > fence.end():
        text = text[fence.end() : -3].strip()
    if must_be_json or text.startswith(("{", "[")):
        text = _caption_of_json(text)
    elif quoted := _QUOTED.fullmatch(text):
        text = next(inner for inner in quoted.groups() if inner is not None)
    text = text.strip()
    if not text:
        raise ValueError("the answer is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the answer holds half a surrogate pair") from None
    return text


def _caption_of_json(text: str) -> str:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not valid JSON") from None
    caption = answer.get("caption") if isinstance(answer, dict) else None
    if not isinstance(caption, str):
        raise ValueError('the answer\'s JSON has no text named "caption"')
    return caption


def _count(usage: Any, name: str) -> int:
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if type(number) is int and 0 <= number < 2**31 else 0
