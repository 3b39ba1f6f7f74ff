"""Figures for multi-label probabilities."""

import numpy as np


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic; tied scores count one half.

    score: float [n]. label: 0/1 [n]. NaN when only one class is present.
    """
    positives = label.astype(bool)
    count = int(positives.sum())
    others = len(label) - count
    if count == 0 or others == 0:
        return float("nan")
    _, inverse, sizes = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]
    return float((ranks[positives].sum() - count * (count + 1) / 2) / (count * others))


def mean_auc(prob: np.ndarray, labels: np.ndarray) -> float:
    """Mean over attributes (columns) of the AUC; prob and labels are [n, 40]."""
    return float(np.nanmean([auc(prob[:, k], labels[:, k]) for k in range(labels.shape[1])]))
