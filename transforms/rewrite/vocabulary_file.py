"""Reads and checks the data file of the faithfulness checker's vocabulary.

The file's format is explained at the top of vocabulary.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite.lexicon import DEFAULT_VOCABULARY, Outcome, Vocabulary, Word

PSEUDO_LABELS = ("Beard", "Facial_Hair", "Hair", "Jewellery", "Accessories")
"""What a text can state besides the labels."""

FAULTS = {
    fault.value: fault
    for fault in (
        RewriteFault.META_TEXT,
        RewriteFault.NAME,
        RewriteFault.ADDED,
        RewriteFault.BEYOND,
        RewriteFault.LANGUAGE,
    )
}

PARTS_OF_SPEECH = (
    *("determiner", "possessive", "subject", "pronoun", "conjunction", "contrast", "copula"),
    *("verb", "preposition", "adverb", "adjective", "noun", "transparent"),
)
NEGATORS = ("no", "without", "not", "rather_than", "absent")

SECTIONS = (
    *(
        "allowed_with",
        "exclusive",
        "features",
        "objects",
        "states",
        "values",
        "same_values",
        "negators",
    ),
    *(
        "not_negators",
        "existential",
        "conceals",
        "no_noun",
        "gender",
        "neutral",
        "faults",
        "foreign",
    ),
)


NO_NOUN = ("ed", "ing", "ly", "en", "made_up", "stubbly", "bristly")
"""Endings of the words of `objects` that are adjectives or verbs."""


class VocabularyError(ValueError):
    """The vocabulary file cannot be used; the message names the section and the word."""


@lru_cache(maxsize=1)
def default_vocabulary() -> Vocabulary:
    """The packaged vocabulary."""
    return load_vocabulary(DEFAULT_VOCABULARY)


def load_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in the YAML file at `path`.

    Raises `VocabularyError` naming the file, the section and what is wrong with it.
    """
    try:
        data = yaml.safe_load(Path(path).read_bytes())
        return parse_vocabulary(data)
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path} is not YAML: {error}") from None
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from None


def parse_vocabulary(data: Any) -> Vocabulary:
    """A checked vocabulary from the file's content; raises `VocabularyError`."""
    if not isinstance(data, dict) or set(data) != set(SECTIONS):
        raise VocabularyError(f"must have the sections {', '.join(SECTIONS)}")
    builder = _Builder()
    for mark in ".!?;:,()":
        builder.set(mark, pos=mark)
    for language_word in _words("foreign", data["foreign"]):
        builder.set(language_word, foreign=True, known=False)
    _add_neutral(builder, data["neutral"])
    for key, text in _items("faults", data["faults"]):
        for entry in _words(key, text):
            builder.set(
                entry, outcome=_outcome("faults", key), neutral=False, foreign=False, known=True
            )
    _add_looks(builder, data)
    for key, text in _items("gender", data["gender"]):
        for entry in _words(key, text):
            builder.set(entry, gender=key, default_pos="noun")
    for key, text in _items("negators", data["negators"]):
        if key not in NEGATORS:
            raise VocabularyError(f"negators: {key} is none of {', '.join(NEGATORS)}")
        for entry in _words(key, text):
            builder.set(entry, negator=key, outcome=None, readings=None, pos="negator")
    for entry in _words("not_negators", data["not_negators"]):
        builder.set(entry, pos="adverb")
    for entry in _words("existential", data["existential"]):
        builder.set(entry, existential=True)
    for entry in _words("conceals", data["conceals"]):
        builder.set(entry, conceals=True)
    for entry in _words("no_noun", data["no_noun"]):
        builder.set(entry, no_noun=True)
    allowed = {
        key: frozenset(_labels("allowed_with", labels))
        for key, labels in data["allowed_with"].items()
    }
    exclusive = {
        label: frozenset(_labels("exclusive", group)) - {label}
        for group in data["exclusive"]
        for label in group
    }
    return builder.build(allowed, exclusive, data["same_values"], frozenset(data["features"]))


def _add_looks(builder: _Builder, data: Any) -> None:
    """What is said of the face and of the things on it."""
    for key, text in _items("values", data["values"]):
        for said, entries in _items(f"values.{key}", text):
            for entry in _words(said, entries):
                builder.read(entry, key, _outcome(f"values.{key}", said))
    for key, text in _items("states", data["states"]):
        for entry in _words(key, text):
            builder.set(entry, outcome=_outcome("states", key), default_pos="adjective")
    for key, text in _items("features", data["features"]):
        for entry in _words(key, text):
            builder.set(entry, feature=key, pos="noun", outcome=None)
    for key, text in _items("objects", data["objects"]):
        for entry in _words(key, text):
            # "bespectacled" says it, but is no noun that an adjective could belong to.
            named = key if "ring" in entry or not entry.endswith(NO_NOUN) else ""
            pos = "noun" if named else "adjective"
            builder.set(entry, feature=named, outcome=_outcome("objects", key), default_pos=pos)


class _Builder:
    """Gathers what the sections of the file say of each word."""

    def __init__(self) -> None:
        self.entries: dict[str, Word] = {}

    def set(self, entry: str, default_pos: str = "", **changes: Any) -> None:
        word = self.entries.get(entry, Word())
        if default_pos and not word.pos:
            changes["pos"] = default_pos
        self.entries[entry] = replace(word, **changes)

    def read(self, entry: str, feature: str, outcome: Outcome) -> None:
        word = self.entries.get(entry, Word())
        readings = dict(word.readings or {})
        readings.setdefault(feature, outcome)
        pos = word.pos or "adjective"
        self.entries[entry] = replace(word, readings=readings, pos=pos, foreign=False, known=True)

    def build(
        self,
        allowed: dict[str, frozenset[str]],
        exclusive: dict[str, frozenset[str]],
        same: dict[str, str],
        nouns: frozenset[str],
    ) -> Vocabulary:
        words: dict[str, Word] = {}
        phrases: dict[str, list[tuple[tuple[str, ...], Word]]] = {}
        for entry, word in self.entries.items():
            first, *rest = entry.split("_")
            if rest:
                # "over her forehead" is said of a woman.
                genders = (
                    self.entries[part].gender for part in (first, *rest) if part in self.entries
                )
                word = replace(word, gender=word.gender or next(filter(None, genders), ""))
                phrases.setdefault(first, []).append((tuple(rest), word))
            else:
                words[entry] = word
        ordered = {
            first: tuple(sorted(found, key=lambda item: -len(item[0])))
            for first, found in phrases.items()
        }
        parts = nouns - {"person", "man", "woman", "photo", "face"}
        return Vocabulary(words, ordered, allowed, exclusive, same, nouns, parts)


def _add_neutral(builder: _Builder, section: Any) -> None:
    # "tone" and "shade" are nouns first.
    sections = sorted(_items("neutral", section), key=lambda item: item[0] == "transparent")
    for key, text in sections:
        entries = list(_words(key, text))
        if key == "verbs":
            for verb in entries:
                for form, pos in inflect(verb):
                    builder.set(form, pos=pos, neutral=True, foreign=False, known=True)
        elif key == "irregular":
            for entry in entries:
                builder.set(entry, pos="participle", neutral=True, foreign=False, known=True)
        elif key in PARTS_OF_SPEECH:
            for entry in entries:
                builder.set(entry, pos=key, neutral=True, foreign=False, known=True)
        else:
            raise VocabularyError(f"neutral: {key} is no part of speech")


DOUBLING = re.compile(r"[^aeiou]*[aeiou][bdgklmnprt]")
"""Verbs of one short syllable: "wrap", "wrapped"."""


def inflect(verb: str) -> Iterator[tuple[str, str]]:
    """The regular forms of a verb, each with its part of speech; of a phrase, its first word's."""
    first, underscore, rest = verb.partition("_")
    tail = underscore + rest
    stem = first + first[-1] if DOUBLING.fullmatch(first) else first
    yield first + tail, "verb"
    if first.endswith("y") and first[-2] not in "aeiou":
        yield first[:-1] + "ies" + tail, "verb"
        yield first[:-1] + "ied" + tail, "participle"
        yield first + "ing" + tail, "participle"
    elif first.endswith("e"):
        yield first + "s" + tail, "verb"
        yield first + "d" + tail, "participle"
        yield first[:-1] + "ing" + tail, "participle"
    else:
        yield first + ("es" if first.endswith(("s", "sh", "ch", "x", "z")) else "s") + tail, "verb"
        yield stem + "ed" + tail, "participle"
        yield stem + "ing" + tail, "participle"


def _outcome(section: str, key: str) -> Outcome:
    labels, fault = [], None
    for said in key.split():
        if said in FAULTS:
            fault = FAULTS[said]
        elif said != "ok":
            (label,) = _labels(section, [said.removeprefix("-")])
            labels.append((label, -1 if said.startswith("-") else 1))
    return Outcome(tuple(labels), fault)


def _labels(section: str, labels: list[str]) -> list[str]:
    for label in labels:
        if label not in ATTRIBUTES and label not in PSEUDO_LABELS:
            raise VocabularyError(f"{section}: {label} is no label")
    return labels


def _items(section: str, mapping: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(mapping, dict):
        raise VocabularyError(f"{section}: must be a mapping")
    for key, value in mapping.items():
        yield str(key), value


def _words(section: str, text: Any) -> list[str]:
    if not isinstance(text, str):
        raise VocabularyError(f"{section}: must be a text of words")
    return text.split()
