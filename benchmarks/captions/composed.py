"""Captions as a build composes them, of faces that were classified before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.captions.faces import Labelled, classifier_sha256
from facecap.pipeline.words import load_words
from facecap.schemas.captions import Person
from facecap.transforms.classify_attributes import AttributesOptions
from facecap.transforms.compose_caption import CaptionOptions, Composer
from facecap.transforms.rewrite.options import RewriteOptions

Key = tuple[Person, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Composed:
    """A caption of the face `name`, all labels kept of it, those stated, and the person."""

    name: str
    text: str
    labels: frozenset[str]
    stated: tuple[str, ...]
    person: Person

    @property
    def key(self) -> Key:
        """What a rewrite of it depends on."""
        return self.person, frozenset(self.stated)


@dataclass(frozen=True)
class Corpus:
    """Captions of faces with at least `min_labels` labels: `kept` many, of which
    `nothing_to_state` have none that may be said; `fewer_labels` others were left out. `under_18`
    of those kept look under 18 (None: nobody asked). `rounds` of captions of the faces were
    begun, each in other words, until there were enough."""

    captions: tuple[Composed, ...]
    min_labels: int
    kept: int
    fewer_labels: int
    nothing_to_state: int
    under_18: int | None
    rounds: int

    @property
    def texts(self) -> list[str]:
        return [caption.text for caption in self.captions]

    @property
    def description(self) -> str:
        """What was done, for a reader of the figures."""
        faces = self.kept - self.nothing_to_state
        young = "nobody asked who looks under 18"
        if self.under_18 is not None:
            young = f"{self.under_18:,} of those kept look under 18 (attributes.minors: careful)"
        return (
            f"min_labels {self.min_labels}: {len(self.captions):,} captions of {faces:,} faces in "
            f"{self.rounds} round(s); left out: {self.fewer_labels:,} faces with fewer labels, "
            f"{self.nothing_to_state:,} with nothing to state; {young}"
        )


def compose(
    faces: Labelled, min_labels: int, count: int | None = None, seed: int = 0, real: bool = True
) -> Corpus:
    """One caption for each of `faces` that a build keeps with `attributes.min_labels`; `count` of
    them, where that is given: the first, or more captions per face, each in other words.

    `real` is False for probabilities that no classifier gave: nothing tells who is under 18 then.
    """
    attributes = AttributesOptions(min_labels=min_labels, minors="careful" if real else "keep")
    options = CaptionOptions(seed=seed)
    composer = load_words(attributes, options, RewriteOptions(), classifier_sha256()).composer
    kept = [i for i, labels in enumerate(faces.labels(attributes)) if len(labels) >= min_labels]
    captions: list[Composed] = []
    rounds = 0
    while True:
        made = list(_round(faces, kept, attributes, composer, rounds))
        captions += made
        rounds += 1
        if count is None or not made or len(captions) >= count:
            break
    return Corpus(
        captions=tuple(captions if count is None else captions[:count]),
        min_labels=min_labels,
        kept=len(kept),
        fewer_labels=len(faces) - len(kept),
        nothing_to_state=len(kept) - len(made),
        under_18=_under_18(faces, kept, composer),
        rounds=rounds,
    )


def _under_18(faces: Labelled, kept: list[int], composer: Composer) -> int | None:
    if composer.minors is None:
        return None
    return sum(bool(composer.looks_under_18(faces.probabilities[i])) for i in kept)


def _round(
    faces: Labelled, kept: list[int], attributes: AttributesOptions, composer: Composer, turn: int
) -> Iterator[Composed]:
    """A caption of each face that has something to state; `turn` makes the words other ones."""
    labels = faces.labels(attributes)
    for i in kept:
        name = faces.names[i]
        key = name if turn == 0 else f"{name} {turn}"
        for caption in composer.compose(labels[i], faces.probabilities[i], key)[:1]:
            yield Composed(name, caption.raw, frozenset(labels[i]), caption.stated, caption.person)
