"""Paired statistics of arms x seeds on one test set: what would other trainings and patients say?

Every arm is judged on the same draws of trainings, seeds and patients, resampled together:
the crossed ("pigeonhole") bootstrap, Owen 2007, doi:10.1214/07-AOAS122. It counts the noise that
belongs to one seed on one patient up to three times, so it errs towards too wide.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import expit

LOWER_IS_BETTER = {"brier"}
Draws = Mapping[str, Mapping[str, np.ndarray]]  # arm -> metric -> (1 + draws,)


def mean_interval(values: list[float]) -> dict[str, float | None]:
    """Mean, standard deviation and 95 % Student-t interval of the mean of independent ``values``.

    One value has no spread: its deviation and interval are None.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": n}
    sd = float(np.std(values, ddof=1))
    low, high = (mean + t * sd / n**0.5 for t in stats.t.interval(0.95, n - 1))
    return {"mean": mean, "sd": sd, "low": float(low), "high": float(high), "n": n}


def prediction_interval(interval: dict[str, float]) -> tuple[float, float]:
    """95 % range for one more value, from ``mean_interval`` of at least two: mean +/- t sd
    sqrt(1 + 1 / n)."""
    mean, sd, n = interval["mean"], interval["sd"], interval["n"]
    low, high = (mean + t * sd * (1 + 1 / n) ** 0.5 for t in stats.t.interval(0.95, n - 1))
    return float(low), float(high)


def between_trainings(scores: np.ndarray) -> dict[str, float]:
    """The standard deviation between trainings of a generator, with its 95 % interval.

    ``scores`` (K, S): S >= 2 seeds of a classifier for each of K >= 2 trainings. By analysis of
    variance: ``sd`` is the root of (MSB - MSW) / S, 0 if that is negative; the interval is that of
    Williams 1962 (Biometrika 49, 278), at least 90 % and nearly always 95 %. ``within`` is the
    deviation between the seeds of one training.
    """
    trainings, seeds = scores.shape
    free = (trainings - 1, trainings * (seeds - 1))
    between, within = seeds * scores.mean(1).var(ddof=1), scores.var(1, ddof=1).mean()
    tails = np.array([0.975, 0.025])
    ratio = np.array([1, *stats.f.ppf(tails, *free)])  # of the estimate, of low, of high
    share = np.array([1, *stats.chi2.ppf(tails, free[0]) / free[0]])
    variance = (between - ratio * within) / (seeds * share)
    sd, low, high = np.sqrt(variance.clip(min=0)).tolist()
    return {"sd": sd, "low": low, "high": high, "within": float(within**0.5)}


def weighted_scores(
    labels: np.ndarray, log_odds: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """AUROC, accuracy, balanced accuracy, recall, specificity and Brier score, (S, B) each.

    ``labels`` (N,) in {0, 1}, ``log_odds`` of class 1 (S, N), positive above 0 (probability 0.5),
    ``weights`` (N, B) of images, with some in either class. AUROC is the weighted share of
    (positive, negative) pairs in the right order, ties counting half.
    """
    positive = labels == 1
    ones, zeros = weights[positive], weights[~positive]
    right = ((log_odds > 0) == positive).astype(float)
    recall = right[:, positive] @ ones / ones.sum(0)
    specificity = right[:, ~positive] @ zeros / zeros.sum(0)
    auroc = []
    for row in log_odds:
        high, low = row[positive], row[~positive, None]
        wins = (high > low) + 0.5 * (high == low)  # (negatives, positives)
        auroc.append(((wins @ ones) * zeros).sum(0) / (ones.sum(0) * zeros.sum(0)))
    return {
        "auroc": np.stack(auroc),
        "accuracy": right @ weights / weights.sum(0),
        "balanced_accuracy": (recall + specificity) / 2,
        "recall": recall,
        "specificity": specificity,
        "brier": (expit(log_odds) - labels) ** 2 @ weights / weights.sum(0),
    }


def bootstrap(
    labels: ArrayLike,
    patients: ArrayLike,
    log_odds: Mapping[str, ArrayLike],
    draws: int = 10_000,
    seed: int = 0,
    trainings: Sequence[int] = (),
) -> dict[str, dict[str, np.ndarray]]:
    """Mean over seeds of every metric of every arm: (1 + draws,), first of the data themselves.

    ``labels`` and ``patients`` (N,); ``log_odds`` of class 1 (S, N) by arm, row s of every arm
    from the same seed; ``trainings`` (S,): which training of its generator an arm's row s is of,
    () if all are of one. Each draw takes as many trainings as there are, within each its number of
    seeds, and as many patients, with all their images, as there are, all with replacement and the
    same for every arm; one that misses a class is drawn again. Percentiles of a difference cover
    other seeds and other patients of this source, with several trainings other trainings of the
    generator too. They hold on condition of the training images, with one training of it as well.

    A bootstrap of few is too narrow (of ten: 90 % for 95 %), so a draw's departures from equal
    weights are multiplied by sqrt(n / chi2), chi2 drawn with n - 1 degrees of freedom, n the number
    of trainings or, of one, of seeds: that makes their share of the spread Student's t. Of a single
    seed the spread is that of patients alone and says nothing about another training. Takes about
    30 N bytes a draw. Raises ValueError for log-odds that are not finite, and for a class or a
    second patient that is missing.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    arms = {arm: np.asarray(rows, dtype=float) for arm, rows in log_odds.items()}
    if not all(np.isfinite(rows).all() for rows in arms.values()):
        raise ValueError("log_odds hold NaN or infinity; train again what diverged")
    if set(np.unique(labels)) != {0, 1} or len(np.unique(patients)) < 2:
        raise ValueError("a test set needs both labels, 0 and 1, and two patients; give more")
    rng = np.random.default_rng(seed)
    count = len(next(iter(arms.values())))
    seeds = _seed_weights(np.asarray(trainings or [0] * count), draws, rng)
    weights = _image_weights(labels, patients, draws, rng)
    result = {}
    for arm, rows in arms.items():
        scores = weighted_scores(labels, rows, weights)
        result[arm] = {name: (seeds * values).mean(0) for name, values in scores.items()}
    return result


def _seed_weights(trainings: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (S, 1 + draws) of mean 1, the first all 1; negative ones occur, by the stretching."""
    weights = np.ones((len(trainings), 1 + draws))
    names, sizes = np.unique(trainings, return_counts=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)  # (draws, K)
    for name, size, times in zip(names, sizes, drawn.T):
        seeds = rng.multinomial(size * times, np.full(size, 1 / size))  # (draws, size)
        weights[trainings == name, 1:] = seeds.T
    free = len(names) if len(names) > 1 else len(trainings)
    if free > 1:
        stretch = np.sqrt(free / rng.chisquare(free - 1, draws))
        weights[:, 1:] = 1 + stretch * (weights[:, 1:] - 1)
    return weights


def _image_weights(
    labels: np.ndarray, patients: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each image's patient was drawn: (N, 1 + draws), the first all 1."""
    names, group = np.unique(patients, return_inverse=True)
    weights = np.ones((len(labels), 1 + draws))
    open_draws = np.arange(1, 1 + draws)
    while len(open_draws):
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), len(open_draws))
        drawn = counts.T[group]
        weights[:, open_draws] = drawn
        both = drawn[labels == 1].any(0) & drawn[labels == 0].any(0)
        open_draws = open_draws[~both]
    return weights


def contrast(
    draws: Draws, a: str, b: str, metric: str = "auroc", margin: float = 0.01
) -> dict[str, Any]:
    """Arm ``a`` minus arm ``b``: estimate, 95 % percentile interval, p value and verdict.

    ``draws`` come from ``bootstrap``, which says what the interval covers. ``p`` is two-sided,
    2 (1 + k) / (1 + draws), k the draws on the rarer side of 0. ``equivalent``: two one-sided
    tests at 5 %, that is, the 90 % interval lies within +/- ``margin``. The verdict is "better" or
    "worse" where 0 is outside the 95 % interval, else "equivalent" or "inconclusive".
    """
    difference = draws[a][metric] - draws[b][metric]
    estimate, rest = difference[0], difference[1:]
    low, low90, high90, high = np.quantile(rest, [0.025, 0.05, 0.95, 0.975]).tolist()
    rarer = min((rest <= 0).sum(), (rest >= 0).sum())
    equivalent = bool(-margin < low90 and high90 < margin)
    if low <= 0 <= high:
        verdict = "equivalent" if equivalent else "inconclusive"
    else:
        verdict = "better" if (low > 0) != (metric in LOWER_IS_BETTER) else "worse"
    found = {"a": a, "b": b, "metric": metric, "estimate": float(estimate)}
    found |= {"low": low, "high": high, "low90": low90, "high90": high90}
    found["p"] = float(min(1, 2 * (1 + rarer) / (1 + len(rest))))
    return found | {"margin": margin, "equivalent": equivalent, "verdict": verdict}


def exchange_rate(draws: Draws, base: str, synthetic: str, ceiling: str) -> dict[str, Any]:
    """(synthetic - base) / (ceiling - base): the share of real images' gain that synthesis gives.

    All of AUROC. ``base`` was trained without some real images, ``synthetic`` with as many
    synthetic ones instead, ``ceiling`` with the hidden ones. A rate x reads "one synthetic image is
    worth x real ones" as far as AUROC is linear in their number in between; where it levels off, x
    is an upper bound. ``low`` and ``high`` are the 95 % percentiles of the ratio over the same
    draws. If the interval of ceiling - base contains 0 any rate fits (Fieller 1954): ``determined``
    is False, and rate and interval are None. ``ceiling_gain`` is that contrast.
    """
    gain = contrast(draws, ceiling, base)
    determined = not gain["low"] <= 0 <= gain["high"]
    found = {"arm": synthetic, "ceiling_gain": gain, "determined": determined}
    if not determined:
        return found | {"rate": None, "low": None, "high": None}
    start = draws[base]["auroc"]
    rate = (draws[synthetic]["auroc"] - start) / (draws[ceiling]["auroc"] - start)
    low, high = np.quantile(rate[1:], [0.025, 0.975]).tolist()
    return found | {"rate": float(rate[0]), "low": low, "high": high}


def holm(p_values: list[float]) -> list[float]:
    """P values adjusted for being several, in the order given: Holm 1979's step-down method.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than
    the one before it, or larger than 1. Below 5 % they keep any false finding's chance below 5 %.
    """
    p, order = np.asarray(p_values, dtype=float), np.argsort(p_values)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return steps[np.argsort(order)].tolist()
