"""The caption grammar: loads and checks the data file, and draws phrases from it.

The file's format is explained at the top of grammars/default.yaml.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

DEFAULT_GRAMMAR = Path(__file__).parent / "grammars" / "default.yaml"

KINDS = ("has", "is", "does", "wears", "clause", "sentence")
"""The rules that phrases are drawn from."""

FRAMES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    name: (frozenset(required), frozenset(optional))
    for name, required, optional in (
        ("say_has", ["list"], []),
        ("say_has_again", ["list"], []),
        ("say_is", ["list"], []),
        ("say_wears", ["list"], []),
        ("join", ["one", "two"], []),
        ("join_long", ["one", "two"], []),
        ("join_clause", ["one", "two"], []),
        ("first", ["noun"], ["phrases", "with"]),
        ("later", ["phrases"], []),
        ("bare", ["noun"], []),
    )
}
"""The rules that phrases are put together by: the holes each must have, and those it may have."""

MARK = re.compile(r"\[(\w+):([^\[\]]+)\]")
SLOT = re.compile(r"\{(\w+)\}")
SYMBOL = re.compile(r"<(\w+)>")

T = TypeVar("T")


class GrammarError(ValueError):
    """The grammar file cannot be used; the message names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One right-hand side of a rule."""

    text: str
    weight: float
    labels: frozenset[str]
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """The words for the person; `plural` is the number of the verb after `they`."""

    noun: str
    they: str
    their: str
    plural: bool


@dataclass(frozen=True, slots=True)
class Phrase:
    """A drawn phrase: its kind, its text with marks and slots in it, and the labels it states."""

    kind: str
    text: str
    labels: frozenset[str]


@dataclass(frozen=True)
class Grammar:
    """A checked grammar. `sha256` is the hash of its file."""

    sha256: str
    verbs: Mapping[str, str]
    people: Mapping[str, Person]
    topics: Mapping[str, tuple[str, ...]]
    conflicts: tuple[tuple[str, ...], ...]
    rules: Mapping[str, tuple[Alternative, ...]]

    @property
    def labels(self) -> frozenset[str]:
        """The labels it can say of a face; Male is said by the noun."""
        return frozenset(label for topic in self.topics.values() for label in topic)

    def draw_phrase(self, labels: Collection[str], rng: random.Random) -> Phrase:
        """A phrase of any kind about some of `labels`, none of which the file lacks."""
        usable = [
            (kind, alternative, size)
            for kind in KINDS
            for alternative in self.rules[kind]
            if (size := self._size(alternative, labels)) is not None
        ]
        largest = max(size for _, _, size in usable)
        best = [(kind, alternative) for kind, alternative, size in usable if size == largest]
        kind, alternative = pick(best, [a.weight for _, a in best], rng)
        text = self._expand(alternative, labels, rng)
        return Phrase(kind, text, frozenset(label for label, _ in MARK.findall(text)))

    def draw_frame(
        self, rule: str, rng: random.Random, shapes: Collection[Collection[str]] = ((),)
    ) -> str:
        """An alternative of a FRAMES rule, of which it has exactly those of the holes phrases and
        with that one of `shapes` names."""
        wanted = [set(shape) for shape in shapes]
        usable = [a for a in self.rules[rule] if _shape(a) in wanted]
        return self._expand(pick(usable, [a.weight for a in usable], rng), (), rng)

    def realisations(self) -> dict[str, set[str]]:
        """The words by which each label is said; Male is said by `people.man`."""
        wordings: dict[str, set[str]] = {}
        for alternatives in self.rules.values():
            for alternative in alternatives:
                for label, words in MARK.findall(alternative.text):
                    wordings.setdefault(label, set()).add(words)
        return wordings

    def _size(self, alternative: Alternative, labels: Collection[str]) -> int | None:
        """The most labels of `labels` it can state; None where it needs others."""
        if any(label not in labels for label in alternative.labels):
            return None
        size = len(alternative.labels)
        for symbol in alternative.symbols:
            sizes = [self._size(a, labels) for a in self.rules[symbol]]
            usable = [s for s in sizes if s is not None]
            if not usable:
                return None
            size += max(usable)
        return size

    def _expand(self, alternative: Alternative, labels: Collection[str], rng: random.Random) -> str:
        def expand(match: re.Match[str]) -> str:
            sized = [(a, self._size(a, labels)) for a in self.rules[match[1]]]
            largest = max(size for _, size in sized if size is not None)
            best = [a for a, size in sized if size == largest]
            return self._expand(pick(best, [a.weight for a in best], rng), labels, rng)

        return SYMBOL.sub(expand, alternative.text)


def _shape(alternative: Alternative) -> set[str]:
    return {"phrases", "with"} & set(SLOT.findall(alternative.text))


def pick(items: Sequence[T], weights: Sequence[float], rng: random.Random) -> T:
    """One of `items` by weight. Only `rng.random()` is used: of all of `random`, its sequence
    alone is promised to stay the same over Python versions."""
    point = rng.random() * math.fsum(weights)
    for item, weight in zip(items, weights, strict=True):
        point -= weight
        if point < 0:
            return item
    return items[-1]


def load_grammar(path: str | Path | None = None) -> Grammar:
    """The grammar in the YAML file at `path` (None: the default one).

    Raises `GrammarError` naming the file, the rule and what is wrong with it.
    """
    path = DEFAULT_GRAMMAR if path is None else Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise GrammarError(f"caption.grammar: cannot read {path}: {error.strerror}") from None
    try:
        data = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GrammarError(f"caption.grammar: {path} is not YAML: {error}") from None
    try:
        return parse_grammar(data, hashlib.sha256(raw).hexdigest())
    except GrammarError as error:
        raise GrammarError(f"caption.grammar: {path}: {error}") from None


def parse_grammar(data: Any, sha256: str = "") -> Grammar:
    """A checked grammar from the file's content; raises `GrammarError` naming the rule."""
    sections = ("verbs", "people", "topics", "conflicts", "rules")
    if not isinstance(data, dict) or set(data) != set(sections):
        raise GrammarError(f"must have exactly the sections {', '.join(sections)}")
    for name in ("verbs", "people", "topics", "rules"):
        if not isinstance(data[name], dict) or not data[name]:
            raise GrammarError(f"{name}: must map names to their entries")
    grammar = Grammar(
        sha256=sha256,
        verbs={str(k): str(v) for k, v in data["verbs"].items()},
        people=_people(data["people"]),
        topics={str(k): _names(f"topics.{k}", v) for k, v in data["topics"].items()},
        conflicts=tuple(_names("conflicts", line) for line in data["conflicts"] or ()),
        rules={str(name): _alternatives(str(name), v) for name, v in data["rules"].items()},
    )
    _check_rules(grammar)
    _check_labels(grammar)
    return grammar


def _people(data: dict[Any, Any]) -> dict[str, Person]:
    if set(data) != {"man", "woman", "person"}:
        raise GrammarError("people: must be man, woman and person")
    people = {}
    for name, words in data.items():
        if not isinstance(words, dict) or set(words) != {"noun", "they", "their", "plural"}:
            raise GrammarError(f"people.{name}: must have noun, they, their and plural")
        plural = words["plural"]
        if not isinstance(plural, bool):
            raise GrammarError(f"people.{name}.plural: must be true or false")
        people[name] = Person(str(words["noun"]), str(words["they"]), str(words["their"]), plural)
    return people


def _names(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise GrammarError(f"{where}: must be a list of labels")
    return tuple(value)


def _alternatives(rule: str, value: Any) -> tuple[Alternative, ...]:
    if not isinstance(value, list) or not value:
        raise GrammarError(f"rule {rule}: must be a list of alternatives")
    return tuple(_alternative(rule, item) for item in value)


def _alternative(rule: str, item: Any) -> Alternative:
    if isinstance(item, dict) and set(item) <= {"say", "weight"}:
        text, weight = item.get("say"), item.get("weight", 1)
    else:
        text, weight = item, 1
    if not isinstance(text, str) or not text.strip():
        raise GrammarError(f"rule {rule}: {item!r} is neither a text nor {{say, weight}}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise GrammarError(f"rule {rule}: the weight of {text!r} must be a positive number")
    if re.search(r"[\[\]{}<>]", SYMBOL.sub("", SLOT.sub("", MARK.sub(r"\2", text)))):
        raise GrammarError(f"rule {rule}: unbalanced or unknown brackets in {text!r}")
    marks = MARK.findall(text)
    labels = [label for label, _ in marks]
    if len(set(labels)) < len(labels) or any(re.search("[<{]", words) for _, words in marks):
        raise GrammarError(f"rule {rule}: {text!r} states a label twice, or not by plain words")
    if text != " ".join(text.split()):
        raise GrammarError(f"rule {rule}: needless spaces in {text!r}")
    return Alternative(text, float(weight), frozenset(labels), tuple(SYMBOL.findall(text)))


def _check_rules(grammar: Grammar) -> None:
    """Symbols, slots and holes: all defined, all reachable, none in a circle."""
    rules = grammar.rules
    for root in (*KINDS, *FRAMES):
        if root not in rules:
            raise GrammarError(f"rule {root}: is missing")
    words = {"they", "their", "noun", "a", *grammar.verbs}
    states: dict[str, frozenset[str]] = {}

    def visit(rule: str, trail: tuple[str, ...]) -> frozenset[str]:
        """The labels that `rule` can state."""
        if rule in trail:
            raise GrammarError(f"rule {rule}: is made of itself ({' > '.join((*trail, rule))})")
        if rule in states:
            return states[rule]
        found: set[str] = set()
        for alternative in rules[rule]:
            said = set(alternative.labels)
            for symbol in alternative.symbols:
                if symbol not in rules:
                    raise GrammarError(f"rule {rule}: <{symbol}> is not defined")
                below = visit(symbol, (*trail, rule))
                if said & below:
                    raise GrammarError(f"rule {rule}: {alternative.text!r} may state a label twice")
                said |= below
            required, optional = FRAMES.get(rule, (frozenset(), frozenset()))
            slots = SLOT.findall(alternative.text)
            if unknown := set(slots) - words - required - optional:
                raise GrammarError(f"rule {rule}: unknown slot {{{min(unknown)}}}")
            if missing := required - set(slots):
                raise GrammarError(f"rule {rule}: {alternative.text!r} lacks {{{min(missing)}}}")
            if rule in FRAMES and said:
                raise GrammarError(f"rule {rule}: {alternative.text!r} must not state a label")
            if rule in KINDS and not said:
                raise GrammarError(f"rule {rule}: {alternative.text!r} states no label")
            found |= said
        states[rule] = frozenset(found)
        return states[rule]

    for root in (*KINDS, *FRAMES):
        visit(root, ())
    if unreachable := sorted(set(rules) - set(states)):
        raise GrammarError(f"rule {unreachable[0]}: is never used")
    if {"phrases"} not in map(_shape, rules["first"]):
        raise GrammarError("rule first: needs an alternative with {phrases} and without {with}")


def _check_labels(grammar: Grammar) -> None:
    """Every label of the topics can be said alone, and no others are."""
    listed = [label for topic in grammar.topics.values() for label in topic]
    for label in listed:
        if listed.count(label) > 1:
            raise GrammarError(f"topics: {label} is in more than one place")
        if not any(grammar._size(a, (label,)) is not None for k in KINDS for a in grammar.rules[k]):
            raise GrammarError(f"topics: no rule can say {label} by itself")
    if homeless := sorted(grammar.realisations().keys() - set(listed)):
        raise GrammarError(f"topics: {homeless[0]} is said by a rule but is in no topic")
    for line in grammar.conflicts:
        if unknown := set(line) - set(listed):
            raise GrammarError(f"conflicts: {min(unknown)} is in no topic")
