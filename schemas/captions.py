"""A caption of a face: where its words come from, and what was wrong with a rewrite."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Person = Literal["man", "woman", "person"]
"""How a caption may speak of the person: by words for a man, for a woman, or by neither's."""


class CaptionSource(StrEnum):
    """Whose words a caption is."""

    GRAMMAR = "grammar"
    REWRITE = "rewrite"
    ALT_TEXT = "alt_text"


class RewriteFault(StrEnum):
    """Why a rewrite was not taken: value, meaning. The grammar's text stands in its place."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> RewriteFault:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # what the text says (transforms/rewrite/faithfulness.py)
    MISSING = "missing", "a label that it was given to state is not stated"
    NEGATED = "negated", "a label that it was given to state is negated or contradicted"
    ADDED = "added", "it says of the looks, the clothes or the scene what no label says"
    GENDER = "gender", "its words are for another gender, or for one where none was given"
    BEYOND = "beyond", "it guesses at ethnicity, health, feelings, character, age or work"
    NAME = "name", "it names somebody"
    META_TEXT = "meta_text", "it speaks of itself, of the task or to the reader"
    LENGTH = "length", "it is too short or too long for what it has to say"
    LANGUAGE = "language", "it is not English prose"
    # what became of the request (transforms/rewrite/)
    MALFORMED = "malformed", "the answer is not what the protocol or the schema says"
    TRUNCATED = "truncated", "the answer was cut off, by the connection or by max_tokens"
    REFUSED = "refused", "the model or its server declined"
    RATE_LIMITED = "rate_limited", "HTTP 429 after all attempts"
    SERVER_ERROR = "server_error", "HTTP 5xx after all attempts"
    TIMEOUT = "timeout", "no answer in time, after all attempts"
    CONNECTION = "connection", "no connection, after all attempts"


UNREACHED = frozenset(
    {
        RewriteFault.RATE_LIMITED,
        RewriteFault.SERVER_ERROR,
        RewriteFault.TIMEOUT,
        RewriteFault.CONNECTION,
    }
)
"""No attempt reached an answer: asking again at once is of no use."""

UNANSWERED = UNREACHED | {RewriteFault.MALFORMED, RewriteFault.TRUNCATED}
"""There is no text to check. A gateway's error page, a server that dies within its answers and a
model that never comes to its end look like this, too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a rewrite; `detail` names it in words that a model can act upon."""

    kind: RewriteFault
    detail: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What an LLM made of a caption: `text` that passed every check, or the `fault`.

    `style` and `seed` (of the sampling) are what it was asked with, `tries` how often (0 to 2: once
    more with the fault named). `key` is the face that it was asked for: another's where faces
    share a rewrite.
    """

    text: str | None
    fault: Fault | None
    style: str
    seed: int
    tries: int
    key: str


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of a face: the grammar's words `raw`, which state the labels `stated`, in this
    order, and speak of a `person`; and what became of its rewriting, if that was asked for."""

    raw: str
    stated: tuple[str, ...]
    person: Person
    rewrite: Rewrite | None = None
