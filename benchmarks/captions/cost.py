"""What rewriting costs: tokens per call, and days of a GPU at a measured rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from benchmarks.captions.composed import Composed
from benchmarks.captions.text_stats import words_of
from facecap.transforms.rewrite.prompts import PromptSet

RATES = Path(__file__).parent / "throughput.yaml"
TOKENS_PER_WORD = 1.35
"""Assumed, punctuation included."""
TOKENS_PER_MESSAGE = 5
"""Assumed: what a chat template puts around a message."""
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast `device` answers: `rate` completion tokens or prompts per second."""

    name: str
    device: str
    rate: float
    unit: Literal["completion_tokens", "prompts"]
    source: str

    def days(self, calls: float, completion_tokens: float) -> float:
        """Days of one device for `calls`, each answered with `completion_tokens`."""
        units = calls * completion_tokens if self.unit == "completion_tokens" else calls
        return units / self.rate / SECONDS_PER_DAY


def load_rates(file: Path = RATES) -> list[Rate]:
    """The rates of the YAML file."""
    return [Rate(**entry) for entry in yaml.safe_load(file.read_text("utf-8"))]


def tokens_in(text: str) -> float:
    """About how many tokens `text` is, for any tokenizer of that kind."""
    return TOKENS_PER_WORD * len(words_of(text))


def prompt_tokens(prompts: PromptSet, captions: Sequence[Composed]) -> float:
    """The mean tokens of a prompt for `captions`, over all styles."""
    return statistics.fmean(
        sum(TOKENS_PER_MESSAGE + tokens_in(message.content) for message in prompt.messages)
        for style in prompts.styles
        for caption in captions
        for prompt in [prompts.prompt(style, caption.text, caption.stated, caption.person, 0)]
    )


def completion_tokens(captions: Sequence[Composed]) -> float:
    """The mean tokens of an answer, were it as long as the caption that it rewrites."""
    return statistics.fmean(tokens_in(caption.text) for caption in captions)
