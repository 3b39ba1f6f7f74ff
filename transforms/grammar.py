"""Reads a caption grammar from its data file, and checks it whole: a fault names the rule.

The file's format is explained at the top of grammars/default.yaml.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from facecap.transforms.grammar_checks import (
    PEOPLE,
    GrammarError,
    check_frames,
    check_labels,
    check_rules,
    check_topics,
)
from facecap.transforms.grammar_model import Grammar
from facecap.transforms.grammar_rules import (
    GROUPING,
    KINDS,
    MARK,
    SLOT,
    SYMBOL,
    Alternative,
    Person,
    Phrase,
)

__all__ = ["DEFAULT_GRAMMAR", "Grammar", "GrammarError", "load_grammar", "parse_grammar"]

DEFAULT_GRAMMAR = Path(__file__).parent / "grammars" / "default.yaml"

MAX_PHRASES = 20_000
"""More than this take too long to look through."""


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
    except (RecursionError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise GrammarError(f"caption.grammar: {path} is not YAML: {error}") from None
    try:
        return parse_grammar(data, hashlib.sha256(raw).hexdigest())
    except GrammarError as error:
        raise GrammarError(f"caption.grammar: {path}: {error}") from None


def parse_grammar(data: Any, sha256: str = "") -> Grammar:
    """A checked grammar from the file's content; raises `GrammarError` naming the rule."""
    sections = ("verbs", "people", "topics", "conflicts", "together", "avoid", "rules")
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
        together=tuple(frozenset(_names("together", line)) for line in data["together"] or ()),
        avoid=tuple(_pattern(pattern) for pattern in data["avoid"] or ()),
        rules={str(name): _alternatives(str(name), v) for name, v in data["rules"].items()},
        phrases={},
    )
    check_rules(grammar)
    check_topics(grammar)
    grammar = replace(grammar, phrases=_phrases(grammar))
    check_labels(grammar)
    check_frames(grammar)
    return grammar


def _people(data: dict[Any, Any]) -> dict[str, Person]:
    if set(data) != set(PEOPLE):
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
        raise GrammarError(f"{where}: must be a list of names")
    return tuple(value)


def _pattern(value: Any) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except (re.error, TypeError) as error:
        raise GrammarError(f"avoid: {value!r} is no regular expression: {error}") from None


def _alternatives(rule: str, value: Any) -> tuple[Alternative, ...]:
    if not isinstance(value, list) or not value:
        raise GrammarError(f"rule {rule}: must be a list of alternatives")
    return tuple(_alternative(rule, item) for item in value)


def _alternative(rule: str, item: Any) -> Alternative:
    entry = item if isinstance(item, dict) else {"say": item}
    text, weight = entry.get("say"), entry.get("weight", 1)
    known = {"say", "weight", "people", "topics", "hedge", "many"}
    if not set(entry) <= known or not isinstance(text, str) or not text.strip():
        raise GrammarError(f"rule {rule}: {item!r} is neither a text nor {{say, weight, ...}}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise GrammarError(f"rule {rule}: the weight of {text!r} must be a positive number")
    if re.search(r"[\[\]{}<>]", SYMBOL.sub("", SLOT.sub("", MARK.sub(r"\2", text)))):
        raise GrammarError(f"rule {rule}: unbalanced or unknown brackets in {text!r}")
    marks = MARK.findall(text)
    labels = [label for label, _ in marks]
    if len(set(labels)) < len(labels) or any("<" in words for _, words in marks):
        raise GrammarError(f"rule {rule}: {text!r} states a label twice, or not by plain words")
    if text != " ".join(text.split()):
        raise GrammarError(f"rule {rule}: needless spaces in {text!r}")
    only = {
        key: frozenset(_names(f"rule {rule}: {key} of {text!r}", entry[key]))
        for key in ("people", "topics")
        if key in entry
    }
    hedge = entry.get("hedge", "")
    if hedge not in ("", "self", "never"):
        raise GrammarError(f"rule {rule}: hedge of {text!r} must be self or never")
    many = entry.get("many", False)
    if not isinstance(many, bool):
        raise GrammarError(f"rule {rule}: many of {text!r} must be true or false")
    return Alternative(text, float(weight), hedge=hedge, many=many, **only)


def _phrases(grammar: Grammar) -> Mapping[str, tuple[Phrase, ...]]:
    """Every phrase of every kind, by the topic of the label that it states first; an adjective by
    the topics of all its labels."""
    topic_of = {label: name for name, topic in grammar.topics.items() for label in topic}
    found: dict[str, list[Phrase]] = {name: [] for name in grammar.topics}
    count = 0
    for kind in KINDS:
        for alternative in grammar.rules[kind]:
            for whole in _expansions(grammar, alternative):
                labels = [label for label, _ in MARK.findall(whole.text)]
                weight = whole.weight * GROUPING ** (len(labels) - 1)
                phrase = Phrase(
                    kind, whole.text, frozenset(labels), weight, whole.people, whole.hedge
                )
                # Of adjectives, the one that states the most has to be found from every topic.
                topics = [topic_of[label] for label in labels]
                for topic in dict.fromkeys(topics if kind == "adjective" else topics[:1]):
                    found[topic].append(phrase)
                count += 1
                if count > MAX_PHRASES:
                    raise GrammarError(f"rule {kind}: over {MAX_PHRASES} phrases")
    return {name: tuple(phrases) for name, phrases in found.items()}


def _expansions(grammar: Grammar, alternative: Alternative) -> Iterator[Alternative]:
    """Every text without symbols that it stands for, as an alternative of its own."""
    choices = [
        [below for a in grammar.rules[symbol] for below in _expansions(grammar, a)]
        for symbol in alternative.symbols
    ]
    for chosen in product(*choices):
        parts = (alternative, *chosen)
        limits = [part.people for part in parts if part.people]
        people = frozenset.intersection(*limits) if limits else frozenset()
        if limits and not people:
            continue
        text = alternative.text
        for symbol, part in zip(alternative.symbols, chosen, strict=True):
            text = text.replace(f"<{symbol}>", part.text, 1)
        yield Alternative(
            text,
            math.prod(part.weight for part in parts),
            people,
            hedge=max(part.hedge for part in parts),
        )
