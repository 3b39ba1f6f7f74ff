import math

import numpy as np
import pytest

from facecap.training.metrics import auc, mean_auc


def test_auc_equals_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 20, 200) / 20  # with many ties
    label = (rng.random(200) < score).astype(np.uint8)
    difference = score[label == 1][:, None] - score[label == 0][None]
    pairs = (difference > 0).mean() + (difference == 0).mean() / 2
    assert auc(score, label) == pytest.approx(pairs)


def test_auc_extremes() -> None:
    label = np.array([0, 0, 1, 1])
    assert auc(np.array([0.1, 0.2, 0.3, 0.4]), label) == 1
    assert auc(np.array([0.4, 0.3, 0.2, 0.1]), label) == 0
    assert auc(np.full(4, 0.5), label) == 0.5
    assert math.isnan(auc(np.arange(4), np.ones(4)))


def test_mean_auc_averages_columns_that_have_both_classes() -> None:
    labels = np.array([[0, 0, 1], [1, 1, 1]])
    prob = np.array([[0.2, 0.9, 0.5], [0.8, 0.1, 0.5]])
    assert mean_auc(prob, labels) == 0.5
