"""What the server of tests/llm_server.py answers: captions rewritten by rules, and the faults that
it may be told to have."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from typing import Any

MODEL = "rules-7b"

FAULTS = {
    "429": "HTTP 429",
    "429-seconds": "HTTP 429 with a Retry-After in seconds",
    "429-date": "HTTP 429 with a Retry-After as a date",
    "429-quota": "HTTP 429 for a key without credit",
    "408": "HTTP 408",
    "500": "HTTP 500",
    "500-seconds": "HTTP 500 with a Retry-After in seconds",
    "501": "HTTP 501",
    "503": "HTTP 503",
    "302": "a redirect",
    "400": "HTTP 400 for a prompt that is too long",
    "401": "HTTP 401 that repeats the key",
    "404_model": "HTTP 404 for the model",
    "404_path": "HTTP 404 for the path",
    "400_content": "HTTP 400 for the prompt's content",
    "no_schema": "HTTP 400 where response_format is sent",
    "no_schema_silent": "the same, without saying why",
    "ignores_schema": "plain text where response_format is sent",
    "slow": "an answer after --slow seconds",
    "malformed": "200, not JSON",
    "wrong_shape": "200, JSON, no completion",
    "huge": "200, a right answer of two megabytes",
    "truncated": "Content-Length of more than is sent",
    "truncated_chunks": "a chunked body that is cut",
    "reset": "the connection is closed without an answer",
    "length": "half a text, finish_reason length",
    "content_filter": "no text, finish_reason content_filter",
    "refusal": "no text, a refusal",
    "empty": "an empty text",
    "fenced": "JSON in a fence",
    "think": "thoughts before the caption",
    "liar": "adds a hat",
    "liar_once": "adds a hat, until a fault is named",
    "dropper": "leaves the last sentence out",
    "negator": "adds that there is no pointed nose",
    "meta": "a remark before the caption",
    "ok": "none",
}

REFUSALS: dict[str, tuple[int, str, str, dict[str, str]]] = {
    "302": (302, "Moved", "", {"Location": "/elsewhere"}),
    "400": (400, "This model's maximum context length is 512 tokens.", "", {}),
    "400_content": (400, "Our content management policy was triggered", "content_filter", {}),
    "401": (
        401,
        "Incorrect API key provided: KEY. Ask your\nadministrator.",
        "invalid_api_key",
        {},
    ),
    "404_model": (404, "The model does not exist.", "model_not_found", {}),
    "404_path": (404, "Not Found", "", {}),
    "408": (408, "Request Timeout", "", {}),
    "429": (429, "Too many requests", "rate_limit_exceeded", {}),
    "429-quota": (429, "You exceeded your current quota", "insufficient_quota", {}),
    "500": (500, "Internal error", "", {}),
    "501": (501, "Not implemented", "", {}),
    "503": (503, "Overloaded", "", {}),
}

Messages = list[dict[str, str]]


def find_caption(messages: Messages) -> tuple[str, bool]:
    """The last `Caption:` line of a user, and whether a fault is named after it."""
    caption, named = "", False
    for message in messages:
        if message["role"] == "user":
            if found := re.search(r"^Caption: *(.+)$", message["content"], re.M):
                caption, named = found[1].strip(), False
            elif re.search(r"^Fault: ", message["content"], re.M):
                named = True
    return caption, named


SWAPS = (
    (r"\b(He|She) wears\b", r"\1 is wearing"),
    (r"\b(He|She) is wearing\b", r"\1 wears"),
    (r"\bThey wear\b", "They are wearing"),
    (r"\bphotograph\b", "photo"),
    (r"\bpicture\b", "photograph"),
    (r"\bmustache\b", "moustache"),
    (r"\bgray\b", "grey"),
    (r"\beyeglasses\b", "glasses"),
    (r"\bappears to be\b", "seems to be"),
)


def rewrite(caption: str, rng: random.Random) -> str:
    """The same facts: other words by SWAPS, the sentences after the first in another order."""
    for pattern, words in SWAPS:
        if rng.random() < 0.5:
            caption = re.sub(pattern, words, caption)
    first, *others = re.split(r"(?<=[.!?])\s+", caption)
    rng.shuffle(others)
    if re.match(r"(The|A|An|This) ", first) and rng.random() < 0.5:
        lead = rng.choice(("In this photograph, ", "Here, ", "In this close-up, "))
        first = lead + first[0].lower() + first[1:]
    return " ".join((first, *others))


def say(request: dict[str, Any], fault: str) -> str:
    """What is answered to a request: equal for equal messages, temperature and seed; at
    temperature 0 whatever the seed, as by a model that samples nothing."""
    caption, named = find_caption(request["messages"])
    if not caption:
        return "Yes."
    temperature = request.get("temperature", 1)
    drawn_by = [request["messages"], temperature, request.get("seed") if temperature else None]
    rng = random.Random(json.dumps(drawn_by))
    text = caption if named else rewrite(caption, rng)
    if fault == "liar" or (fault == "liar_once" and not named):
        return text + " A hat and a thick scarf are worn as well."
    if fault == "dropper":
        kept = re.match(r"(.+\.) |(.+)(,| and )", text)
        return (kept[1] or f"{kept[2]}.") if kept else "A photo."
    if fault == "negator":
        return text.rstrip(".") + ", sans a pointed nose."
    return f"Here is the caption: {text}" if fault == "meta" else text


def completion(request: dict[str, Any], fault: str) -> dict[str, Any]:
    """The answer's JSON, with the number of words for tokens."""
    text = say(request, fault)
    content: str | None = text
    finish_reason = "stop"
    if "response_format" in request and fault != "ignores_schema":
        content = json.dumps({"caption": text})
    if fault == "fenced":
        content = f"```json\n{json.dumps({'caption': text}, indent=1)}\n```"
    if fault == "think":
        content = f"<think>\nWhat would {{a caption}} say?\n</think>\n\n{content}"
    if fault == "empty":
        content = ""
    if fault == "length":
        content, finish_reason = str(content)[: len(text) // 2], "length"
    if fault == "content_filter":
        content, finish_reason = None, "content_filter"
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if fault == "refusal":
        message |= {"content": None, "refusal": "I'm sorry, I can't help with that."}
    asked = sum(len(turn["content"].split()) for turn in request["messages"])
    said = len((content or "").split())
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


class Drawing:
    """Which fault a request gets: by a line `Schedule: 500,ok` of its prompt, else by --force, else
    by --rate, else by --schedule."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._asked: Counter[str] = Counter()
        self._forced = [entry.split("=", 1) for entry in options.force]
        pairs = (entry.split("=", 1) for entry in options.rate)
        self._rates = [(name, float(share)) for name, share in pairs]
        self._schedule = options.schedule.split(",")
        for name in (*self._schedule, *dict(self._forced), *dict(self._rates)):
            if name not in FAULTS:
                raise SystemExit(f"no such fault: {name}")

    def draw(self, request: dict[str, Any]) -> tuple[str, int]:
        """The fault, and how many requests with these messages and this seed came before."""
        text = json.dumps([request["messages"], request.get("seed")])
        attempt = self._asked[text]
        self._asked[text] += 1
        if own := re.search(r"^Schedule: *(\S+)$", request["messages"][-1]["content"], re.M):
            return _turn(own[1].split(","), attempt), attempt
        caption, _ = find_caption(request["messages"])
        for name, pattern in self._forced:
            if re.search(pattern, caption):
                return name, attempt
        if not self._rates:
            return _turn(self._schedule, attempt), attempt
        by = f"{self._options.seed} {text}"
        if self._options.draw_by == "attempt":
            by += f" {attempt}"
        point = int.from_bytes(hashlib.sha256(by.encode()).digest()[:8], "big") / 2**64
        for name, share in self._rates:
            if point < share:
                return name, attempt
            point -= share
        return "ok", attempt


def _turn(schedule: list[str], attempt: int) -> str:
    return schedule[min(attempt, len(schedule) - 1)]
