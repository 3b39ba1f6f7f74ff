"""Whether a face looks under 18, from the 40 attributes that the classifier has already given.

A logistic regression on the attributes' logits (`weights/minors.yaml`, made and measured by
`facecap.training.minors`): it costs some 40 microseconds per face and no model of its own. It is a
precaution and no age check. Completeness is never claimed: it misses two in ten of the faces under
18 in UTKFace (seven in ten from 13 to 17), and it takes 14 % of the adults there and 18 % of
CelebA's for minors, young ones, women and Asians more often; the figures are in the YAML. Where an
age model is at hand, use that.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from facecap.schemas.attributes import ATTRIBUTES

MINORS_FILE = Path(__file__).parent / "weights" / "minors.yaml"


@dataclass(frozen=True, slots=True)
class MinorsRule:
    """A logistic regression from the probabilities of the 40 attributes to "looks under 18".

    `weights` are those of the logits, in the order of ATTRIBUTES; probabilities are cut to
    [clip, 1 - clip] before. `classifier_sha256` is the hash of the classifier file whose
    probabilities it was fitted to: on those of another its figures mean nothing.
    """

    classifier_sha256: str
    clip: float
    bias: float
    weights: tuple[float, ...]
    threshold: float


def read_rule(raw: bytes) -> MinorsRule:
    """The rule in the bytes of a YAML file as `facecap.training.minors` writes it.

    Raises `ValueError` where it does not name one weight for each attribute, in their order.
    """
    tree = yaml.safe_load(raw)
    if tuple(tree["weights"]) != ATTRIBUTES:
        raise ValueError("weights: must name the 40 attributes of CelebA, in their order")
    return MinorsRule(
        classifier_sha256=tree["classifier_sha256"],
        clip=tree["clip"],
        bias=tree["bias"],
        weights=tuple(tree["weights"].values()),
        threshold=tree["threshold"],
    )


@functools.cache
def minors_rule() -> MinorsRule:
    """The rule in the package, read once per process."""
    return read_rule(MINORS_FILE.read_bytes())


def logits(probabilities: npt.NDArray[np.floating], clip: float) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) of probabilities of any shape, cut to [clip, 1 - clip] before."""
    p = np.clip(np.asarray(probabilities, np.float64), clip, 1 - clip)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def probability_under_18(
    probabilities: npt.NDArray[np.floating], rule: MinorsRule | None = None
) -> npt.NDArray[np.float64]:
    """The rule's probability that a face looks under 18: float64 [...] of probabilities [..., 40]
    in the order of ATTRIBUTES (none: the rule in the package).

    It ranks faces. It is not calibrated: minors are far more common in the data that it was fitted
    to than on the web.
    """
    rule = rule or minors_rule()
    score = logits(probabilities, rule.clip) @ np.array(rule.weights) + rule.bias
    return np.asarray(np.exp(-np.logaddexp(0, -score)), np.float64)


def looks_under_18(probabilities: npt.NDArray[np.floating], rule: MinorsRule | None = None) -> bool:
    """Whether a face with these probabilities [40], in the order of ATTRIBUTES, is to be treated as
    one under 18 (none: by the rule in the package)."""
    rule = rule or minors_rule()
    return bool(probability_under_18(probabilities, rule) >= rule.threshold)
