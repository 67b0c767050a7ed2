"""What the units of a comparison say: scores, paired contrasts, the exchange rate, the plan.

Intervals resample seeds and patients together; what was to be the one confirmatory question is
written in ``examples/protocol.json`` before it is read, and everything else is exploratory.
``verdict.py`` puts it into words.
"""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.calibration import calibration_curve

from chestx.classifier.arms import ARMS, BEST, SYNTHETIC
from chestx.classifier.experiment import Unit
from chestx.radiographs.splits import Radiographs
from chestx.study.paired import (
    Draws,
    bootstrap,
    contrast,
    exchange_rate,
    holm,
    mcnemar,
    mean_interval,
)

METRICS = ("auroc", "accuracy", "balanced_accuracy", "recall", "specificity", "brier")
BASELINES = ("original", "duplicates")  # what every arm is compared with
BESIDE = (("classical", BEST), ("classical_best", "classical"))  # what the answer is read beside

WORDS = tomllib.loads(Path(__file__).with_name("comparison.toml").read_text(encoding="utf-8"))
DECK_RESULTS = WORDS["deck_results"]


def summarize(units: list[Unit]) -> list[dict[str, Any]]:
    """One row per arm: its seeds, and over them mean, deviation and t interval of every metric.

    ``test`` is at probability 0.5, ``test_tuned`` at the one that validation chose. The interval
    covers the luck of training alone. ``reliability`` pools the seeds.
    """
    metrics = [name for name in units[0]["test"] if name != "confusion"]
    rows = []
    for arm in dict.fromkeys(u["arm"] for u in units):
        own = [u for u in units if u["arm"] == arm]
        row = {"arm": arm, "num_added": own[0]["num_added"], "steps": own[0]["steps"]}
        row["seeds"] = [{"seed": u["seed"], "threshold": u["threshold"], **u["test"]} for u in own]
        for part in ("test", "test_tuned"):
            row[part] = {name: mean_interval([u[part][name] for u in own]) for name in metrics}
        row["validation_accuracy"] = mean_interval([u["validation"]["accuracy"] for u in own])
        row["confusion"] = np.mean([u["test"]["confusion"] for u in own], axis=0).tolist()
        row["reliability"] = reliability(
            np.concatenate([u["labels"]["test"] for u in own]),
            expit(np.concatenate([u["log_odds"]["test"] for u in own])),
        )
        rows.append(row)
    return rows


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> dict[str, list[float]]:
    """What a reliability diagram shows, per bin that is not empty, from low to high.

    ``predicted``: mean probability of class 1; ``observed``: share of class 1; ``count``: images.
    """
    observed, predicted = calibration_curve(labels, probabilities, n_bins=bins)
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities)  # as sklearn has it
    count = np.bincount(index)
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": count[count > 0].tolist(),
    }


def answers(
    units: list[Unit], data: Radiographs, plan: dict[str, Any], *, primary: bool
) -> dict[str, Any]:
    """All that is computed from ``units``: what 09 writes; ``primary`` as in ``compare``."""
    patients, about = list(data["test"]["patient"]), data.describe()
    beside_slides = about["protocol"] == "deck" and about["kind"] == "real"
    tuned = about["protocol"] == "fair"
    found = compare(units, patients, plan, about["fingerprint"], primary=primary, tuned=tuned)
    return found | {
        "arms": summarize(units),
        "exchange": exchange_rates(units, patients, plan),
        "deck": DECK_RESULTS if beside_slides else [],
        "plan": plan,
    }


def units_by_arm(units: list[Unit]) -> dict[str, list[Unit]]:
    """arm -> its units, in the order of the seeds that all arms have.

    Raises ValueError if there is no such seed.
    """
    by_arm: dict[str, dict[int, Unit]] = {}
    for unit in units:
        by_arm.setdefault(unit["arm"], {})[unit["seed"]] = unit
    seeds = sorted(set.intersection(*map(set, by_arm.values())))
    if not seeds:
        raise ValueError("no seed was run in every arm, so that nothing is paired")
    return {arm: [own[seed] for seed in seeds] for arm, own in by_arm.items()}


def resample(units: list[Unit], patients: list[str], plan: dict[str, Any], *, tuned: bool) -> Draws:
    """``paired.bootstrap`` of all arms with the seeds that all of them have, as planned."""
    paired = units_by_arm(units)
    return bootstrap(
        np.asarray(units[0]["labels"]["test"]),
        np.asarray(patients),
        {arm: np.array([unit["log_odds"]["test"] for unit in own]) for arm, own in paired.items()},
        {
            arm: np.array([unit["threshold"] if tuned else 0.0 for unit in own])
            for arm, own in paired.items()
        },
        draws=plan["bootstrap"]["num_draws"],
        seed=plan["bootstrap"]["seed"],
    )


def compare(
    units: list[Unit], patients: list[str], plan: dict[str, Any], data: str = "",
    *, primary: bool = True, tuned: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Every arm against the baselines: ``contrasts``, ``mcnemar``, and the ``primary`` ones.

    ``patients`` (N,) of the test images, ``plan`` the content of ``protocol.json``. A primary
    contrast has the p value that Holm adjusts over the planned arms, and the word that follows
    from it; without ``primary`` all of it is exploratory. Contrasts at thresholds chosen on
    validation have ``threshold`` "validation"; without ``tuned`` there are none, as under the
    deck's protocol, whose 16 validation images are shared with train. ``unread`` are the primary
    contrasts on the seeds that nobody had read when the plan was written, if ``data``, the images'
    fingerprint, is that of the plan; ``beside`` those of ``BESIDE``.
    """
    arms, margin = list(dict.fromkeys(u["arm"] for u in units)), plan["equivalence_margin"]
    contrasts, beside = [], []
    for threshold in ("0.5", "validation")[: 1 + tuned]:
        draws = resample(units, patients, plan, tuned=threshold == "validation")
        for base in (base for base in BASELINES if base in arms):
            contrasts += [
                {"threshold": threshold, **contrast(draws, arm, base, metric, margin)}
                for arm in arms
                if arm != base
                for metric in METRICS
                if threshold == "0.5" or metric not in ("auroc", "brier")
            ]
        if threshold == "0.5":
            pairs = [pair for pair in BESIDE if set(pair) <= set(arms)]
            beside = [contrast(draws, *pair, "auroc", margin) for pair in pairs]
    found = {
        "contrasts": contrasts,
        "primary": primary_contrasts(contrasts, plan["primary"]) if primary else [],
        "beside": beside,
        "mcnemar": seed_tests(units, plan["primary"]["against"]),
    }
    later = plan["added_later"]
    read = set(later["seeds_read_before"]) if data == later["data"] else set()
    fresh = [unit for unit in units if unit["seed"] not in read]
    if found["primary"] and 0 < len(fresh) < len(units):
        found["unread"] = compare(fresh, patients, plan, data, tuned=False)["primary"]
    return found


def primary_contrasts(
    contrasts: list[dict[str, Any]], primary: dict[str, Any]
) -> list[dict[str, Any]]:
    """The planned contrasts with ``p_holm`` and the verdict that it leaves; [] without them."""
    wanted = (primary["metric"], primary["against"], "0.5")
    chosen = [
        dict(c)
        for c in contrasts
        if (c["metric"], c["b"], c["threshold"]) == wanted and c["a"] in primary["arms"]
    ]
    for row, adjusted in zip(chosen, holm([c["p"] for c in chosen])):
        row["p_holm"] = adjusted
        if adjusted > primary["alpha"]:
            row["verdict"] = "equivalent" if row["equivalent"] else "inconclusive"
    return chosen


def right_answers(unit: Unit) -> np.ndarray:
    """Which test images a unit calls what they are, at probability 0.5: (N,) bool."""
    return (np.asarray(unit["log_odds"]["test"]) > 0) == np.asarray(unit["labels"]["test"])


def seed_tests(units: list[Unit], against: str) -> list[dict[str, Any]]:
    """Exact McNemar tests of each arm and seed against that of ``against``; Holm over all."""
    right = {(unit["arm"], unit["seed"]): right_answers(unit) for unit in units}
    rows = [
        {"a": arm, "b": against, "seed": seed, **mcnemar(own, right[against, seed])}
        for (arm, seed), own in right.items()
        if arm != against and (against, seed) in right
    ]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows])):
        row["p_holm"] = adjusted
    return rows


def exchange_rates(
    units: list[Unit], patients: list[str], plan: dict[str, Any]
) -> list[dict[str, Any]]:
    """What one added image is worth in real ones: synthetic ones, and duplicates beside them."""
    if "back_real" not in {unit["arm"] for unit in units}:
        return []
    draws = resample(units, patients, plan, tuned=True)
    return [
        {"arm": arm, **exchange_rate(draws, "original", arm, "back_real", metric)}
        for arm in ("back_synthetic", "back_duplicates")
        for metric in ("auroc", "balanced_accuracy")
        if {arm, "original"} <= set(draws)
    ]


def deviations(result: dict[str, Any]) -> list[str]:
    """How a comparison departs from its plan, as phrases; [] if the plan was followed."""
    plan, data, config = result["plan"], result["data"], result["config"]
    later, real = plan["added_later"], data["kind"] == "real"
    planned = (plan["primary"]["against"], *plan["primary"]["arms"])
    seeds = {row["arm"]: {seed["seed"] for seed in row["seeds"]} for row in result["arms"]}
    count = len(set.intersection(*seeds.values()))
    missing = [arm for arm in planned if arm not in seeds]
    found = {
        f"{data['kind']} data": not real,
        f"{data['protocol']} protocol": data["protocol"] != plan["protocol"],
        "other images": real and data["fingerprint"] != later["data"],
        f"{seeds_in_words(count)}, not {plan['num_seeds']}": count != plan["num_seeds"],
        f"without {', '.join(missing)}": bool(missing),
        f"at most {config.get('limit')} images per split": bool(config.get("limit")),
        "real images hidden": "hidden" in data["counts"],
    }
    for arm in planned:
        made = result["inputs"].get(arm, {}).get("synthetic")
        if real and arm in seeds and made is not None:
            found[f"another set of {arm}"] = later["sets"].get(arm) != made
    for name, value in later["settings"].items():
        if name in config:
            found[f"{name} {config[name]}, not {value}"] = config[name] != value
    return [phrase for phrase, departs in found.items() if departs]


def seeds_in_words(count: int) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count} seed{'s' * (count != 1)}"


def exploratory(contrasts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """AUROC of the arms with synthetic images minus that of duplicates, or else of original."""
    bases = {c["b"] for c in contrasts}
    base = "duplicates" if "duplicates" in bases else "original"
    return [
        c for c in contrasts
        if (c["metric"], c["b"], c["threshold"]) == ("auroc", base, "0.5")
        and c["a"] in ARMS and ARMS[c["a"]].generator
    ]  # fmt: skip


def disagreements(units: list[Unit]) -> dict[str, dict[str, list[int]]]:
    """arm -> {"corrected": indices, "spoiled": indices} of test images, for the first seed.

    Corrected: wrong without the synthetic images, right with them, at probability 0.5; the arms are
    the generators'. Empty without the original arm.
    """
    right = {u["arm"]: right_answers(u) for u in units if u["seed"] == units[0]["seed"]}
    if "original" not in right:
        return {}
    return {
        arm: {
            "corrected": np.flatnonzero(~right["original"] & own).tolist(),
            "spoiled": np.flatnonzero(right["original"] & ~own).tolist(),
        }
        for arm, own in right.items()
        if arm in SYNTHETIC
    }
