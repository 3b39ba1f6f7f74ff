from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.sample import Face
from facecap.training import minors
from facecap.training.data import DataError
from facecap.transforms import align
from facecap.transforms.classify_attributes import CELEBA_ALIGNMENT, AttributesOptions, Classifier
from facecap.transforms.minors import read_rule

YOUNG = ATTRIBUTES.index("Young")


def test_fit_is_the_optimum_and_finds_the_coefficients() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3)) * [1, 5, 0.2]
    true = np.array([1.0, -0.3, 0.0, -0.5])
    y = (rng.random(len(x)) < 1 / (1 + np.exp(-x @ true[:3] - true[3]))).astype(float)
    weight = rng.uniform(0.5, 2, len(x))
    found = minors.fit_logistic(x, y, weight, 0.0)
    np.testing.assert_allclose(found, true, atol=0.15)
    p = 1 / (1 + np.exp(-x @ found[:3] - found[3]))
    np.testing.assert_allclose(np.c_[x, np.ones(len(x))].T @ (weight * (y - p)), 0, atol=1e-6)


def test_a_row_of_weight_two_is_two_rows_and_the_penalty_shrinks() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 4)), (rng.random(200) < 0.3).astype(float)
    twice = minors.fit_logistic(np.r_[x, x], np.r_[y, y], np.ones(400), 5.0)
    np.testing.assert_allclose(minors.fit_logistic(x, y, np.full(200, 2.0), 5.0), twice, atol=1e-9)
    stiff = minors.fit_logistic(x, y, np.ones(200), 1e9)
    np.testing.assert_allclose(stiff[:-1], 0, atol=1e-6)
    assert stiff[-1] == pytest.approx(np.log(y.mean() / (1 - y.mean())))


def test_intervals_of_a_share() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I.
    assert minors.wilson(81, 263) == [0.255, 0.366]
    assert minors.wilson(15, 148) == [0.062, 0.16]
    assert minors.wilson(0, 20) == [0.0, 0.161]
    assert minors.wilson(1, 29) == [0.006, 0.172]


def test_threshold_lets_the_recall_through() -> None:
    values = np.random.default_rng(2).random(1000)
    cut = minors.threshold_for(values, 0.9)
    assert 0.9 <= (values >= cut).mean() <= 0.903


def test_halves_and_folds_hang_on_the_name_alone() -> None:
    names = tuple(f"{age}_0_1_{k}.jpg" for k, age in enumerate(range(1, 101)))
    chips = minors.Chips(names, np.zeros((100, 40)), np.zeros((100, 40)), ())
    again = minors.Chips(names[::-1], chips.repeated, chips.mirrored, ())
    assert chips.train.tolist() == again.train[::-1].tolist()
    assert 30 < chips.train.sum() < 70
    assert set(chips.folds) == set(range(minors.FOLDS))
    assert chips.facts[41].tolist() == [42, 0, 1]


def test_mirrored_chip_differs_from_the_pipelines_outside_of_the_picture_only() -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (20, 20, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    points = ((60.0, 80.0), (140.0, 80.0), (100.0, 125.0), (68.0, 160.0), (132.0, 160.0))
    face = Face(rank=0, box=(20.0, 0.0, 180.0, 200.0), score=1.0, landmarks=points)
    pipeline, mirrored = (
        f.astype(int)
        for f in (align.align(rgb, face, CELEBA_ALIGNMENT), minors.mirrored_chip(rgb, face))
    )
    x0, y0, *_ = align.face_matrix(face, CELEBA_ALIGNMENT) @ [0, 0, 1]
    x1, y1, *_ = align.face_matrix(face, CELEBA_ALIGNMENT) @ [199, 199, 1]
    inside = np.zeros((109, 89), bool)
    inside[int(y0) + 3 : int(y1) - 2, int(x0) + 3 : int(x1) - 2] = True
    difference = np.abs(pipeline - mirrored).max(2)
    assert difference[inside].mean() < 8  # the grid of the averaging may lie otherwise
    assert difference[:, : int(x0) - 3].mean() > 30


def test_a_folder_without_chips_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data: .*utkface"):
        minors.read_chips(tmp_path, Classifier(AttributesOptions()))


def made_data() -> tuple[minors.Chips, minors.Celeba]:
    """Faces whose age shows in Young alone; on whole photographs it is shifted down."""
    rng = np.random.default_rng(4)
    ages = rng.integers(1, 70, 600)
    names = tuple(f"{age}_{k % 2}_{k % 5}_{k}.jpg" for k, age in enumerate(ages))

    def probabilities(minor: np.ndarray, shift: float) -> np.ndarray:
        score = rng.normal(size=(len(minor), 40))
        score[:, YOUNG] += np.where(minor, 3.0, -1.0) + shift
        return 1 / (1 + np.exp(-score))

    by_eye = minors.CELEBA_CHILDREN + minors.CELEBA_TEENAGERS
    numbers = np.array(sorted({*range(1, 8001, 8), *by_eye}))
    labels = rng.integers(0, 2, (len(numbers), 40))
    eye = np.isin(numbers, by_eye)
    celeba = minors.Celeba(numbers, probabilities(eye, -2.0), labels)
    chips = minors.Chips(names, *(probabilities(ages < 18, s) for s in (0, 0)), ("3_0_0_x.jpg",))
    return chips, celeba


def test_report_is_a_rule_with_its_figures_and_repeats() -> None:
    chips, celeba = made_data()
    text = minors.report(chips, celeba, "cd")
    assert text == minors.report(chips, celeba, "cd")
    rule, tree = read_rule(text.encode()), yaml.safe_load(text)
    assert rule.classifier_sha256 == "cd"
    assert np.argmax(np.abs(rule.weights)) == YOUNG
    assert tree["utkface"]["recall under 18"]["all"]["share"] > 0.8
    assert tree["utkface"]["auc"] > 0.95
    assert tree["training"]["utkface_without_face"] == {"under_18": 1, "others": 0}
    alarms = tree["utkface"]["false alarms from 18 on"]
    assert (
        alarms["all"]["faces"] == alarms["gender male"]["faces"] + alarms["gender female"]["faces"]
    )
    aims = [point["threshold"] for point in tree["thresholds"]]
    assert aims == sorted(aims, reverse=True)
    assert rule.threshold in aims


def test_the_exported_intercept_is_that_of_whole_photographs() -> None:
    """The same person scores two less there: the intercept makes up for it."""
    chips, celeba = made_data()
    rows = minors.training_rows(chips, celeba)
    fit = minors.fit_logistic(rows.x, rows.y, rows.weight, 1.0)
    assert fit[len(ATTRIBUTES)] < -1  # of filled-in borders, and not exported
    rule = read_rule(minors.report(chips, celeba, "cd").encode())
    assert rule.bias == pytest.approx(fit[-1], abs=0.5)


def test_missing_celeba_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"attributes\.csv not found"):
        minors.read_celeba(tmp_path, Classifier(AttributesOptions()))


def test_celeba_is_classified_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "images").mkdir()
    lines = [",".join(["image_id", *ATTRIBUTES])]
    for number in (277, 4000):
        rgb = rng.integers(0, 256, (109, 89, 3), np.uint8)
        Image.fromarray(rgb).save(tmp_path / "images" / f"{number:06d}.jpg", quality=100)
        lines.append(",".join([f"{number:06d}.jpg", *["1"] * 40]))
    (tmp_path / "attributes.csv").write_text("\n".join(lines) + "\n")
    celeba = minors.read_celeba(tmp_path, Classifier(AttributesOptions()))
    assert celeba.probabilities.shape == (2, 40)
    assert (celeba.minors.tolist(), celeba.train.tolist()) == ([True, False], [True, False])
    assert np.ptp(celeba.probabilities, axis=0).max() > 0
