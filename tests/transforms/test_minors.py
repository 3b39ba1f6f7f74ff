import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from facecap.schemas.attributes import ATTRIBUTES
from facecap.transforms.classify_attributes import AttributesOptions, Classifier
from facecap.transforms.minors import (
    MINORS_FILE,
    MinorsRule,
    logits,
    looks_under_18,
    minors_rule,
    probability_under_18,
    read_rule,
)

RAW = MINORS_FILE.read_bytes()
YOUNG = ATTRIBUTES.index("Young")


def rule(**changed: float) -> MinorsRule:
    """Young alone counts."""
    weights = tuple(float(name == "Young") for name in ATTRIBUTES)
    values = {"clip": 0.001, "bias": 0.0, "threshold": 0.7} | changed
    return MinorsRule(classifier_sha256="ab", weights=weights, **values)


def faces(young: list[float]) -> np.ndarray:
    found = np.full((len(young), 40), 0.5, np.float32)
    found[:, YOUNG] = young
    return found


def test_the_rule_in_the_package_belongs_to_the_classifier_in_the_package() -> None:
    classifier = MINORS_FILE.with_name("attributes.onnx").read_bytes()
    assert minors_rule().classifier_sha256 == hashlib.sha256(classifier).hexdigest()


def test_each_attribute_has_its_own_weight() -> None:
    tree = yaml.safe_load(RAW)
    for k in (0, YOUNG):
        assert minors_rule().weights[k] == tree["weights"][ATTRIBUTES[k]]
    names = list(tree["weights"])
    swapped = [names[1], names[0], *names[2:]]
    tree["weights"] = {name: tree["weights"][name] for name in swapped}
    with pytest.raises(ValueError, match="in their order"):
        read_rule(yaml.safe_dump(tree, sort_keys=False).encode())


def test_probability_by_hand() -> None:
    found = probability_under_18(faces([0.2, 0.5, 0.9]), rule())
    np.testing.assert_allclose(found, [0.2, 0.5, 0.9], atol=1e-6)
    biased = probability_under_18(faces([0.5]), rule(bias=np.log(3)))
    np.testing.assert_allclose(biased, [0.75], atol=1e-6)


def test_certain_probabilities_are_cut_and_finite() -> None:
    np.testing.assert_allclose(
        logits(np.array([0.0, 1.0], np.float32), 0.001), [-np.log(999), np.log(999)]
    )
    for value in (0.0, 1.0):
        assert np.isfinite(probability_under_18(np.full(40, value, np.float32)))
    np.testing.assert_allclose(probability_under_18(faces([0, 1]), rule()), [0.001, 0.999])


def test_a_face_at_the_threshold_is_treated_as_a_minor() -> None:
    found = faces([0.6, 0.8])
    assert [looks_under_18(face, rule()) for face in found] == [False, True]
    exact = float(probability_under_18(found[0], rule()))
    assert looks_under_18(found[0], rule(threshold=exact))


def test_a_face_is_judged_alike_alone_and_among_others() -> None:
    found = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    together = probability_under_18(found) >= minors_rule().threshold
    assert [looks_under_18(face) for face in found] == together.tolist()
    assert 0 < together.sum() < 50


def test_the_file_tells_its_figures() -> None:
    tree = yaml.safe_load(RAW)
    recall, alarms = tree["utkface"]["recall under 18"], tree["utkface"]["false alarms from 18 on"]
    for row in (recall["all"], alarms["all"], tree["celeba"]["adults"]):
        assert row["share"] == pytest.approx(row["fires"] / row["faces"], abs=6e-4)
        assert row["interval"][0] < row["share"] < row["interval"][1]
    assert recall["all"]["faces"] == sum(recall[k]["faces"] for k in recall if k.startswith("age"))
    assert recall["all"]["share"] >= 0.75


@pytest.mark.skipif(
    "FACECAP_TEST_DATA" not in os.environ, reason="FACECAP_TEST_DATA is unset (CelebA images)"
)
def test_false_alarms_on_celebrities_are_as_the_file_says() -> None:
    folder = Path(os.environ["FACECAP_TEST_DATA"]) / "celeba" / "images"
    images = []
    for number in range(7001, 7301):
        with Image.open(folder / f"{number:06d}.jpg") as image:
            images.append(np.asarray(image.convert("RGB")))
    found = Classifier(AttributesOptions()).probabilities(np.stack(images))
    fires = np.mean([looks_under_18(face) for face in found])
    told = yaml.safe_load(RAW)["celeba"]["adults, unseen by the classifier"]["share"]
    assert fires == pytest.approx(told, abs=0.09)  # three standard errors of 300 faces
