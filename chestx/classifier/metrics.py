"""Classifier metrics, by scikit-learn. 1 is the positive class: PNEUMONIA, as in the deck.

A classifier's answer is kept as its log-odds, ln p(1 | x) - ln p(0 | x): images are ranked by them,
for probabilities run out of digits. In float32 a softmax ties everything beyond log-odds of 17 at
1, rounded to six digits beyond 14.5, and AUROC moves. Probability 0.5 is a log-odds of 0.
"""

from typing import Any

import numpy as np
from scipy import stats
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
    negative class's recall, ``*_normal`` are its other scores (NORMAL in Kaggle's set). A precision
    without any prediction of its class counts as 0. ``confusion`` is [[TN, FP], [FN, TP]].
    ``auprc`` is the average precision of the positive class; a random order has that class's share.
    ``brier`` is the mean of (probability - label)^2, ``calibration_error`` that of
    ``calibration_error``. ``sensitivity_at_90_specificity`` is the highest recall among all
    thresholds whose specificity on these images is at least 0.9, whatever ``threshold`` is.
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
        "precision_normal": float(precision[0]),
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


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> dict[str, list[float]]:
    """What a reliability diagram shows, per bin that is not empty, from low to high.

    ``predicted``: mean probability of class 1; ``observed``: share of class 1; ``count``: images.
    The bins are equally wide in the probability of class 1, each with its lower edge.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    index = np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1])
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    predicted, observed = (
        (np.bincount(index, values, bins)[filled] / count[filled]).tolist()
        for values in (probabilities, labels)
    )
    return {"predicted": predicted, "observed": observed, "count": count[filled].tolist()}


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean over images of |observed - predicted| of their bin.

    Guo et al. 2017, arXiv:1706.04599, with their 15 equally wide bins, but of the probability of
    class 1 as in ``reliability``, not of the winning class. Above 0 even if perfectly calibrated,
    the more so the fewer images.
    """
    table = reliability(labels, probabilities, bins)
    gaps = np.abs(np.subtract(table["observed"], table["predicted"]))
    return float(np.average(gaps, weights=table["count"]))


def choose_threshold(labels: np.ndarray, log_odds: np.ndarray) -> float:
    """Log-odds of the highest balanced accuracy, to be chosen on validation images, not on test.

    Halfway between two neighbours that occur; of equally good ones the nearest to 0 (probability
    0.5), of two equally near the lower. 0 if all are equal. Raises ValueError unless both classes
    occur.
    """
    labels, log_odds = _checked(labels, log_odds)
    values, index = np.unique(log_odds, return_inverse=True)
    if len(values) == 1:
        return 0.0
    # Whole numbers, so that ties are exact: negatives found and positives lost below each cut.
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    below = np.bincount(index, np.where(labels == 1, -negatives, positives)).cumsum()[:-1]
    middle = (values[:-1] + values[1:]) / 2
    cuts = np.where(middle < values[1:], middle, values[:-1])  # neighbours without a number between
    best = cuts[below == below.max()]
    return float(best[np.abs(best).argmin()])


def mean_interval(values: list[float], level: float = 0.95) -> dict[str, float | None]:
    """Mean, standard deviation and Student-t interval of the mean of independent ``values``.

    One value has no spread: its deviation and interval are None.
    """
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": n}
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * sd / np.sqrt(n))
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def prediction_interval(interval: dict[str, float], level: float = 0.95) -> tuple[float, float]:
    """Range for one more value, from ``mean_interval``: mean +/- t sd sqrt(1 + 1 / n).

    Raises ValueError for a single value, which has no spread.
    """
    n = interval["n"]
    if n < 2:
        raise ValueError(f"n={n}; a range for one more value needs at least two")
    half = stats.t.ppf(0.5 + level / 2, n - 1) * interval["sd"] * np.sqrt(1 + 1 / n)
    return interval["mean"] - float(half), interval["mean"] + float(half)
