"""Paired statistics: against scikit-learn, closed forms and simulated comparisons."""

import json

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import binom, norm, ttest_rel
from sklearn.metrics import accuracy_score, brier_score_loss, recall_score, roc_auc_score

from chestx.classifier.metrics import classification_metrics
from chestx.study.paired import (
    between_trainings,
    bootstrap,
    contrast,
    exchange_rate,
    holm,
    mean_interval,
    prediction_interval,
    weighted_scores,
)

WRONG = ("better", "worse")


def comparison(
    rng, gains=(0.0, 0.0), seeds=6, patients=60, seed_sd=0.2, patient_sd=0.7, noise=0.3, start=1.5
):
    """Labels, patients (three images each) and log-odds of arms "0", "1", ... by planted gain.

    All share what is hard about an image. An arm's own ways with a patient are the same in all
    seeds; a seed moves an arm's separation of the classes; the rest is noise of one image.
    """
    group = np.repeat(np.arange(patients), 3)
    labels, count = group % 2, 3 * patients
    shared = 0.7 * rng.normal(size=patients)[group] + 0.5 * rng.normal(size=count)
    log_odds = {}
    for arm, gain in enumerate(gains):
        own = patient_sd * rng.normal(size=patients)[group]
        separation = start + gain + seed_sd * rng.normal(size=(seeds, 1))
        scores = separation * labels + shared + own + noise * rng.normal(size=(seeds, count))
        log_odds[str(arm)] = scores
    return labels, group.astype(str), log_odds


def aurocs(labels, rows, weights):
    return weighted_scores(labels, rows, weights)["auroc"]


def test_a_draw_is_sklearns_weighted_score():
    """Ties included; weights of a draw are what ``sample_weight`` is to scikit-learn."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    rows = rng.integers(0, 11, (3, 80)) / 10
    weights = rng.integers(0, 4, (80, 5))
    ours = weighted_scores(labels, logit(rows), weights)
    for s, row in enumerate(rows):
        named = row > 0.5
        for b, weight in enumerate(weights.T):
            by = {"sample_weight": weight}
            recall, specificity = (recall_score(labels, named, pos_label=k, **by) for k in (1, 0))
            expected = {
                "auroc": roc_auc_score(labels, row, **by),
                "accuracy": accuracy_score(labels, named, **by),
                "balanced_accuracy": (recall + specificity) / 2,
                "recall": recall,
                "specificity": specificity,
                "brier": brier_score_loss(labels, row, **by),
            }
            assert {name: values[s, b] for name, values in ours.items()} == pytest.approx(expected)


def test_the_first_draw_is_the_data_itself():
    labels, patients, rows = comparison(np.random.default_rng(1))
    draws = bootstrap(labels, patients, rows, draws=50)
    for arm in ("0", "1"):
        each = [classification_metrics(labels, row) for row in rows[arm]]
        for name, values in draws[arm].items():
            assert len(values) == 51
            assert values[0] == pytest.approx(np.mean([scores[name] for scores in each]))


def test_spread_between_seeds_is_students():
    """Where every patient says the same, the interval is the t interval over ten seeds.

    A plain bootstrap of ten would be 18 % narrower.
    """
    labels = np.repeat([0, 1], 20)
    error = np.random.default_rng(2).normal(0.3, 0.02, (10, 1))  # |probability - label|
    rows = {"a": logit(np.abs(labels - error)), "b": logit(np.abs(labels - np.full((10, 1), 0.3)))}
    draws = bootstrap(labels, np.arange(40).astype(str), rows)
    ours = contrast(draws, "a", "b", "brier")
    students = mean_interval(list(error[:, 0] ** 2 - 0.3**2))
    assert ours["high"] - ours["low"] == pytest.approx(students["high"] - students["low"], rel=0.05)
    assert ours["estimate"] == pytest.approx(students["mean"])


def test_spread_between_trainings_is_students_over_trainings():
    """Where all seeds of a training say the same, the interval is the t interval over trainings,
    half as wide again as that of a bootstrap that takes all seeds for independent."""
    labels, trainings = np.repeat([0, 1], 20), np.repeat(np.arange(5), 6)
    error = np.random.default_rng(2).normal(0.3, 0.02, 5)  # |probability - label|
    rows = {"a": logit(np.abs(labels - error[trainings][:, None]))}
    rows["b"] = logit(np.abs(labels - np.full((30, 1), 0.3)))
    patients = np.arange(40).astype(str)
    nested = bootstrap(labels, patients, rows, trainings=trainings.tolist())
    ours = contrast(nested, "a", "b", "brier")
    students = mean_interval(list(error**2 - 0.3**2))
    assert ours["high"] - ours["low"] == pytest.approx(students["high"] - students["low"], rel=0.05)
    plain = contrast(bootstrap(labels, patients, rows), "a", "b", "brier")
    assert ours["high"] - ours["low"] > 1.5 * (plain["high"] - plain["low"])


def test_deviation_between_trainings_is_that_of_the_analysis_of_variance():
    """Of 2,000 worlds the interval holds the planted deviation in 93 to 99 %; the estimate of its
    square is right on average."""
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        own = between_trainings(rng.normal(0, 0.01, (5, 1)) + rng.normal(0, 0.015, (5, 6)))
        found.append((own["sd"], own["low"], own["high"], own["within"]))
    sd, low, high, within = np.array(found).T
    assert 0.93 < ((low <= 0.01) & (high >= 0.01)).mean() < 0.99
    assert (sd**2).mean() == pytest.approx(0.01**2, rel=0.15)
    assert (within**2).mean() == pytest.approx(0.015**2, rel=0.03)
    assert between_trainings(np.tile([0.1, 0.2, 0.3], (4, 1)))["sd"] == 0


def test_one_seed_resamples_patients_alone():
    """The spread of accuracy is the cluster bootstrap's: sqrt(p (1 - p) / patients)."""
    patients = np.repeat(np.arange(100), 4)
    labels = patients % 2
    right = patients >= 20  # all images of a patient together
    draws = bootstrap(labels, patients.astype(str), {"a": (2 * (right == labels) - 1.0)[None]})
    assert draws["a"]["accuracy"].std() == pytest.approx(np.sqrt(0.8 * 0.2 / 100), rel=0.05)


def test_draws_that_miss_a_class_are_drawn_again():
    """One of five patients is positive: a third of all draws would have none."""
    labels, patients = np.array([1, 1, 0, 0, 0, 0]), np.array(list("aabcde"))
    rows = np.random.default_rng(3).random((2, 6))
    draws = bootstrap(labels, patients, {"a": rows}, draws=200)
    assert all(np.isfinite(values).all() for values in draws["a"].values())


def test_a_planted_effect_is_found():
    rng = np.random.default_rng(4)
    verdicts = []
    for _ in range(20):
        data = comparison(rng, gains=(0.0, 1.0))
        draws = bootstrap(*data, draws=500)
        verdicts.append(contrast(draws, "1", "0")["verdict"])
        assert contrast(draws, "0", "1")["estimate"] == -contrast(draws, "1", "0")["estimate"]
    assert verdicts.count("better") >= 16
    assert "worse" not in verdicts


@pytest.mark.parametrize("seeds", [3, 10])
def test_no_effect_is_found_no_more_often_than_it_should(seeds):
    """Two equal arms, 300 times: at most 5 % are told apart, give or take what chance allows.

    Resampling images alone, or a t test over the seeds alone, tells them apart far more often:
    each leaves out a noise that is there. Plain draws of three seeds fail here, too.
    """
    noises = {"seed_sd": 0.3, "patient_sd": 0.5} if seeds == 10 else {"patient_sd": 0.0}
    allowed = binom.ppf(0.999, 300, 0.05)
    false = np.zeros(3)
    for k in range(300):
        rng = np.random.default_rng([seeds, k])
        labels, patients, rows = comparison(rng, seeds=seeds, **noises)
        draws = bootstrap(labels, patients, rows, draws=400, seed=k)
        n = len(labels)
        images = rng.multinomial(n, np.full(n, 1 / n), 400).T
        alone = aurocs(labels, rows["0"], images) - aurocs(labels, rows["1"], images)
        low, high = np.quantile(alone.mean(0), [0.025, 0.975])
        each = [aurocs(labels, rows[arm], np.ones((n, 1)))[:, 0] for arm in "01"]
        false += (
            contrast(draws, "0", "1")["verdict"] in WRONG,
            not low <= 0 <= high,
            ttest_rel(*each).pvalue < 0.05,
        )
    assert false[0] <= allowed
    assert false[1] > 1.5 * allowed
    if seeds == 10:
        assert false[2] > allowed


def test_pairing_matters():
    """The same draws for both arms: what is hard for both cancels out."""
    data = comparison(np.random.default_rng(5), patient_sd=0.1, seed_sd=0.02)
    paired, other = bootstrap(*data, draws=1000), bootstrap(*data, draws=1000, seed=1)
    ours = contrast(paired, "1", "0")
    apart = contrast({"1": paired["1"], "0": other["0"]}, "1", "0")
    assert apart["high"] - apart["low"] > 2 * (ours["high"] - ours["low"])


def test_equivalence_needs_data():
    """Nearly identical arms are called equivalent from much data alone; none is ever proven."""
    quiet = {"seed_sd": 0.02, "patient_sd": 0.1, "noise": 0.1}
    much, little = (
        bootstrap(*comparison(np.random.default_rng(6), patients=n, **quiet), draws=500)
        for n in (600, 12)
    )
    much, little = contrast(much, "1", "0"), contrast(little, "1", "0")
    assert much["equivalent"]
    assert -0.01 < much["low90"] < much["high90"] < 0.01
    assert not little["equivalent"]
    assert little["verdict"] == "inconclusive"


def test_verdicts_of_given_draws():
    """Quantiles, p and words by hand: 999 draws of a - b, spread evenly over an interval."""

    def judged(low, high, metric="auroc"):
        spread = np.linspace(low, high, 999)
        draws = {"a": {metric: np.r_[spread.mean(), spread]}, "b": {metric: np.zeros(1000)}}
        return contrast(draws, "a", "b", metric)

    found = judged(0.001, 0.003)
    assert (found["verdict"], found["equivalent"]) == ("better", True)
    assert found["p"] == pytest.approx(2 / 1000)
    assert (found["low"], found["high90"]) == pytest.approx((0.00105, 0.0029))
    assert judged(0.001, 0.003, "brier")["verdict"] == "worse"
    assert judged(-0.5, -0.3)["verdict"] == "worse"
    assert judged(-0.5, -0.3, "brier")["verdict"] == "better"
    assert judged(-0.009, 0.009)["verdict"] == "equivalent"
    assert judged(-0.009, 0.009)["p"] == 1
    assert judged(-0.02, 0.009)["verdict"] == "inconclusive"
    assert judged(0.0, 0.0)["p"] == 1  # identical arms
    quarter = judged(-0.25, 0.75)  # 250 of 999 are not above 0
    assert quarter["p"] == pytest.approx(2 * 251 / 1000, abs=0.003)
    assert json.loads(json.dumps(quarter)) == quarter


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.02]) == [0.02]


def test_exchange_rate_of_a_planted_curve():
    """Synthetic images give about half the gain in AUROC that the hidden real ones give."""
    rng, gains = np.random.default_rng(7), np.array([0.0, 0.42, 1.0])
    data = comparison(rng, gains, seeds=10, patients=400, seed_sd=0.1, patient_sd=0.3)
    spread = np.sqrt(2 * (0.7**2 + 0.5**2 + 0.3**2 + 0.3**2) + 0.1**2)
    low, planted, high = norm.cdf((1.5 + gains) / spread)  # of the difference of two normal scores
    planted = (planted - low) / (high - low)
    draws = bootstrap(*data, draws=1000)
    found = exchange_rate(draws, "0", "1", "2")
    assert found["determined"]
    assert found["ceiling_gain"]["low"] > 0
    start, middle, end = (draws[arm]["auroc"][0] for arm in "012")
    assert found["rate"] == pytest.approx((middle - start) / (end - start))
    assert found["low"] < planted < found["high"]
    assert 0.1 < found["high"] - found["low"] < 0.6
    assert exchange_rate(draws, "0", "2", "2")["low"] == 1  # the ceiling itself
    assert json.loads(json.dumps(found)) == found


def test_exchange_rate_without_a_gain_is_not_determined():
    data = comparison(np.random.default_rng(8), (0.0, 0.0, 0.0))
    found = exchange_rate(bootstrap(*data, draws=500), "0", "1", "2")
    assert not found["determined"]
    assert found["rate"] is None
    assert found["low"] is None
    assert found["ceiling_gain"]["verdict"] not in WRONG


def test_errors_name_what_is_wrong():
    labels, patients, rows = comparison(np.random.default_rng(9))
    with pytest.raises(ValueError, match="both labels"):
        bootstrap(np.ones_like(labels), patients, rows)
    with pytest.raises(ValueError, match="two patients"):
        bootstrap(labels, np.full(len(labels), "a"), rows)
    with pytest.raises(ValueError, match="NaN"):
        bootstrap(labels, patients, {"0": rows["0"] * np.nan})


def test_interval_is_students():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval["mean"] == 2
    assert interval["sd"] == 1
    assert interval["high"] == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-4)
    assert mean_interval([1.0])["low"] is None
    _, high = prediction_interval(interval)
    assert high - 2 == pytest.approx(4.3027 * np.sqrt(4 / 3), abs=1e-4)
    same = mean_interval([0.5, 0.5])
    assert (same["low"], same["high"]) == (0.5, 0.5)  # JSON has no NaN
