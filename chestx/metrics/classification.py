"""Classifier metrics, by scikit-learn. 1 is the positive class: PNEUMONIA, as in the deck."""

from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score


def classification_metrics(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5
) -> dict[str, Any]:
    """Metrics of ``probabilities`` of class 1, (N,) in [0, 1], against ``labels`` (N,) in {0, 1}.

    An image counts as positive if its probability is above ``threshold``. ``specificity`` is the
    negative class's recall, ``*_normal`` are its other scores (NORMAL in Kaggle's set). A precision
    without any prediction of its class counts as 0. ``confusion`` is [[TN, FP], [FN, TP]].
    Raises ValueError unless both classes occur.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if set(np.unique(labels)) != {0, 1}:
        raise ValueError(f"labels={np.unique(labels)}: both 0 and 1 must occur to be compared")
    predicted = (probabilities > threshold).astype(int)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=[0, 1], zero_division=0.0
    )
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall.mean()),
        "precision": float(precision[1]),
        "recall": float(recall[1]),
        "specificity": float(recall[0]),
        "f1": float(f1[1]),
        "precision_normal": float(precision[0]),
        "f1_normal": float(f1[0]),
        "auroc": float(roc_auc_score(labels, probabilities)),
        "confusion": confusion_matrix(labels, predicted, labels=[0, 1]).tolist(),
    }


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
