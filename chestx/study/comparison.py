"""What the units of a comparison say: scores, paired contrasts, the exchange rate, the plan.

Intervals resample seeds and patients together; what was to be the one confirmatory question is
written in ``examples/protocol.json`` before it is read, and everything else is exploratory.
``verdict.py`` puts it into words.
"""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from chestx.classifier.arms import BEST, SYNTHETIC
from chestx.classifier.experiment import Unit
from chestx.radiographs.splits import Radiographs
from chestx.study.paired import Draws, bootstrap, contrast, exchange_rate, holm, mean_interval

METRICS = ("auroc", "accuracy", "balanced_accuracy", "recall", "specificity", "brier")
BASELINES = ("original", "duplicates")  # what every arm is compared with
BESIDE = (("classical", BEST), ("classical_best", "classical"))  # what the answer is read beside

WORDS = tomllib.loads(Path(__file__).with_name("comparison.toml").read_text(encoding="utf-8"))
DECK_RESULTS = WORDS["deck_results"]


def answers(
    units: list[Unit], data: Radiographs, plan: dict[str, Any], *, primary: bool
) -> dict[str, Any]:
    """All that is computed from ``units``: what 09 writes. ``plan`` is ``protocol.json``.

    ``contrasts``: every arm minus the baselines, at probability 0.5; ``primary``: the planned ones,
    unless ``primary`` is False and all is exploratory; ``beside``: those of ``BESIDE``;
    ``exchange``: what one added image is worth in real ones, a synthetic one and a duplicate;
    ``deck``: what the slides report, if it can be compared.
    """
    about, margin = data.describe(), plan["equivalence_margin"]
    draws = resample(units, data["test"]["patient"], plan)
    contrasts = [
        contrast(draws, arm, base, metric, margin)
        for base in BASELINES
        for arm in draws
        for metric in METRICS
        if base in draws and arm != base
    ]
    beside_slides = about["protocol"] == "deck" and about["kind"] == "real"
    return {
        "arms": summarize(units),
        "contrasts": contrasts,
        "primary": primary_contrasts(contrasts, plan["primary"]) if primary else [],
        "beside": [
            contrast(draws, *pair, "auroc", margin) for pair in BESIDE if set(pair) <= set(draws)
        ],
        "exchange": [
            exchange_rate(draws, "original", arm, "back_real")
            for arm in ("back_synthetic", "back_duplicates")
            if {arm, "original", "back_real"} <= set(draws)
        ],
        "deck": DECK_RESULTS if beside_slides else [],
        "plan": plan,
    }


def summarize(units: list[Unit]) -> list[dict[str, Any]]:
    """One row per arm: its seeds, and over them mean, deviation and t interval of every metric.

    ``test`` is at probability 0.5, ``test_tuned`` at the one that validation chose. The interval
    covers the luck of training alone.
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
        rows.append(row)
    return rows


def resample(units: list[Unit], patients: list[str], plan: dict[str, Any]) -> Draws:
    """``paired.bootstrap`` of all arms with the seeds that all of them have, as planned."""
    by_arm: dict[str, dict[int, list[float]]] = {}
    for unit in units:
        by_arm.setdefault(unit["arm"], {})[unit["seed"]] = unit["log_odds"]["test"]
    seeds = sorted(set.intersection(*map(set, by_arm.values())))
    return bootstrap(
        np.asarray(units[0]["labels"]["test"]),
        np.asarray(patients),
        {arm: np.array([own[seed] for seed in seeds]) for arm, own in by_arm.items()},
        draws=plan["bootstrap"]["num_draws"],
        seed=plan["bootstrap"]["seed"],
    )


def primary_contrasts(
    contrasts: list[dict[str, Any]], primary: dict[str, Any]
) -> list[dict[str, Any]]:
    """The planned contrasts with ``p_holm``, adjusted over them, and the verdict that it leaves."""
    wanted = (primary["metric"], primary["against"])
    chosen = [
        dict(c) for c in contrasts if (c["metric"], c["b"]) == wanted and c["a"] in primary["arms"]
    ]
    for row, adjusted in zip(chosen, holm([c["p"] for c in chosen])):
        row["p_holm"] = adjusted
        if adjusted > primary["alpha"]:
            row["verdict"] = "equivalent" if row["equivalent"] else "inconclusive"
    return chosen


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


def disagreements(units: list[Unit]) -> dict[str, dict[str, list[int]]]:
    """arm -> {"corrected": indices, "spoiled": indices} of test images, for the first seed.

    Corrected: wrong without the synthetic images, right with them, at probability 0.5; the arms are
    the generators'. Empty without the original arm.
    """
    right = {
        unit["arm"]: (np.asarray(unit["log_odds"]["test"]) > 0) == unit["labels"]["test"]
        for unit in units
        if unit["seed"] == units[0]["seed"]
    }
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
