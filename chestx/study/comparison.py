"""What the units of a comparison say: scores, paired contrasts, the exchange rate, the verdict.

Intervals resample seeds and patients together; what was to be the one confirmatory question is
written in ``examples/protocol.json`` before it is read, and everything else is exploratory.
"""

from typing import Any

import numpy as np
from scipy.special import expit

from chestx.classifier.arms import ARMS, BEST
from chestx.classifier.metrics import mean_interval, reliability
from chestx.study.paired import Draws, bootstrap, contrast, exchange_rate, holm, mcnemar

Unit = dict[str, Any]  # what ``augmentation.run_unit`` returns
METRICS = ("auroc", "accuracy", "balanced_accuracy", "recall", "specificity", "brier")
BASELINES = ("original", "duplicates")  # what every arm is compared with
BESIDE = (("classical", BEST), ("classical_best", "classical"))  # what the answer is read beside

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
            expit(np.concatenate([u["log_odds"]["test"] for u in own])),
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
        {arm: np.array([own[s]["log_odds"]["test"] for s in seeds])
         for arm, own in by_arm.items()},
        {arm: np.array([own[s]["threshold"] if tuned else 0.0 for s in seeds])
         for arm, own in by_arm.items()},
        draws=plan["bootstrap"]["num_draws"], seed=plan["bootstrap"]["seed"],
    )  # fmt: skip


def compare(
    units: list[Unit], patients: list[str], plan: dict[str, Any], data: str = "",
    primary: bool = True, tuned: bool = True,
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
        draws = resample(units, patients, plan, threshold == "validation")
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
        (u["arm"], u["seed"]): (np.asarray(u["log_odds"]["test"]) > 0)
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


def deviations(result: dict[str, Any]) -> list[str]:
    """How a comparison departs from its plan, as phrases; [] if the plan was followed."""
    plan, data, config = result["plan"], result["data"], result["config"]
    later = plan["added_later"]
    planned = (plan["primary"]["against"], *plan["primary"]["arms"])
    seeds = {row["arm"]: {seed["seed"] for seed in row["seeds"]} for row in result["arms"]}
    count = len(set.intersection(*seeds.values()))
    missing = [arm for arm in planned if arm not in seeds]
    found = {
        f"{data['kind']} data": data["kind"] != "real",
        f"{data['protocol']} protocol": data["protocol"] != plan["protocol"],
        "other images": data["kind"] == "real" and data["fingerprint"] != later["data"],
        f"{_seeds(count)}, not {plan['num_seeds']}": count != plan["num_seeds"],
        f"without {', '.join(missing)}": bool(missing),
        f"at most {config.get('limit')} images per split": bool(config.get("limit")),
        "real images hidden": "hidden" in data["counts"],
    }
    made = {arm: result["inputs"].get(arm, {}).get("synthetic") for arm in planned if arm in seeds}
    found |= {
        f"another set of {arm}": fingerprint is not None and later["sets"].get(arm) != fingerprint
        for arm, fingerprint in made.items()
        if data["kind"] == "real"
    }
    found |= {
        f"{name} {config[name]}, not {value}": config[name] != value
        for name, value in later["settings"].items()
        if name in config
    }
    return [phrase for phrase, departs in found.items() if departs]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _answer(verdicts: list[str], margin: float) -> str:
    """Does synthetic data help? From the verdicts of the generators' arms."""
    kinds = set(verdicts)
    if kinds == {"better"}:
        return "yes"
    if "better" in kinds:
        return "with some generators" + ", while others harm" * ("worse" in kinds)
    if kinds == {"worse"}:
        return "no, it makes things worse"
    if kinds == {"equivalent"}:
        return f"no, what it changes is less than {margin:g}"
    return "no evidence that it does" + ", and some of it harms" * ("worse" in kinds)


def verdict_sentence(result: dict[str, Any], titles: dict[str, str]) -> str:
    """The answer in one sentence, computed from the primary contrasts of ``compare``.

    Without them from those of the generators' arms with duplicates, or else with original, which
    is then called exploratory; of an exchange, from its rates. It says if the plan was not
    followed. "" if there is nothing to compare.
    """
    seeds, data = _seeds(len(result["arms"][0]["seeds"])), result["data"]
    scope = f"{data['protocol']} protocol, {data['kind']} data, {seeds}"
    if result["exchange"]:
        said = "; ".join(
            exchange_sentence(rate, titles) for rate in result["exchange"]
            if rate["metric"] == "auroc"
        )  # fmt: skip
        return f"Exploratory, {scope}: {said}."
    rows = result["primary"] or exploratory(result["contrasts"])
    if not rows:
        return ""
    word = "Exploratory"
    if result["primary"]:
        departs = ", ".join(deviations(result))
        word = f"Rehearsal, not the plan ({departs})" if departs else "As planned"
    parts = []
    for verdict in ("better", "equivalent", "inconclusive", "worse"):
        own = ", ".join(_estimate(row, titles) for row in rows if row["verdict"] == verdict)
        if own:
            parts.append(f"{verdict} with {own}")
    answer = _answer([row["verdict"] for row in rows], rows[0]["margin"])
    return (
        f"{word}: does synthetic data help more than {_against(rows, result['arms'])}? "
        f"{answer[0].upper()}{answer[1:]}: AUROC on test is {'; '.join(parts)} "
        f"({scope}, one trained generator each; uncorrected 95 % intervals"
        f"{', p by Holm' * bool(result['primary'])})."
        + (_beside(result, titles) if result["primary"] else "")
    )


def _against(rows: list[dict[str, Any]], arms: list[dict[str, Any]]) -> str:
    """What the arms of ``rows`` are compared with: as many duplicates only where it is as many."""
    base, added = rows[0]["b"], {row["arm"]: row["num_added"] for row in arms}
    if base == "original":
        return "no added images"
    if {added[row["a"]] for row in rows if row["a"] in added} == {added[base]}:
        return "as many duplicates of real images"
    return "the duplicates that balance the classes (whatever number and class an arm adds)"


def _beside(result: dict[str, Any], titles: dict[str, str]) -> str:
    """What the answer is to be read beside: fresh seeds alone, plain training, classical arms."""
    text, unread = "", result.get("unread", [])
    if unread:
        said = ", ".join(f"{_estimate(row, titles)} ({row['verdict']})" for row in unread)
        text = f" On the seeds that nobody had read before the plan: {said}."
    named = ["duplicates", "classical", *(row["a"] for row in result["primary"])]
    plain = [
        f"{_estimate(c, titles)} ({c['verdict']})" for c in result["contrasts"]
        if (c["metric"], c["b"], c["threshold"]) == ("auroc", "original", "0.5") and c["a"] in named
    ]  # fmt: skip
    if plain:
        text += f" Exploratory, against no added images: {', '.join(plain)}."
    pairs = [
        f"{_estimate(c, titles)} ({c['verdict']}) against {titles[c['b']]}"
        for c in result.get("beside", [])
    ]
    return text + f" {'; '.join(pairs)}." * bool(pairs)


def _estimate(row: dict[str, Any], titles: dict[str, str]) -> str:
    adjusted = f", p {row['p_holm']:.2g}" if "p_holm" in row else ""
    return "{} {estimate:+.3f} [{low:+.3f}, {high:+.3f}]".format(titles[row["a"]], **row) + adjusted


def exploratory(contrasts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """AUROC of the arms with synthetic images minus that of duplicates, or else of original."""
    bases = {c["b"] for c in contrasts}
    base = "duplicates" if "duplicates" in bases else "original"
    return [
        c for c in contrasts
        if (c["metric"], c["b"], c["threshold"]) == ("auroc", base, "0.5")
        and c["a"] in ARMS and ARMS[c["a"]].generator
    ]  # fmt: skip


def exchange_sentence(rate: dict[str, Any], titles: dict[str, str]) -> str:
    """What ``exchange_rates`` found for one arm and metric, in words."""
    metric = {"auroc": "AUROC"}.get(rate["metric"], rate["metric"].replace("_", " "))
    gain = "{estimate:+.3f} [{low:+.3f}, {high:+.3f}]".format(**rate["ceiling_gain"])
    one = "duplicate" if rate["arm"] == "back_duplicates" else "synthetic image"
    if not rate["determined"]:
        return (
            f"what one {one} is worth in {metric} is not determined, for the hidden real images "
            f"themselves change it by {gain}"
        )
    if rate["ceiling_gain"]["estimate"] < 0:
        return f"in {metric} there is no rate for one {one}: the real ones lower it, {gain}"
    return (
        f"in {metric} one {one} is worth {{rate:.2f}} [{{low:.2f}}, {{high:.2f}}] real ones".format(
            **rate
        )
        + f" (all the hidden ones: {gain})"
    )


def disagreements(units: list[Unit]) -> dict[str, dict[str, list[int]]]:
    """arm -> {"corrected": indices, "spoiled": indices} of test images, for the first seed.

    Corrected: wrong without the synthetic images, right with them, at threshold 0.5; the arms are
    the generators'. Empty without the original arm.
    """
    right = {
        unit["arm"]: (np.asarray(unit["log_odds"]["test"]) > 0)
        == np.asarray(unit["labels"]["test"])
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
        if arm in synthesis.GENERATORS
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
