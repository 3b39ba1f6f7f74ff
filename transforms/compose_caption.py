"""ComposeCaption: decides what may be said of a face, and says it in the words of the grammar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import apache_beam as beam
import numpy as np

from facecap.schemas.attributes import ATTRIBUTES, GROUPS
from facecap.schemas.options import Options, content, run
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec, face_key
from facecap.transforms import railway
from facecap.transforms.grammar import Grammar, load_grammar
from facecap.transforms.realise import realise, seeded

NOT_CAREFUL = frozenset(
    {"Attractive", "Chubby", "Double_Chin", "Big_Nose", "Big_Lips", "Pale_Skin"}
)
"""Judgements of looks or of the body that the careful policy never states."""

FACIAL_HAIR = frozenset(GROUPS["beard"]) - {"No_Beard"}
"""Not stated by the careful policy where P(Male) says woman: one of the two labels is wrong."""

MALE_FROM, FEMALE_TO = 0.85, 0.15
"""P(Male) from which "he" is said, and up to which "she" is said."""


class CaptionOptions(Options):
    """What the captions say, and in which words."""

    seed: int = content(0, "seed of the choice of words", ge=0)
    policy: Literal["careful", "paper"] = content(
        "careful",
        "careful: no judgements of looks, no beard missed in a face not labelled male; "
        "paper: every label is stated",
    )
    gender: Literal["inferred", "neutral"] = content(
        "inferred",
        "inferred: he or she where the classifier is sure, they elsewhere; neutral: always they",
    )
    # Its place is no content; its sha256 enters the fingerprint.
    grammar: str | None = run(None, "YAML file of another grammar; null: the default one")


def choose_person(male: float | None, gender: str) -> str:
    """`man`, `woman` or `person`, from P(Male) (None: unknown) and `caption.gender`."""
    if gender == "neutral" or male is None:
        return "person"
    if np.float32(male) >= np.float32(MALE_FROM):
        return "man"
    return "woman" if np.float32(male) <= np.float32(FEMALE_TO) else "person"


def choose_labels(
    labels: tuple[str, ...],
    probabilities: Mapping[str, float],
    person: str,
    policy: str,
    grammar: Grammar,
) -> tuple[str, ...]:
    """Those of `labels` that the caption is to state, in their order.

    Left out are: what the policy forbids; Male, unless `person` is a man; labels that the grammar
    has no words for; and of labels that contradict each other (`grammar.conflicts`) all but the
    most probable.
    """
    sayable = [label for label in labels if label in grammar.labels]
    if policy == "careful":
        sayable = [label for label in sayable if label not in NOT_CAREFUL]
        if "Male" not in labels:
            sayable = [label for label in sayable if label != "No_Beard"]
        if choose_person(probabilities.get("Male"), "inferred") == "woman":
            sayable = [label for label in sayable if label not in FACIAL_HAIR]
    chosen: set[str] = {"Male"} & set(labels) if person == "man" else set()
    for label in sorted(sayable, key=lambda name: -probabilities[name]):
        if not any(_contradict(label, other, grammar) for other in chosen):
            chosen.add(label)
    return tuple(label for label in labels if label in chosen)


def _contradict(one: str, other: str, grammar: Grammar) -> bool:
    return any(
        (one == line[0] and other in line) or (other == line[0] and one in line)
        for line in grammar.conflicts
    )


def caption_face(
    face: Face, key: str, options: CaptionOptions, grammar: Grammar, names: tuple[str, ...]
) -> Face:
    """`face` with `stated_labels` (in the order said) and its caption, or `nothing_to_state`.

    `names` are the classifier's labels in the order of `face.probabilities`; `key` seeds the
    choice of words, together with `caption.seed`. `face.labels` stay as they are.
    """
    if face.probabilities is None:
        raise ValueError("a live face without probabilities reached ComposeCaption")
    by_name = dict(zip(names, map(float, face.probabilities), strict=True))
    person = choose_person(by_name.get("Male"), options.gender)
    labels = choose_labels(face.labels, by_name, person, options.policy, grammar)
    if not labels:
        return replace(face, drop=Drop(Stage.CAPTION, Reason.NOTHING_TO_STATE))
    text, stated = realise(labels, person, grammar, seeded(options.seed, key))
    return replace(face, stated_labels=stated, raw_caption=text, caption=text)


def caption_sample(
    sample: Sample,
    shard: ShardSpec,
    options: CaptionOptions,
    grammar: Grammar,
    names: tuple[str, ...],
) -> Sample:
    """`sample` with every live face captioned or dropped; see `caption_face`."""

    def caption(face: Face) -> Face:
        if face.drop is not None:
            return face
        key = face_key(shard.number, shard.first_row, sample.row, face.rank)
        return caption_face(face, key, options, grammar, names)

    return replace(sample, faces=tuple(caption(face) for face in sample.faces))


class ComposeCaption(beam.PTransform):
    """SampleBatch -> SampleBatch: every live face has a caption, or a drop.

    `names` are the classifier's labels. The grammar is read here, once, so that workers need no
    file of the person who launches; raises `grammar.GrammarError`.
    """

    def __init__(self, options: CaptionOptions, names: tuple[str, ...] = ATTRIBUTES) -> None:
        super().__init__()
        self._do_fn = _ComposeDoFn(options, load_grammar(options.grammar), names)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | "Compose" >> beam.ParDo(self._do_fn).with_output_types(SampleBatch)


class _ComposeDoFn(beam.DoFn):
    def __init__(self, options: CaptionOptions, grammar: Grammar, names: tuple[str, ...]) -> None:
        self._settings = (options, grammar, names)

    def process(self, batch: SampleBatch) -> list[SampleBatch]:
        return [
            railway.map_live(
                batch,
                Stage.CAPTION,
                lambda sample: caption_sample(sample, batch.shard, *self._settings),
            )
        ]
