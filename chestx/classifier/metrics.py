"""Classifier metrics, by scikit-learn. 1 is the positive class: PNEUMONIA, as in the deck.

A classifier's answer is kept as its log-odds, ln p(1 | x) - ln p(0 | x): images are ranked by them,
for probabilities run out of digits. In float32 a softmax ties everything beyond log-odds of 17 at
1, rounded to six digits beyond 14.5, and AUROC moves. Probability 0.5 is a log-odds of 0.
"""

from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)


def classification_metrics(
    labels: np.ndarray, log_odds: np.ndarray, threshold: float = 0.0
) -> dict[str, Any]:
    """Metrics of the ``log_odds`` of class 1, (N,), against ``labels`` (N,) in {0, 1}.

    An image counts as positive if its log-odds are above ``threshold``. ``specificity`` is the
    negative class's recall, ``f1_normal`` its F1 (NORMAL in Kaggle's set). A precision without any
    prediction of its class counts as 0. ``confusion`` is [[TN, FP], [FN, TP]]. ``auprc`` is the
    average precision of the positive class; a random order has that class's share. ``brier`` is the
    mean of (probability - label)^2. ``sensitivity_at_90_specificity`` is the highest recall among
    all thresholds whose specificity on these images is at least 0.9, whatever ``threshold`` is.
    Raises ValueError unless both classes occur.
    """
    labels, log_odds = _checked(labels, log_odds)
    predicted = (log_odds > threshold).astype(int)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=[0, 1], zero_division=0.0
    )
    false_alarms, sensitivity, _ = roc_curve(labels, log_odds, drop_intermediate=False)
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall.mean()),
        "precision": float(precision[1]),
        "recall": float(recall[1]),
        "specificity": float(recall[0]),
        "f1": float(f1[1]),
        "f1_normal": float(f1[0]),
        "auroc": float(roc_auc_score(labels, log_odds)),
        "auprc": float(average_precision_score(labels, log_odds)),
        "brier": float(brier_score_loss(labels, expit(log_odds))),
        "calibration_error": calibration_error(labels, expit(log_odds)),
        "sensitivity_at_90_specificity": float(sensitivity[false_alarms <= 0.1].max()),
        "confusion": confusion_matrix(labels, predicted, labels=[0, 1]).tolist(),
    }


def _checked(labels: np.ndarray, log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, log-odds in float64: thresholds between two float32 need the digits."""
    labels, log_odds = np.asarray(labels), np.asarray(log_odds, dtype=float)
    if set(np.unique(labels)) != {0, 1}:
        raise ValueError(f"labels={np.unique(labels)}: both 0 and 1 must occur to be compared")
    return labels, log_odds


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean over images of |observed - predicted| of their bin.

    Guo et al. 2017, arXiv:1706.04599, with their 15 equally wide bins, but of the probability of
    class 1, not of the winning class. Above 0 even if perfectly calibrated, the more so the fewer
    images.
    """
    index = np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1])
    return float(np.abs(np.bincount(index, labels - probabilities)).sum() / len(labels))


def choose_threshold(labels: np.ndarray, log_odds: np.ndarray) -> float:
    """Log-odds of the highest balanced accuracy, to be chosen on validation images, not on test.

    Halfway between two neighbours that occur; of equally good ones the nearest to 0 (probability
    0.5), of two equally near the lower. 0 if all are equal. Raises ValueError unless both classes
    occur.
    """
    labels, log_odds = _checked(labels, log_odds)
    false_alarms, sensitivity, values = roc_curve(labels, log_odds, drop_intermediate=False)
    if len(values) == 2:  # infinity and the only one that occurs
        return 0.0
    pairs = (labels == 1).sum() * (labels == 0).sum()
    gain = np.rint(pairs * sensitivity) - np.rint(pairs * false_alarms)  # whole: ties are exact
    upper, lower = values[1:-1], values[2:]
    middle = (upper + lower) / 2
    cuts = np.where(middle < upper, middle, lower)  # neighbours without a number between
    best = cuts[gain[1:-1] == gain[1:-1].max()][::-1]  # from low to high
    return float(best[np.abs(best).argmin()])
