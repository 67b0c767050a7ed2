"""What the units of a comparison say: scores, paired contrasts, the exchange rate, the verdict.

Intervals resample seeds and patients together; what was to be the one confirmatory question is
written in ``examples/protocol.json`` before it is read, and everything else is exploratory.
"""

from typing import Any

import numpy as np

from chestx import synthesis
from chestx.metrics.classification import mean_interval, reliability
from chestx.metrics.paired import Draws, bootstrap, contrast, exchange_rate, holm, mcnemar

Unit = dict[str, Any]  # what ``augmentation.run_unit`` returns
METRICS = ("auroc", "accuracy", "balanced_accuracy", "recall", "specificity", "brier")
BASELINES = ("original", "duplicates")  # what every arm is compared with

# What the slides report: single runs, each on the 624 test images.
DECK_RESULTS = (
    {"slide": "original, beside the CVAE", "arm": "original", "accuracy": 0.7484},
    {"slide": "original + CVAE", "arm": "cvae", "accuracy": 0.7532},
    {"slide": "original, beside the enhanced CVAE", "arm": "original", "accuracy": 0.8301},
    {"slide": "original + enhanced CVAE", "arm": "enhanced_cvae", "accuracy": 0.7837},
    {
        "slide": "original + DDPM, three epochs", "arm": "ddpm", "accuracy": 0.7420,
        "precision": 0.7101, "recall": 0.9923, "f1": 0.8278, "confusion": [[76, 158], [3, 387]],
    },
)  # fmt: skip


def summarize(units: list[Unit]) -> list[dict[str, Any]]:
    """One row per arm: its seeds, and over them mean, deviation and t interval of every metric.

    ``test`` is at threshold 0.5, ``test_tuned`` at the one that validation chose. The interval
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
            np.concatenate([u["probabilities"]["test"] for u in own]),
        )
        rows.append(row)
    return rows


def resample(units: list[Unit], patients: list[str], plan: dict[str, Any], tuned: bool) -> Draws:
    """``paired.bootstrap`` of all arms with the seeds that all of them have, as planned."""
    by_arm = {arm: {} for arm in dict.fromkeys(u["arm"] for u in units)}
    for unit in units:
        by_arm[unit["arm"]][unit["seed"]] = unit
    seeds = sorted(set.intersection(*(set(own) for own in by_arm.values())))
    if not seeds:
        raise ValueError("no seed was run in every arm, so that nothing is paired")
    return bootstrap(
        np.asarray(units[0]["labels"]["test"]),
        np.asarray(patients),
        {arm: np.array([own[s]["probabilities"]["test"] for s in seeds])
         for arm, own in by_arm.items()},
        {arm: np.array([own[s]["threshold"] if tuned else 0.5 for s in seeds])
         for arm, own in by_arm.items()},
        draws=plan["bootstrap"]["num_draws"], seed=plan["bootstrap"]["seed"],
    )  # fmt: skip


def compare(
    units: list[Unit], patients: list[str], plan: dict[str, Any], primary: bool = True
) -> dict[str, Any]:
    """Every arm against the baselines: ``contrasts``, ``mcnemar``, and the ``primary`` ones.

    ``patients`` (N,) of the test images, ``plan`` the content of ``protocol.json``. A primary
    contrast has the p value that Holm adjusts over the planned arms, and the word that follows
    from it; without ``primary`` all of it is exploratory. Contrasts at thresholds chosen on
    validation have ``threshold`` "validation".
    """
    arms, margin = list(dict.fromkeys(u["arm"] for u in units)), plan["equivalence_margin"]
    contrasts = []
    for threshold in ("0.5", "validation"):
        draws = resample(units, patients, plan, threshold == "validation")
        for base in (base for base in BASELINES if base in arms):
            contrasts += [
                {"threshold": threshold, **contrast(draws, arm, base, metric, margin)}
                for arm in arms
                if arm != base
                for metric in METRICS
                if threshold == "0.5" or metric not in ("auroc", "brier")
            ]
    return {
        "contrasts": contrasts,
        "primary": primary_contrasts(contrasts, plan["primary"]) if primary else [],
        "mcnemar": seed_tests(units, plan["primary"]["against"]),
    }


def primary_contrasts(
    contrasts: list[dict[str, Any]], primary: dict[str, Any]
) -> list[dict[str, Any]]:
    """The planned contrasts with ``p_holm`` and the verdict that it leaves; [] without them."""
    chosen = [
        c for c in contrasts
        if c["metric"] == primary["metric"] and c["b"] == primary["against"]
        and c["a"] in primary["arms"] and c["threshold"] == "0.5"
    ]  # fmt: skip
    for row, adjusted in zip(chosen, holm([c["p"] for c in chosen]) if chosen else []):
        row["p_holm"] = adjusted
    return [
        c | {"verdict": ("equivalent" if c["equivalent"] else "inconclusive")}
        if c["p_holm"] > primary["alpha"] else c
        for c in chosen
    ]  # fmt: skip


def seed_tests(units: list[Unit], against: str) -> list[dict[str, Any]]:
    """Exact McNemar tests of each arm and seed against that of ``against``; Holm over all."""
    right = {
        (u["arm"], u["seed"]): (np.asarray(u["probabilities"]["test"]) > 0.5)
        == np.asarray(u["labels"]["test"])
        for u in units
    }
    rows = [
        {"a": arm, "b": against, "seed": seed, **mcnemar(own, right[against, seed])}
        for (arm, seed), own in right.items()
        if arm != against and (against, seed) in right
    ]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]) if rows else []):
        row["p_holm"] = adjusted
    return rows


def exchange_rates(
    units: list[Unit], patients: list[str], plan: dict[str, Any]
) -> list[dict[str, Any]]:
    """What one added image is worth in real ones: synthetic ones, and duplicates beside them."""
    draws = resample(units, patients, plan, tuned=True)
    return [
        {"arm": arm, **exchange_rate(draws, "original", arm, "back_real", metric)}
        for arm in ("back_synthetic", "back_duplicates")
        for metric in ("auroc", "balanced_accuracy")
        if {arm, "original", "back_real"} <= set(draws)
    ]


def verdict_sentence(result: dict[str, Any], titles: dict[str, str]) -> str:
    """The answer in one sentence, computed from the primary contrasts of ``compare``.

    Without them, as under the deck's protocol, from the contrasts with original.
    """
    rows = result["primary"] or [
        c for c in result["contrasts"] if (c["b"], c["metric"]) == ("original", "auroc")
    ]
    if not rows:
        return ""
    base, words = rows[0]["b"], {}
    for row in rows:
        interval = "{estimate:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row)
        adjusted = f", p {row['p_holm']:.2g}" if "p_holm" in row else ""
        words.setdefault(row["verdict"], []).append(f"{titles[row['a']]} {interval}{adjusted}")
    answer = "it helps" if "better" in words else "no evidence that it helps"
    parts = "; ".join(f"{word}: {', '.join(arms)}" for word, arms in words.items())
    against = "as many duplicates of real images" if base == "duplicates" else titles[base]
    seeds = len(result["arms"][0]["seeds"])
    data = result["data"]
    return (
        f"{data['protocol'].capitalize()} protocol, {data['kind']} data, {seeds} seeds: {answer}. "
        f"AUROC on test with synthetic images minus that with {against}: {parts}."
    )


def disagreements(
    units: list[dict[str, Any]], labels: np.ndarray
) -> dict[str, dict[str, list[int]]]:
    """arm -> {"corrected": indices, "spoiled": indices} of test images, for the first seed.

    Corrected: wrong without the synthetic images, right with them, at threshold 0.5; ``labels``
    (N,) is the truth. Empty without the original arm.
    """
    right = {
        unit["arm"]: (np.asarray(unit["test_probabilities"]) >= 0.5).astype(int) == labels
        for unit in units
        if unit["seed"] == units[0]["seed"]
    }
    original = right.pop("original", None)
    if original is None:
        return {}
    return {
        arm: {
            "corrected": np.flatnonzero(~original & own).tolist(),
            "spoiled": np.flatnonzero(original & ~own).tolist(),
        }
        for arm, own in right.items()
    }


def console(rows: list[dict[str, Any]], arms: tuple[str, ...]) -> str:
    """The results of ``summarize`` as the deck's console prints them; means over seeds.

    A VAE's slide shows two accuracies, the DDPM's precision, recall, F1 and the confusion matrix.
    """
    by_arm, lines = {row["arm"]: row for row in rows}, []
    for arm in arms:
        if arm not in by_arm:
            continue
        test, original = by_arm[arm]["test"], by_arm.get("original")
        if arm in synthesis.DDPMS:
            lines += [f"{arm} + CNN", f"Accuracy:  {test['accuracy']['mean']:.4f}"]
            lines += [f"Precision: {test['precision']['mean']:.4f}"]
            lines += [f"Recall:    {test['recall']['mean']:.4f}"]
            lines += [f"F1-score:  {test['f1']['mean']:.4f}", "Confusion Matrix:"]
            lines += [str(np.round(by_arm[arm]["confusion"]).astype(int)), ""]
        else:
            lines.append(f"{arm} + CNN")
            if original:
                lines.append(f"Original Accuracy:  {original['test']['accuracy']['mean']:.4f}")
            lines += [f"Augmented Accuracy: {test['accuracy']['mean']:.4f}", ""]
    return "\n".join(lines).rstrip()
