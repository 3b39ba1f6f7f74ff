"""Fits and measures `transforms/weights/minors.yaml`: "looks under 18" from the 40 attributes.

    python -m facecap.training.minors --data DATA --output transforms/weights/minors.yaml

DATA holds `utkface/images` (chips named AGE_GENDER_RACE_DATE.jpg.chip.jpg) and `celeba` (see
`data`). The chips reach the classifier as faces do in the pipeline: MTCNN, the largest face, the
default score, alignment. A UTKFace chip shows the face alone, less than a third of what the
classifier looks at, so the rest is filled in twice: border repeated, and mirrored. A rule fitted to
that alone finds few children in whole photographs; adults of CelebA as further negatives make it
worse, for then filled-in borders are what tells the children. So CelebA takes part with the minors
that were found in it by eye, and an intercept of its own, which is the one that is exported.
"""

import argparse
import hashlib
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.sample import Face
from facecap.transforms import align
from facecap.transforms.classify_attributes import CELEBA_ALIGNMENT, AttributesOptions, Classifier
from facecap.transforms.detect import DetectOptions, detection_scale, load_detector, to_faces
from facecap.transforms.detectors import DETECTORS, Detector
from facecap.transforms.minors import MinorsRule, logits, probability_under_18, read_rule
from facecap.transforms.models import locate
from facecap.transforms.resize import shrink

from .data import DataError, read_labels
from .metrics import auc

MIN_SIDE = 128  # crop.min_side: the detector sees the image at the scale that this needs
PAD = 0.4  # of the chip's side, for the detector
FILLED = 0.8  # of the chip's side, for the classifier
CLIP = 1e-4
RECALL = 0.80  # of more, a third of the adults would pay for it (docs/decisions.md)
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FOLDS = 5
CELEBA_TRAIN = 3500  # the images to this number; the others are for the figures
MINOR_WEIGHT, ADULT_WEIGHT = 10.0, 0.1  # of CelebA's faces, so that it counts about as UTKFace does

CELEBA_CHILDREN = (
    277, 338, 365, 545, 1088, 1095, 1369, 2289, 2298, 2343, 2625, 2826, 3130, 3484, 3531, 4050,
    4112, 4656, 4759, 4811, 5322, 5623, 5670, 6598, 6726, 6750, 6891, 7317, 7462, 7567,
)  # fmt: skip
CELEBA_TEENAGERS = (
    352, 1617, 1855, 2415, 3103, 3253, 3781, 3905, 4760, 5911, 6068, 6247, 6678, 7182, 7350,
    7894,
)  # fmt: skip
"""Images that look like a child's or a teenager's, chosen by eye among the 288 that a regression on
face embeddings, fitted to UTKFace, puts first. Others are among the "adults" still."""

AGES = {"0-3": (0, 3), "4-8": (4, 8), "9-12": (9, 12), "13-15": (13, 15), "16-17": (16, 17)}
ADULT_AGES = {"18-25": (18, 25), "26-40": (26, 40), "41-60": (41, 60), "61+": (61, 200)}
GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "other")


@dataclass(frozen=True)
class Chips:
    """UTKFace: the file names, and the classifier's probabilities [n, 40] with the border repeated
    and with the border mirrored. `missed` are the names without a face of the default score."""

    names: tuple[str, ...]
    repeated: np.ndarray
    mirrored: np.ndarray
    missed: tuple[str, ...]

    @property
    def facts(self) -> np.ndarray:
        """Age, gender (1: female) and race (index into RACES): int [n, 3]."""
        return np.array([[int(part) for part in name.split("_")[:3]] for name in self.names])

    @property
    def train(self) -> np.ndarray:
        """True [n] for the training half, by the file name's hash."""
        return np.array([_digest(name)[0] % 2 == 0 for name in self.names])

    @property
    def folds(self) -> np.ndarray:
        """The cross-validation fold [n], by the file name's hash."""
        return np.array([_digest(name)[1] % FOLDS for name in self.names])


@dataclass(frozen=True)
class Celeba:
    """CelebA's probabilities [n, 40], labels 0/1 [n, 40] and image numbers [n]."""

    numbers: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def minors(self) -> np.ndarray:
        return np.isin(self.numbers, CELEBA_CHILDREN + CELEBA_TEENAGERS)

    @property
    def train(self) -> np.ndarray:
        return self.numbers <= CELEBA_TRAIN


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def largest_face(rgb: np.ndarray, detector: Detector, options: DetectOptions) -> Face | None:
    """The largest face of a tight chip (uint8 RGB [h, w, 3]) in the chip's pixels, or None where
    none is found with the detector's default score."""
    pad = round(PAD * rgb.shape[1])
    wide = cv2.copyMakeBorder(rgb, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    small, zoom = shrink(wide, detection_scale(options, MIN_SIDE))
    found = detector.detect(small).moved(-pad / zoom[0], -pad / zoom[1])
    faces = to_faces(found, zoom)
    return faces[0] if faces and faces[0].score >= DETECTORS[options.model].min_score else None


def mirrored_chip(rgb: np.ndarray, face: Face) -> np.ndarray:
    """The aligned chip, with what lies outside of `rgb` mirrored at its border (`align.align`
    repeats the border)."""
    pad = round(FILLED * rgb.shape[1])
    wide = cv2.copyMakeBorder(rgb, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    matrix = align.face_matrix(face, CELEBA_ALIGNMENT)
    matrix[:, 2] -= matrix[:, :2] @ [pad, pad]
    return align.warp(wide, matrix, (CELEBA_ALIGNMENT.width, CELEBA_ALIGNMENT.height))


def read_chips(folder: Path, classifier: Classifier) -> Chips:
    """Detects and classifies the chips of a folder. Raises DataError where it has none."""
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise DataError(f"--data: {folder} has no .jpg; name the folder that holds utkface/images")
    options = DetectOptions()
    detector = load_detector(options, MIN_SIDE)
    names, missed, repeated, mirrored = [], [], [], []
    for file in files:
        rgb = _read(file)
        face = largest_face(rgb, detector, options)
        if face is None:
            missed.append(file.name)
            continue
        chips = np.stack([align.align(rgb, face, CELEBA_ALIGNMENT), mirrored_chip(rgb, face)])
        of_repeated, of_mirrored = classifier.probabilities(chips)
        names.append(file.name)
        repeated.append(of_repeated)
        mirrored.append(of_mirrored)
    return Chips(tuple(names), np.array(repeated), np.array(mirrored), tuple(missed))


def read_celeba(folder: Path, classifier: Classifier) -> Celeba:
    """Classifies CelebA's images, which are aligned. Raises DataError as `read_labels` does."""
    _, labels = read_labels(folder)
    numbers = sorted(labels)
    found = [
        classifier.probabilities(_read(folder / "images" / f"{number:06d}.jpg")[None])[0]
        for number in numbers
    ]
    table = np.array([labels[number] for number in numbers])
    return Celeba(np.array(numbers), np.array(found), table)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def fit_logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients [k + 1], the intercept last, of a logistic regression of y (0/1 [n]) on x [n, k]
    with weighted rows, by Newton's method. Half of `penalty` times the squared coefficients of the
    standardised columns is added to the loss; the intercept is free."""
    mean, std = x.mean(0), x.std(0)
    z = np.c_[(x - mean) / std, np.ones(len(x))]
    ridge = np.full(z.shape[1], penalty)
    ridge[-1] = 0
    found = np.zeros(z.shape[1])
    for _ in range(100):  # einsum: the same sums however many threads BLAS has
        p = np.exp(-np.logaddexp(0, -np.einsum("nk,k->n", z, found)))
        slope = np.einsum("nk,n->k", z, weight * (y - p)) - ridge * found
        curvature = np.einsum("nj,nk->jk", z * (weight * p * (1 - p))[:, None], z)
        step = np.linalg.solve(curvature + np.diag(ridge), slope)
        found += step
        if np.abs(step).max() < 1e-10:
            break
    inner = found[:-1] / std
    return np.append(inner, found[-1] - inner @ mean)


@dataclass(frozen=True)
class Rows:
    """The training rows. The last column of x says whether the borders are filled in."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    fold: np.ndarray


def training_rows(chips: Chips, celeba: Celeba) -> Rows:
    """The training halves of both."""
    here, there = chips.train, celeba.train
    minor, filled = celeba.minors[there], 2 * int(here.sum())
    parts = (chips.repeated[here], chips.mirrored[here], celeba.probabilities[there])
    x = np.c_[logits(np.concatenate(parts), CLIP), np.arange(filled + len(minor)) < filled]
    under_18 = chips.facts[here, 0] < 18
    return Rows(
        x=x,
        y=np.r_[under_18, under_18, minor].astype(float),
        weight=np.r_[np.ones(filled), np.where(minor, MINOR_WEIGHT, ADULT_WEIGHT)],
        fold=np.r_[chips.folds[here], chips.folds[here], celeba.numbers[there] % FOLDS],
    )


def choose_penalty(rows: Rows) -> float:
    """The penalty with the smallest weighted log-loss over the rows held out, fold by fold."""

    def loss(penalty: float) -> float:
        total = 0.0
        for k in range(FOLDS):
            out = rows.fold == k
            fit = fit_logistic(rows.x[~out], rows.y[~out], rows.weight[~out], penalty)
            score = rows.x[out] @ fit[:-1] + fit[-1]
            total += float(rows.weight[out] @ (np.logaddexp(0, score) - rows.y[out] * score))
        return total

    return min(PENALTIES, key=loss)


def threshold_for(probability: np.ndarray, recall: float) -> float:
    """The largest threshold, in steps of 0.0001, that at least `recall` of the values reach."""
    lowest = np.sort(probability)[int((1 - recall) * len(probability) + 1e-9)]
    return float(np.floor(lowest * 1e4) / 1e4)


def wilson(hits: int, n: int) -> list[float]:
    """Wilson's 95 % interval of a share (JASA 22, 1927)."""
    z = 1.959964
    centre, half = hits + z * z / 2, z * sqrt(hits * (n - hits) / n + z * z / 4)
    return [round(float(c) / (n + z * z), 3) for c in (centre - half, centre + half)]


def share(fires: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """How many of the faces of `group` (True [n]) the rule fires at."""
    n, hits = int(group.sum()), int(fires[group].sum())
    if n == 0:
        return {"faces": 0}
    return {"faces": n, "fires": hits, "share": round(hits / n, 3), "interval": wilson(hits, n)}


def chip_figures(chips: Chips, rule: MinorsRule) -> dict[str, Any]:
    """Figures on the test half of UTKFace: recall under 18, false alarms from 18 on."""
    test = ~chips.train
    age, gender, race = chips.facts.T
    found = probability_under_18(chips.repeated, rule)
    fires = found >= rule.threshold
    by = {
        **{f"gender {name}": test & (gender == k) for k, name in enumerate(GENDERS)},
        **{f"race {name}": test & (race == k) for k, name in enumerate(RACES)},
    }

    def both(fires: np.ndarray, bands: dict[str, tuple[int, int]], group: np.ndarray) -> Any:
        ages = {f"age {k}": test & (age >= low) & (age <= up) for k, (low, up) in bands.items()}
        rows = {"all": test & group} | ages | {k: chosen & group for k, chosen in by.items()}
        return {name: share(fires, chosen) for name, chosen in rows.items()}

    mirrored = probability_under_18(chips.mirrored, rule) >= rule.threshold
    return {
        "auc": round(auc(found[test], (age < 18)[test]), 3),
        "recall under 18": both(fires, AGES, age < 18),
        "false alarms from 18 on": both(fires, ADULT_AGES, age >= 18),
        "recall, border mirrored": share(mirrored, test & (age < 18)),
        "false alarms, border mirrored": share(mirrored, test & (age >= 18)),
    }


def celeba_figures(celeba: Celeba, rule: MinorsRule) -> dict[str, Any]:
    """Figures on CelebA's images over CELEBA_TRAIN: those that were found to be of minors, and
    all others, taken for adults."""
    found = probability_under_18(celeba.probabilities, rule)
    fires, test = found >= rule.threshold, ~celeba.train
    adult = test & ~celeba.minors
    young, male = (celeba.labels[:, ATTRIBUTES.index(k)] == 1 for k in ("Young", "Male"))
    groups = {
        "children found by eye": test & np.isin(celeba.numbers, CELEBA_CHILDREN),
        "teenagers found by eye": test & np.isin(celeba.numbers, CELEBA_TEENAGERS),
        "adults": adult,
        "adults, unseen by the classifier": adult & (celeba.numbers > 7000),
        "adults, Young": adult & young,
        "adults, not Young": adult & ~young,
        "adults, Male": adult & male,
        "adults, not Male": adult & ~male,
    }
    rows = {name: share(fires, chosen) for name, chosen in groups.items()}
    return {"auc": round(auc(found[test], celeba.minors[test]), 3)} | rows


def operating_points(chips: Chips, celeba: Celeba, rule: MinorsRule) -> list[dict[str, float]]:
    """What other thresholds would give on the test halves: one for each recall aimed at."""
    under = chips.facts[:, 0] < 18
    found = probability_under_18(chips.repeated, rule)
    famous = probability_under_18(celeba.probabilities, rule)[~celeba.train]
    minor = celeba.minors[~celeba.train]
    points = []
    for aim in (0.70, 0.80, 0.85, 0.90, 0.95):
        cut = threshold_for(found[chips.train & under], aim)
        groups = {
            "recall": found[~chips.train & under],
            "false_alarms": found[~chips.train & ~under],
            "celeba_minors": famous[minor],
            "celeba_adults": famous[~minor],
        }
        rates = {name: round(float((of >= cut).mean()), 3) for name, of in groups.items()}
        points.append({"aim": aim, "threshold": cut} | rates)
    return points


def report(chips: Chips, celeba: Celeba, sha256: str) -> str:
    """Fits, measures, and writes the YAML: the figures are those of the rounded weights."""
    rows = training_rows(chips, celeba)
    penalty = choose_penalty(rows)
    fit = [round(float(v), 4) for v in fit_logistic(rows.x, rows.y, rows.weight, penalty)]
    weights, bias = fit[: len(ATTRIBUTES)], fit[-1]
    under = chips.train & (chips.facts[:, 0] < 18)
    untried = MinorsRule(sha256, CLIP, bias, tuple(weights), 0.0)
    threshold = threshold_for(probability_under_18(chips.repeated[under], untried), RECALL)
    head = {
        "classifier_sha256": sha256,
        "clip": CLIP,
        "bias": bias,
        "threshold": threshold,
        "weights": dict(zip(ATTRIBUTES, weights, strict=True)),
    }
    rule = read_rule(yaml.safe_dump(head, sort_keys=False).encode())
    young = celeba.minors
    missed = sum(int(name.split("_")[0]) < 18 for name in chips.missed)
    made = {
        "training": {
            "command": "python -m facecap.training.minors",
            "utkface_chips": int(chips.train.sum()),
            "utkface_under_18": int(under.sum()),
            "utkface_without_face": {"under_18": missed, "others": len(chips.missed) - missed},
            "celeba_minors": int((young & celeba.train).sum()),
            "celeba_adults": int((~young & celeba.train).sum()),
            "penalty": penalty,
            "recall_aimed_at": RECALL,
        },
        "utkface": chip_figures(chips, rule),
        "celeba": celeba_figures(celeba, rule),
        "thresholds": operating_points(chips, celeba, rule),
    }
    note = (
        "# Written by facecap.training.minors, which says how: not to be changed by hand.\n"
        "# Research only, non-commercial: its data, CelebA and UTKFace, allow nothing else.\n"
        "# Figures: on the test halves, with Wilson's 95 % intervals. Never complete.\n"
    )
    plain = yaml.safe_dump(head, sort_keys=False)
    return note + plain + yaml.safe_dump(made, sort_keys=False, default_flow_style=None, width=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m facecap.training.minors", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, help="utkface/images and celeba/")
    parser.add_argument("--output", type=Path, required=True, help="the YAML file to be written")
    settings = parser.parse_args()
    cv2.setNumThreads(1)
    options = AttributesOptions()
    classifier = Classifier(options)
    sha256 = hashlib.sha256(locate(options.model).read_bytes()).hexdigest()
    try:
        chips = read_chips(settings.data / "utkface" / "images", classifier)
        celeba = read_celeba(settings.data / "celeba", classifier)
    except DataError as error:
        parser.error(str(error))
    settings.output.write_text(report(chips, celeba, sha256), encoding="utf-8")
    print(f"wrote {settings.output}; faces without detection: {len(chips.missed)}")


if __name__ == "__main__":
    main()
