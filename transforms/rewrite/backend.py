"""What is asked of an LLM, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from facecap.schemas.captions import Fault


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation to be continued by the model, and the seed of its sampling (0 to 2**31-1)."""

    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said: `text`, or the fault of the request. Tokens as the model counts them."""

    text: str | None
    fault: Fault | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
