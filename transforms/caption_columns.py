"""The stored columns about the captions of a face, and which text is the one in KEY.txt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from facecap.schemas.captions import UNANSWERED, Caption, CaptionSource, Rewrite

TextChoice = Literal["rewrite", "grammar", "alt_text"]

MAX_UNANSWERED = 3
"""Captions of a shard that may stay unanswered whatever their share is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What every rewrite of a dataset is asked with, as stored with each; plain data."""

    model: str
    prompts: str
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class CaptionConfig:
    """What is stored of captions: the `text` that `caption` and KEY.txt hold (`caption.text`), and
    what rewrites are asked with, None where there are none."""

    text: TextChoice = "rewrite"
    asked: Asked | None = None


def choose_text(
    caption: Caption, alt_text: str | None, text: TextChoice
) -> tuple[str, CaptionSource]:
    """The caption's text by `caption.text`, and whose words it is. The alt text where there is one,
    the rewrite where one passed, and the grammar's words where not."""
    if text == "alt_text" and alt_text is not None and alt_text.strip():
        return alt_text, CaptionSource.ALT_TEXT
    if text != "grammar" and caption.rewrite is not None and caption.rewrite.text is not None:
        return caption.rewrite.text, CaptionSource.REWRITE
    return caption.raw, CaptionSource.GRAMMAR


def caption_columns(
    captions: Sequence[Caption], alt_text: str | None, config: CaptionConfig
) -> dict[str, Any]:
    """The columns about the captions (schemas.tables.CAPTION, and `captions`) of one face."""
    stored = [_stored(caption, alt_text, config) for caption in captions]
    first = {name: value for name, value in stored[0].items() if name != "rewrite"}
    return {**first, "captions": stored}


def _stored(caption: Caption, alt_text: str | None, config: CaptionConfig) -> dict[str, Any]:
    text, source = choose_text(caption, alt_text, config.text)
    rewrite = caption.rewrite
    return {
        "caption": text,
        "caption_source": source,
        "raw_caption": caption.raw,
        "rewritten_caption": rewrite.text if rewrite else None,
        "rewrite_fault": rewrite.fault.kind if rewrite and rewrite.fault else None,
        "stated_labels": list(caption.stated),
        "rewrite": _asked(rewrite, config.asked) if rewrite and config.asked else None,
    }


def _asked(rewrite: Rewrite, asked: Asked) -> dict[str, Any]:
    return {
        "model": asked.model,
        "prompts": asked.prompts,
        "style": rewrite.style,
        "seed": rewrite.seed,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_tokens": asked.max_tokens,
        "tries": rewrite.tries,
        "key": rewrite.key,
        "error": rewrite.fault.detail if rewrite.fault else None,
    }


def count_captions(faces: Iterable[list[dict[str, Any]]]) -> dict[str, int]:
    """How many captions are whose words, over the column `captions` of the metadata; a rewrite's
    fault is named with them, as in `grammar/missing`."""
    counts: Counter[str] = Counter()
    for captions in faces:
        for caption in captions:
            fault = caption["rewrite_fault"]
            counts[
                f"{caption['caption_source']}/{fault}" if fault else caption["caption_source"]
            ] += 1
    return dict(sorted(counts.items()))


def too_few_answers(counts: Mapping[str, int], minimum: float) -> str | None:
    """What to say where less than the share `minimum` of the captions counted was answered, well or
    badly; None where enough were, or where those that were not are very few."""
    unanswered: Counter[str] = Counter()
    for name, number in counts.items():
        fault = name.partition("/")[2]
        if fault in UNANSWERED:
            unanswered[fault] += number
    missing, total = unanswered.total(), sum(counts.values())
    if missing <= MAX_UNANSWERED or total - missing >= round(minimum * total, 6):
        return None
    faults = ", ".join(f"{name} {number}" for name, number in sorted(unanswered.items()))
    return (
        f"{missing} of {total} captions got no answer ({faults}), more than rewrite.min_answered="
        f"{minimum:g} allows; see to the server and give the same command"
    )
