"""One caption to an LLM and back: asked in a style, checked, asked once more with the fault named.

Nothing here drops a face: what cannot be had is a fault, and the grammar's words stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from facecap.schemas.captions import (
    UNANSWERED,
    UNREACHED,
    Caption,
    Fault,
    Person,
    Rewrite,
    RewriteFault,
)
from facecap.transforms.rewrite.backend import Answer, Prompt
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import PromptSet

MAX_DETAIL = 200
"""Characters of a fault's words: they quote what a server sent, and are stored."""

SEEDS = 2**31
"""Sampling seeds are below it: some servers take no larger ones."""


@dataclass(frozen=True, slots=True)
class Task:
    """A caption to be rewritten; `key` is its face's, `style` and `seed` are drawn by
    `make_task`."""

    key: str
    raw: str
    labels: tuple[str, ...]
    person: Person
    style: str
    seed: int


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task, and the tokens it took."""

    rewrite: Rewrite
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def answered(self) -> bool:
        """Whether there was a text to check, true or false, or a refusal."""
        fault = self.rewrite.fault
        return fault is None or fault.kind not in UNANSWERED


def make_task(
    caption: Caption, key: str, number: int, styles: Sequence[str], options: RewriteOptions
) -> Task:
    """The task of rewriting `caption`, the face's `number`-th: its style and seed follow from
    `rewrite.seed`, `key` and `number` alone, so that every run asks the same. The captions of a
    face have different styles while there are any."""
    first = _draw(options.seed, key)
    style = styles[(first + number) % len(styles)]
    seed = _draw(options.seed, f"{key} {number}") % SEEDS
    return Task(key, caption.raw, caption.stated, caption.person, style, seed)


def _draw(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")


async def rewrite(
    task: Task,
    ask: Callable[[Prompt], Awaitable[Answer]],
    prompts: PromptSet,
    checker: Checker,
) -> Done:
    """The rewrite of a caption, or the fault of the last attempt: never an exception but those
    that `ask` raises to stop the build."""
    prompt = prompts.prompt(task.style, task.raw, task.labels, task.person, task.seed)
    asked = said = 0
    for tries in (1, 2):
        answer = await ask(prompt)
        asked += answer.prompt_tokens
        said += answer.completion_tokens
        text, fault = _judge(answer, task, checker)
        if fault is None or fault.kind in UNREACHED or tries == 2:
            break
        seed = (task.seed + 1) % SEEDS
        if answer.text is None:  # there is nothing to correct
            prompt = Prompt(prompt.messages, seed)
        else:
            prompt = prompts.once_more(prompt, answer.text, fault, seed)
    done = Rewrite(text, fault, task.style, prompt.seed, tries, task.key)
    return Done(done, asked, said)


def _judge(answer: Answer, task: Task, checker: Checker) -> tuple[str | None, Fault | None]:
    """The text where it may be taken, else what is wrong."""
    if answer.fault is not None or answer.text is None:
        return None, answer.fault or Fault(RewriteFault.MALFORMED, "there is no text")
    text = " ".join(answer.text.split())
    fault = checker.check(text, task.labels, task.person)
    if fault is None:
        return text, None
    return None, Fault(fault.kind, fault.detail[:MAX_DETAIL])
