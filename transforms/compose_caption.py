"""ComposeCaption: decides what may be said of a face, and says it in the words of the grammar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from facecap.schemas.attributes import ATTRIBUTES, GROUPS
from facecap.schemas.captions import Caption, Person
from facecap.schemas.options import Options, content, run
from facecap.schemas.outcomes import Drop, Reason, Stage
from facecap.schemas.sample import Face, Sample, SampleBatch
from facecap.schemas.shard import ShardSpec, face_key
from facecap.transforms import railway
from facecap.transforms.caption_columns import TextChoice
from facecap.transforms.grammar import Grammar
from facecap.transforms.minors import MinorsRule, looks_under_18
from facecap.transforms.realise import realise, seeded

NOT_CAREFUL = frozenset(
    {"Attractive", "Chubby", "Double_Chin", "Big_Nose", "Big_Lips", "Pale_Skin"}
)
"""Judgements of looks or of the body that the careful policy never states."""

FACIAL_HAIR = frozenset(GROUPS["beard"]) - {"No_Beard"}
"""Not stated by the careful policy where P(Male) says woman: one of the two labels is wrong."""

NOT_OF_MINORS = NOT_CAREFUL | FACIAL_HAIR | {"Heavy_Makeup", "Wearing_Lipstick", "Male", "No_Beard"}
"""Not stated of a face that looks under 18: judgements, makeup, and what tells the gender."""

DRAWS = 20
"""Captions drawn until one is not another of the same face."""

MALE_FROM, FEMALE_TO = 0.85, 0.15
"""P(Male) from which "he" is said, and up to which "she" is said."""


class CaptionOptions(Options):
    """What the captions say, and in which words."""

    seed: int = content(0, "seed of the choice of words", ge=0)
    per_face: int = content(1, "captions per face, each in other words", ge=1, le=20)
    text: TextChoice = content(
        "rewrite",
        "what KEY.txt and the column caption hold: rewrite: the LLM's words where they passed the "
        "check, else the grammar's; grammar; alt_text: the source's own where there is one",
    )
    policy: Literal["careful", "paper"] = content(
        "careful",
        "careful: no judgements of looks, no beard missed in a face not labelled male; "
        "paper: every label is stated",
    )
    gender: Literal["inferred", "neutral"] = content(
        "inferred",
        "inferred: he or she where the classifier is sure, they elsewhere; neutral: always they",
    )
    hedge_below: float | None = content(
        None, "labels less probable than this are said with a hedge; null: none is", gt=0, le=1
    )
    # Its place is no content; its sha256 enters the fingerprint.
    grammar: str | None = run(None, "YAML file of another grammar; null: the default one")


def choose_person(male: float | None, gender: str) -> Person:
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


@dataclass(frozen=True)
class Composer:
    """Writes the captions of a face; plain data, part of the graph.

    `names` are the classifier's labels in the order of its probabilities; `minors` tells from these
    who looks under 18, None where nothing does or nobody asks (`attributes.minors`).
    """

    options: CaptionOptions
    grammar: Grammar
    names: tuple[str, ...] = ATTRIBUTES
    minors: MinorsRule | None = None

    def looks_under_18(self, probabilities: npt.NDArray[np.float32]) -> bool | None:
        """None where no model at hand tells."""
        return None if self.minors is None else looks_under_18(probabilities, self.minors)

    def compose(
        self, labels: tuple[str, ...], probabilities: npt.NDArray[np.float32], key: str
    ) -> tuple[Caption, ...]:
        """`caption.per_face` captions of a face with these `labels` (float32 [labels] are their
        probabilities, and all others'); none where nothing may be said. `key`, the face's, seeds
        the choice of words, together with `caption.seed`."""
        options = self.options
        by_name = dict(zip(self.names, map(float, probabilities), strict=True))
        person = choose_person(by_name.get("Male"), options.gender)
        if self.looks_under_18(probabilities):
            person = "person"
            labels = tuple(name for name in labels if name not in NOT_OF_MINORS)
        chosen = choose_labels(labels, by_name, person, options.policy, self.grammar)
        if not chosen:
            return ()
        hedged = frozenset(
            name
            for name in chosen
            if options.hedge_below is not None and by_name[name] < options.hedge_below
        )
        captions: list[Caption] = []
        for i in range(options.per_face):
            for draw in range(DRAWS):
                name = f"{key} {i} {draw}" if draw else f"{key} {i}" if i else key
                rng = seeded(options.seed, name)
                text, stated = realise(chosen, person, self.grammar, rng, hedged)
                if all(text != other.raw for other in captions):
                    break
            captions.append(Caption(text, stated, person))
        return tuple(captions)


def caption_face(face: Face, key: str, composer: Composer) -> Face:
    """`face` with its captions, or `nothing_to_state`. `face.labels` stay as they are."""
    if face.probabilities is None:
        raise ValueError("a live face without probabilities reached ComposeCaption")
    young = composer.looks_under_18(face.probabilities)
    captions = composer.compose(face.labels, face.probabilities, key)
    drop = None if captions else Drop(Stage.CAPTION, Reason.NOTHING_TO_STATE)
    return replace(face, captions=captions, looks_under_18=young, drop=drop)


def caption_sample(sample: Sample, shard: ShardSpec, composer: Composer) -> Sample:
    """`sample` with every live face captioned or dropped; see `caption_face`."""

    def caption(face: Face) -> Face:
        if face.drop is not None:
            return face
        key = face_key(shard.number, shard.first_row, sample.row, face.rank)
        return caption_face(face, key, composer)

    return replace(sample, faces=tuple(caption(face) for face in sample.faces))


class ComposeCaption(beam.PTransform):
    """SampleBatch -> SampleBatch: every live face has its captions, or a drop."""

    def __init__(self, composer: Composer) -> None:
        super().__init__()
        self._do_fn = _ComposeDoFn(composer)

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | "Compose" >> beam.ParDo(self._do_fn).with_output_types(SampleBatch)


class _ComposeDoFn(beam.DoFn):
    def __init__(self, composer: Composer) -> None:
        self._composer = composer

    def process(self, batch: SampleBatch) -> list[SampleBatch]:
        return [
            railway.map_live(
                batch,
                Stage.CAPTION,
                lambda sample: caption_sample(sample, batch.shard, self._composer),
            )
        ]
