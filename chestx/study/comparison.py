"""What the units of a comparison say: scores, paired contrasts, the exchange rate, the plan.

Intervals resample trainings of the generators, seeds and patients together; what was to be the
confirmatory question is written in ``examples/protocol.json`` before it is read, and everything
else is exploratory. ``verdict.py`` puts it into words.
"""

from typing import Any

import numpy as np

from chestx.classifier.arms import BEST, SYNTHETIC
from chestx.classifier.experiment import Unit
from chestx.exhibits import words_of
from chestx.radiographs.splits import Radiographs
from chestx.study.arms import ARMS
from chestx.study.paired import (
    Draws,
    between_trainings,
    bootstrap,
    contrast,
    exchange_rate,
    holm,
    mean_interval,
)

Rows = list[dict[str, Any]]  # contrasts, or an arm in each
METRICS = ("auroc", "accuracy", "balanced_accuracy", "recall", "specificity", "brier")
BASELINES = ("original", "duplicates")  # what every arm is compared with
BESIDE = (("classical", BEST), ("classical_best", "classical"))  # what the answer is read beside

WORDS = words_of(__file__)
DECK_RESULTS = WORDS["deck_results"]


def answers(units: list[Unit], data: Radiographs, plan: dict[str, Any]) -> dict[str, Any]:
    """All that is computed from ``units``: what 09 writes. ``plan`` is ``protocol.json``.

    ``contrasts``: every arm minus the baselines, at probability 0.5; ``beside``: those of
    ``BESIDE``; ``primary``: the planned ones among both, if all their arms are there, else all is
    exploratory; ``trainings``: how much the trainings of a generator differ; ``exchange``: what one
    added image is worth in real ones, a synthetic one and a duplicate; ``deck``: what the slides
    report, if it can be compared.
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
    beside = [contrast(draws, *pair, "auroc", margin) for pair in BESIDE if set(pair) <= set(draws)]
    beside_slides = about["protocol"] == "deck" and about["kind"] == "real"
    return {
        "arms": summarize(units),
        "contrasts": contrasts,
        "primary": primary_contrasts(contrasts + beside, plan["primary"]),
        "beside": beside,
        "trainings": trainings_of(units),
        "exchange": [
            exchange_rate(draws, "original", arm, "back_real")
            for arm in ("back_synthetic", "back_duplicates")
            if {arm, "original", "back_real"} <= set(draws)
        ],
        "deck": DECK_RESULTS if beside_slides else [],
        "plan": plan,
    }


def summarize(units: list[Unit]) -> Rows:
    """One row per arm: its seeds, and over them mean, deviation and t interval of every metric.

    ``test`` is at probability 0.5, ``test_tuned`` at the one that validation chose. The interval
    covers the luck of training alone.
    """
    metrics = [name for name in units[0]["test"] if name != "confusion"]
    rows = []
    for arm in dict.fromkeys(u["arm"] for u in units):
        own = [u for u in units if u["arm"] == arm]
        row = {"arm": arm, "num_added": own[0]["num_added"], "steps": own[0]["steps"]}
        row["seeds"] = [
            {key: u[key] for key in ("seed", "training", "threshold")} | u["test"] for u in own
        ]
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
    training = {unit["seed"]: unit["training"] for unit in units}
    return bootstrap(
        units[0]["labels"]["test"],
        patients,
        {arm: [own[seed] for seed in seeds] for arm, own in by_arm.items()},
        draws=plan["bootstrap"]["num_draws"],
        seed=plan["bootstrap"]["seed"],
        trainings=[training[seed] for seed in seeds],
    )


def trainings_of(units: list[Unit]) -> Rows:
    """Per arm with a generator of which several trainings were read: the mean AUROC of each, that
    minus ``original``'s with the same seeds, and ``between_trainings`` of them."""
    plain = {u["seed"]: u["test"]["auroc"] for u in units if u["arm"] == "original"}
    rows = []
    for arm in dict.fromkeys(u["arm"] for u in units if ARMS[u["arm"]].generator):
        by_training: dict[int, list[Unit]] = {}
        for unit in (u for u in units if u["arm"] == arm):
            by_training.setdefault(unit["training"], []).append(unit)
        scores = np.array([[u["test"]["auroc"] for u in own] for own in by_training.values()])
        if min(scores.shape) > 1:
            base = [[plain[u["seed"]] for u in own if plain] for own in by_training.values()]
            gains = np.mean(scores - base, 1).tolist() if plain else []
            row = {"arm": arm, "means": scores.mean(1).tolist(), "gains": gains}
            rows.append(row | between_trainings(scores))
    return rows


def primary_contrasts(contrasts: Rows, primary: dict[str, Any]) -> Rows:
    """The planned contrasts with ``p_holm``, adjusted over them, and the verdict that it leaves.

    [] if one of them is missing.
    """
    found = {(c["a"], c["b"]): dict(c) for c in contrasts if c["metric"] == primary["metric"]}
    planned = [tuple(pair) for pair in primary["contrasts"]]
    if not set(planned) <= set(found):
        return []
    chosen = [found[pair] for pair in planned]
    for row, adjusted in zip(chosen, holm([c["p"] for c in chosen])):
        row["p_holm"] = adjusted
        if adjusted > primary["alpha"]:
            row["verdict"] = "equivalent" if row["equivalent"] else "inconclusive"
    return chosen


def deviations(result: dict[str, Any]) -> list[str]:
    """How a comparison departs from its plan, as phrases; [] if the plan was followed."""
    plan, data, config = result["plan"], result["data"], result["config"]
    run, real = plan["run"], data["kind"] == "real"
    seeds = {row["arm"]: {seed["seed"] for seed in row["seeds"]} for row in result["arms"]}
    count = len(set.intersection(*seeds.values()))
    wanted = plan["num_trainings"] * plan["num_seeds"]
    found = {
        f"{data['kind']} data": not real,
        f"{data['protocol']} protocol": data["protocol"] != plan["protocol"],
        "other images": real and data["fingerprint"] != run["data"],
        f"{seeds_in_words(count)}, not {wanted}": count != wanted,
        f"at most {config.get('limit')} images per split": bool(config.get("limit")),
        "real images hidden": "hidden" in data["counts"],
    }
    for arm in dict.fromkeys(arm for pair in plan["primary"]["contrasts"] for arm in pair):
        made = [one["synthetic"] for one in result["inputs"].get(arm, ()) if "synthetic" in one]
        if real and made:
            found[f"other sets of {ARMS[arm].generator}"] = run["sets"] != made
    for name, value in run["settings"].items():
        if name in config:
            found[f"{name} {config[name]}, not {value}"] = config[name] != value
    return [phrase for phrase, departs in found.items() if departs]


def generators_in_words(arms: Rows) -> str:
    """ "one training of each generator", "5 trainings of each generator"."""
    count = max(seed["training"] + 1 for row in arms for seed in row["seeds"])
    return f"{'one' if count == 1 else count} training{'s' * (count != 1)} of each generator"


def seeds_in_words(count: int) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count} seed{'s' * (count != 1)}"


def disagreements(units: list[Unit]) -> dict[str, dict[str, list[int]]]:
    """arm -> {"corrected": indices, "spoiled": indices} of test images, for the first seed.

    Corrected: wrong without the synthetic images, right with them, at probability 0.5. ``units``
    are those of the main arms; the arms compared with the original are the generators'.
    """
    right = {
        unit["arm"]: (np.asarray(unit["log_odds"]["test"]) > 0) == unit["labels"]["test"]
        for unit in units
        if unit["seed"] == units[0]["seed"]
    }
    plain = right["original"]
    return {
        arm: {
            "corrected": np.flatnonzero(~plain & right[arm]).tolist(),
            "spoiled": np.flatnonzero(plain & ~right[arm]).tolist(),
        }
        for arm in SYNTHETIC
    }
