import numpy as np
import pytest

from facecap.training import evaluate
from facecap.training.card import card
from facecap.training.data import Faces

NAMES = tuple("Male" if k == 20 else f"A{k}" for k in range(40))


def faces(labels: np.ndarray) -> Faces:
    n = len(labels)
    return Faces(tuple(range(n)), np.zeros((n, 109, 89, 3), np.uint8), labels, NAMES)


def test_attribute_figures_by_hand() -> None:
    prob = np.array([0.9, 0.9, 0.4, 0.6])
    label = np.array([1, 0, 0, 1])
    row = evaluate.attribute_figures(prob, label)
    assert row["positives"] == 2
    assert row["accuracy"] == 0.75
    assert row["brier"] == pytest.approx((0.01 + 0.81 + 0.16 + 0.16) / 4)
    assert (row["kept"], row["precision_kept"]) == (2, 0.5)


def test_more_than_five_labels_are_counted_by_gender() -> None:
    labels = np.zeros((4, 40), np.uint8)
    labels[:2, 20] = 1
    prob = np.full((4, 40), 0.1)
    prob[0, :6] = 0.9  # six labels: enough
    prob[2, :5] = 0.9  # five: not enough
    prob[3, :7] = 0.85  # not over 0.85
    result = evaluate.figures(prob, faces(labels))
    assert result["enough_labels"] == 0.25
    assert (result["enough_labels_male"], result["enough_labels_not_male"]) == (0.5, 0.0)
    assert result["labels_kept_per_face"] == 11 / 4


def test_card_says_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (50, 40), np.uint8)
    metrics = evaluate.figures(rng.random((50, 40)), faces(labels))
    metrics |= {"ms_per_face": 1.25, "sha256": "ab"}
    training = {
        "settings": {
            "epochs": 3, "batch": 8, "lr": 0.1, "weight_decay": 0.2, "ema": 0.9,
            "seed": 7, "threads": 2,
        },
        "versions": {"torch": "9.9"},
        "parameters": 1234567,
        "temperature": 1.5,
        "sha256": "ab",
        "bytes": 10,
        "history": [{"seconds": 60.0, "validation_mean_auc": 0.7}],
    }  # fmt: skip
    text = card(training, metrics)
    assert f"Mean AUC **{metrics['mean']['auc']:.3f}**" in text
    assert "1,234,567" in text
    assert "was not measured" in text
    assert all(f"| {name} | " in text for name in NAMES)
    metrics["without_neighbour"] = evaluate.figures(rng.random((20, 40)), faces(labels[:20]))
    assert "60% of the test images have a near neighbour" in card(training, metrics)
