"""Classifier metrics, and how long a classifier trains."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from chestx.classifier.arms import arms_of
from chestx.classifier.metrics import calibration_error, choose_threshold, classification_metrics
from chestx.study.comparison import DECK_RESULTS


def test_metrics_of_the_decks_confusion_matrix():
    """[[76, 158], [3, 387]] gives the accuracy, precision, recall and F1 printed on the slide."""
    deck = next(row for row in DECK_RESULTS if "confusion" in row)
    (tn, fp), (fn, tp) = deck["confusion"]
    labels = np.repeat([0, 0, 1, 1], [tn, fp, fn, tp])
    probabilities = np.repeat([0.1, 0.9, 0.1, 0.9], [tn, fp, fn, tp])
    ours = classification_metrics(labels, logit(probabilities))
    assert ours["confusion"] == deck["confusion"]
    for name in ("accuracy", "precision", "recall", "f1"):
        assert ours[name] == pytest.approx(deck[name], abs=5e-5)


def test_auroc_is_the_share_of_pairs_in_order():
    labels, probabilities = [0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9]
    metrics = classification_metrics(labels, logit(probabilities))
    assert metrics["auroc"] == 0.75
    assert metrics["specificity"] == 0.5
    assert metrics["f1_normal"] == 0.5  # one of two NORMAL found, one of two named
    assert metrics["confusion"] == [[1, 1], [1, 1]]


def test_confident_answers_are_ranked_by_their_log_odds():
    """Rounded probabilities tie beyond log-odds of 14.5; the log-odds of a float32 do not."""
    labels = np.repeat([0, 1], 50)
    log_odds = np.float32(np.linspace(20, 30, 100) + 3 * np.sin(np.arange(100)))
    pairs = log_odds[labels == 1][:, None] - log_odds[labels == 0]
    by_hand = (np.sign(pairs) / 2 + 0.5).mean()
    assert classification_metrics(labels, log_odds)["auroc"] == pytest.approx(by_hand)
    assert by_hand > 0.8
    rounded = np.round(expit(log_odds), 6)  # what used to be stored
    assert roc_auc_score(labels, rounded) == 0.5


def test_one_class_alone_cannot_be_judged():
    with pytest.raises(ValueError, match="both 0 and 1"):
        classification_metrics([1, 1], [0.3, 0.4])


def test_scores_of_probabilities_by_hand():
    """Positives at 0.9, 0.8, 0.4, negatives at 0.6 and 0.2."""
    metrics = classification_metrics([1, 1, 0, 1, 0], logit([0.9, 0.8, 0.6, 0.4, 0.2]))
    assert metrics["auprc"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert metrics["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.36 + 0.04) / 5)
    assert metrics["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.6 + 0.2) / 5)
    assert metrics["sensitivity_at_90_specificity"] == pytest.approx(2 / 3)


def test_sensitivity_at_exactly_90_percent():
    """One of ten negatives may be above the threshold, two may not; ties go together."""
    negatives, positives = np.arange(10) / 10, np.array([0.95, 0.85, 0.8, 0.75])
    labels = np.repeat([0, 1], [10, 4])

    def at_90(positives):
        scores = classification_metrics(labels, np.r_[negatives, positives])  # any scores
        return scores["sensitivity_at_90_specificity"]

    assert at_90(positives) == 0.5  # 0.8 ties with the second highest negative
    assert at_90(positives + 0.01) == 0.75
    assert at_90(positives * 0) == 0


def test_calibration_agrees_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.5, 0.5, 500).astype(np.float32)
    labels = (rng.random(500) < probabilities**2).astype(int)
    theirs = torchmetrics.binary_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), n_bins=15
    )
    assert calibration_error(labels, probabilities) == pytest.approx(theirs.item(), abs=1e-6)


def test_threshold_is_the_best_of_all():
    """No other cut has a higher balanced accuracy; ties go to 0, then down."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        labels = rng.integers(0, 2, 60)
        log_odds = np.round(rng.random(60) * 3 + 2 * labels - 3, 1).astype(dtype)
        cut = choose_threshold(labels, log_odds)
        best = max(
            balanced_accuracy_score(labels, log_odds > c) for c in np.arange(-3.05, 3.0, 0.1)
        )
        assert classification_metrics(labels, log_odds, cut)["balanced_accuracy"] == best
    assert choose_threshold([0, 0, 1, 1], [-4, -3, -2, -1]) == -2.5
    assert choose_threshold([0, 1, 0, 1], [-3, -1, 1, 3]) == -2
    assert choose_threshold([0, 1], [0.7, 0.7]) == 0
    neighbours = np.nextafter(0.25, [0, 1])[:, None] * np.ones(2)
    assert choose_threshold([0, 0, 1, 1], neighbours.ravel()) < neighbours[1, 0]
    with pytest.raises(ValueError, match="both 0 and 1"):
        choose_threshold([1, 1], [0.3, 0.4])


def test_protocols_fix_the_length_of_training():
    """Fair: equal steps in every arm. Deck: five epochs, three for the DDPMs."""
    shared = {"num_steps": 77, "num_epochs": 5, "num_epochs_ddpm": 3}
    names = ("original", "cvae", "ddpm")
    fair = arms_of(names, SimpleNamespace(protocol="fair", **shared))
    deck = arms_of(names, SimpleNamespace(protocol="deck", **shared))
    assert {arm.num_steps for arm in fair.values()} == {77}
    assert {arm.num_steps for arm in deck.values()} == {0}
    assert [arm.training().num_epochs for arm in deck.values()] == [5, 5, 3]
