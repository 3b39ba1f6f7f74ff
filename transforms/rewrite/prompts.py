"""Prompt sets: what a model is told, by style, with worked examples; data files, versioned."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.captions import Fault, Person
from facecap.transforms.rewrite.backend import Message, Prompt

DEFAULT_PROMPTS = Path(__file__).parent / "prompts" / "v1.yaml"

MAX_SAID = 1000
"""Characters of a wrong answer that are sent back: all of one that is a caption."""

PEOPLE: tuple[Person, ...] = get_args(Person)
_HOLES = {"request": {"caption", "attributes", "person"}, "retry": {"fault"}}
_SECTIONS = {"version", "rules", "request", "retry", "people", "attributes", "styles"}


class PromptError(ValueError):
    """The prompt file cannot be used; the message names the file and the place."""


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example: a caption over `labels`, and a rewrite that is true to them."""

    labels: tuple[str, ...]
    person: Person
    caption: str
    rewrite: str


@dataclass(frozen=True, slots=True)
class Style:
    """How captions of this style shall sound."""

    instruction: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class PromptSet:
    """A checked prompt file; `sha256` is its hash. Plain data, part of the graph."""

    version: int
    sha256: str
    rules: str
    request: str
    retry: str
    people: Mapping[Person, str]
    attributes: Mapping[str, str]
    styles: Mapping[str, Style]

    def prompt(
        self, style: str, caption: str, labels: Sequence[str], person: Person, seed: int
    ) -> Prompt:
        """What asks for a rewrite of `caption`, which states `labels`, in one of `styles`."""
        chosen = self.styles[style]
        messages = [Message("system", f"{self.rules.strip()}\nStyle: {chosen.instruction}")]
        for example in chosen.examples:
            asked = self._request(example.caption, example.labels, example.person)
            messages += [Message("user", asked), Message("assistant", example.rewrite)]
        messages.append(Message("user", self._request(caption, labels, person)))
        return Prompt(tuple(messages), seed)

    def once_more(self, prompt: Prompt, answer: str, fault: Fault, seed: int) -> Prompt:
        """`prompt` continued: its `answer`, told up to a length, had `fault`."""
        said = Message("assistant", answer[:MAX_SAID])
        asked = Message("user", self.retry.format(fault=fault.detail))
        return Prompt((*prompt.messages, said, asked), seed)

    def _request(self, caption: str, labels: Sequence[str], person: Person) -> str:
        named = (self.attributes.get(n, n.replace("_", " ").lower()) for n in labels)
        return self.request.format(
            caption=caption, attributes=", ".join(named), person=self.people[person]
        )


def load_prompts(path: str | Path | None = None) -> PromptSet:
    """The prompt set in the YAML file at `path` (None: the packaged one).

    Raises `PromptError` naming the file, the place and what is wrong there.
    """
    path = DEFAULT_PROMPTS if path is None else Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PromptError(f"rewrite.prompts: cannot read {path}: {error.strerror}") from None
    try:
        data = yaml.safe_load(raw)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: 2001-99-99, no UTF-8
        reason = " ".join(str(error).split())
        raise PromptError(f"rewrite.prompts: {path} is not YAML: {reason}") from None
    try:
        return parse_prompts(data, hashlib.sha256(raw).hexdigest())
    except PromptError as error:
        raise PromptError(f"rewrite.prompts: {path}: {error}") from None


def parse_prompts(data: Any, sha256: str = "") -> PromptSet:
    """A checked prompt set from the file's content; raises `PromptError` naming the place."""
    if not isinstance(data, dict) or set(data) != _SECTIONS:
        raise PromptError(f"must have exactly the sections {', '.join(sorted(_SECTIONS))}")
    version = data["version"]
    if isinstance(version, bool) or not isinstance(version, int):
        raise PromptError("version: must be a whole number")
    for name, holes in _HOLES.items():
        found = _holes(name, _text(name, data[name]))
        if found != holes:
            raise PromptError(f"{name}: must have the holes {', '.join(sorted(holes))}, no others")
    people = _texts("people", data["people"])
    if set(people) != set(PEOPLE):
        raise PromptError(f"people: must be {', '.join(PEOPLE)}")
    attributes = _texts("attributes", data["attributes"])
    if unknown := sorted(set(attributes) - set(ATTRIBUTES)):
        raise PromptError(f"attributes.{unknown[0]}: is no label of CelebA's")
    styles = data["styles"]
    if not isinstance(styles, dict) or not styles:
        raise PromptError("styles: must map names to styles")
    return PromptSet(
        version=version,
        sha256=sha256,
        rules=_text("rules", data["rules"]),
        request=data["request"],
        retry=data["retry"],
        people={person: people[person] for person in PEOPLE},
        attributes=attributes,
        styles={str(name): _style(f"styles.{name}", style) for name, style in styles.items()},
    )


def _style(where: str, data: Any) -> Style:
    if not isinstance(data, dict) or set(data) != {"instruction", "examples"}:
        raise PromptError(f"{where}: must have instruction and examples")
    examples = data["examples"]
    if not isinstance(examples, list) or not examples:
        raise PromptError(f"{where}.examples: must be a list of examples")
    return Style(
        _text(f"{where}.instruction", data["instruction"]),
        tuple(_example(f"{where}.examples.{i}", e) for i, e in enumerate(examples)),
    )


def _example(where: str, data: Any) -> Example:
    if not isinstance(data, dict) or set(data) != {"labels", "person", "caption", "rewrite"}:
        raise PromptError(f"{where}: must have labels, person, caption and rewrite")
    labels, person = data["labels"], data["person"]
    if not isinstance(labels, list) or not labels or not set(map(str, labels)) <= set(ATTRIBUTES):
        raise PromptError(f"{where}.labels: must be a list of CelebA's labels")
    if person not in PEOPLE:
        raise PromptError(f"{where}.person: must be one of {', '.join(PEOPLE)}")
    caption, rewrite = (_text(f"{where}.{n}", data[n]) for n in ("caption", "rewrite"))
    return Example(tuple(labels), person, caption, rewrite)


def _texts(where: str, data: Any) -> dict[str, str]:
    if not isinstance(data, dict):
        raise PromptError(f"{where}: must map names to texts")
    return {str(name): _text(f"{where}.{name}", text) for name, text in data.items()}


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PromptError(f"{where}: must be a text")
    return value


def _holes(where: str, text: str) -> set[str]:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise PromptError(f"{where}: {error}; double a brace that stands for itself") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise PromptError(f"{where}: a hole is a name in braces, nothing else")
    return {name for _, name, _, _ in parts if name is not None}
