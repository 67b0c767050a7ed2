"""A comparison as text and tables: the plan, its answer, all scores, and what is exploratory."""

from typing import Any

import numpy as np

from chestx.classifier.metrics import prediction_interval
from chestx.radiographs.sources import CLASS_NAMES
from chestx.report.figures import TITLES, plus_minus
from chestx.study.comparison import deviations, exchange_sentence
from chestx.tables import Section, Table

# The threshold moves the first, not the others. P is the positive class, N the negative.
AT_THRESHOLD = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision P",
    "f1": "F1 P",
    "f1_normal": "F1 N",
}
OF_PROBABILITIES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_90_specificity": "sensitivity at 90 % specificity",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
METRICS = OF_PROBABILITIES | AT_THRESHOLD
MARKS = {"better": " ↑", "worse": " ↓", "equivalent": " =", "inconclusive": ""}
PROTOCOLS = {
    "fair": "Train and val folders merged and split by patient; every arm makes the same number "
    "of optimizer steps, so the arms with added images see each real image less often. "
    "Nothing but the threshold of one table is chosen on the validation split, nothing on test.",
    "deck": "Classifier: the official folders as they are, {num_epochs} epochs per arm, "
    "{num_epochs_ddpm} for both DDPMs (the mended one is not in the deck); threshold 0.5. "
    "Generators: those of the other sections. The synthetic images begin with those of the fair "
    "protocol, and the test set is the same: the two comparisons are not independent.",
}


def comparison_section(result: dict[str, Any]) -> Section:
    """What ``09_compare_augmentation`` wrote, of whichever protocol and group of arms."""
    text = [PROTOCOLS[result["data"]["protocol"]].format(**result["config"])]
    if result["primary"]:
        plan = result["plan"]
        if list(result["data"]["counts"]["train"]) == list(CLASS_NAMES):
            text.append(
                f"Asked beforehand: {plan['question']} Written {plan['written']}; known by then: "
                f"{plan['known_before']}. Everything else on this slide is exploratory."
            )
        if departs := deviations(result):
            text.append(f"This run does not follow that plan ({'; '.join(departs)}): a rehearsal.")
    said = [exchange_sentence(rate, TITLES) for rate in result["exchange"]]
    text += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in said]
    if said:
        text.append(
            "Original is here what --hide left; a rate takes the metric as linear in the number "
            "of images, and is an upper bound where it levels off."
        )
    text += [result[key]["sentence"] for key in ("audit", "shortcuts") if key in result]
    tables = [
        _primary_table(result), *_score_tables(result), _contrast_table(result),
        _mcnemar_table(result), *_seed_tables(result), _deck_table(result),
    ]  # fmt: skip
    return text, [table for table in tables if table["rows"]]


def _interval(row: dict[str, Any], low: str = "low", high: str = "high") -> str:
    return f"[{row[low]:+.3f}, {row[high]:+.3f}]"


def _primary_table(result: dict[str, Any]) -> Table:
    rows = [
        [TITLES[c["a"]], f"{c['estimate']:+.4f}", _interval(c), f"{c['p']:.2g}",
         f"{c['p_holm']:.2g}", _interval(c, "low90", "high90"),
         "yes" if c["equivalent"] else "no", c["verdict"]]
        for c in result["primary"]
    ]  # fmt: skip
    margin = result["plan"]["equivalence_margin"]
    caption = (
        f"The primary contrasts: AUROC minus that of as many duplicates, intervals uncorrected. "
        f"Better or worse: p by "
        f"Holm is at most {result['plan']['primary']['alpha']:g}. Equivalent: two one-sided tests "
        f"at 5 %, that is, the 90 % interval lies within {margin:g} of 0."
    )
    header = ["arm", "difference", "95 %", "p", "p by Holm", "90 %", f"within {margin:g}", ""]
    return {"caption": caption, "header": header, "rows": rows}


def _score_tables(result: dict[str, Any]) -> list[Table]:
    arms, (negative, positive) = result["arms"], result["data"]["counts"]["test"]
    seeds = f"Mean ± sd over {len(arms[0]['seeds'])} seeds, test folder"
    named = f"P: {positive}, the positive class; N: {negative}."
    tuned = "the threshold of the highest balanced accuracy on validation"
    parts = (
        ("test", OF_PROBABILITIES, f"{seeds} but for the validation accuracy. No threshold."),
        ("test", AT_THRESHOLD, f"{seeds}, threshold 0.5. {named}"),
        ("test_tuned", AT_THRESHOLD, f"{seeds}, {tuned}. {named}"),
    )
    tables = [
        {
            "caption": caption,
            "header": ["arm", *names.values()],
            "rows": [
                [TITLES[row["arm"]], *(plus_minus(row[part][name], 3) for name in names)]
                for row in arms
            ],
        }
        for part, names, caption in parts
        if part == "test" or result["data"]["protocol"] != "deck"  # its val folder decides nothing
    ]
    tables[0]["header"] += ["validation accuracy", "added", "steps"]
    for line, row in zip(tables[0]["rows"], arms):
        line += [plus_minus(row["validation_accuracy"], 3), row["num_added"], row["steps"]]
    return tables


def _contrast_table(result: dict[str, Any]) -> Table:
    """One row per arm and metric; baselines and thresholds side by side."""
    found = {(c["a"], c["metric"], c["b"], c["threshold"]): c for c in result["contrasts"]}
    bases = list(dict.fromkeys(c["b"] for c in result["contrasts"]))
    thresholds = dict.fromkeys(c["threshold"] for c in result["contrasts"])
    columns = [(base, threshold) for threshold in thresholds for base in bases]
    rows = []
    for arm in dict.fromkeys(c["a"] for c in result["contrasts"]):
        if arm == "original":  # the mirror of another row
            continue
        for metric in ("auroc", "accuracy", "balanced_accuracy"):
            cells = [found.get((arm, metric, *column)) for column in columns]
            rows.append(
                [TITLES[arm], METRICS[metric]]
                + [f"{c['estimate']:+.3f} {_interval(c)}{MARKS[c['verdict']]}" if c else ""
                   for c in cells]
            )  # fmt: skip
    names = {"0.5": "", "validation": ", threshold of validation"}
    header = ["arm", "metric", *(f"minus {TITLES[b]}{names[t]}" for b, t in columns)]
    caption = (
        "Paired differences with 95 % intervals, seeds and patients resampled together, not "
        "corrected for their number. ↑ better, ↓ worse: 0 is outside. = equivalent: the 90 % "
        f"interval lies within {result['plan']['equivalence_margin']:g} of 0. Else inconclusive."
    )
    return {"caption": caption, "header": header, "rows": rows}


def _mcnemar_table(result: dict[str, Any]) -> Table:
    rows = []
    for arm in dict.fromkeys(row["a"] for row in result["mcnemar"]):
        own = [row for row in result["mcnemar"] if row["a"] == arm]
        ahead = [row["a_only"] > row["b_only"] for row in own if row["p_holm"] < 0.05]
        counts = [f"{np.median([row[key] for row in own]):g}" for key in ("a_only", "b_only")]
        rows.append([TITLES[arm], len(own), *counts, sum(ahead), len(ahead) - sum(ahead)])
    against = TITLES[result["plan"]["primary"]["against"]]
    caption = (
        f"Exact McNemar tests at threshold 0.5, each seed against {against} with the same seed: "
        "median number of test images that one of the two alone gets right, and the seeds in "
        "which p is below 5 % after Holm over all arms and seeds. Says nothing of other seeds."
    )
    header = ["arm", "seeds", "arm alone right", f"{against} alone right",
              "seeds in which the arm is better", "worse"]  # fmt: skip
    return {"caption": caption, "header": header, "rows": rows}


def _seed_tables(result: dict[str, Any]) -> list[Table]:
    seeds = sorted({seed["seed"] for row in result["arms"] for seed in row["seeds"]})
    return [
        {
            "caption": f"Every seed: {METRICS[metric]} on the test folder, threshold 0.5.",
            "header": ["arm", *(f"seed {seed}" for seed in seeds)],
            "rows": [
                [TITLES[row["arm"]], *(own.get(seed, "") for seed in seeds)]
                for row in result["arms"]
                for own in [{seed["seed"]: f"{seed[metric]:.4f}" for seed in row["seeds"]}]
            ],
        }
        for metric in ("accuracy", "auroc")
    ]


def _deck_table(result: dict[str, Any]) -> Table:
    """The numbers on the slides, each inside or outside the range of one more run of ours."""
    ours, rows = {row["arm"]: row["test"] for row in result["arms"]}, []
    for slide in result["deck"]:
        for metric, title in METRICS.items():
            if metric not in slide or ours.get(slide["arm"], {}).get(metric, {"n": 0})["n"] < 2:
                continue
            low, high = prediction_interval(ours[slide["arm"]][metric])
            low, high = max(low, 0.0), min(high, 1.0)
            inside = "inside" if low <= slide[metric] <= high else "outside"
            mine, scope = plus_minus(ours[slide["arm"]][metric]), f"{low:.4f} to {high:.4f}"
            rows.append([slide["slide"], title, f"{slide[metric]:.4f}", mine, scope, inside])
        if "confusion" in slide and slide["arm"] in ours:
            means = [row["confusion"] for row in result["arms"] if row["arm"] == slide["arm"]]
            matrices = [str(matrix) for matrix in (slide["confusion"], means[0])]
            rows.append([slide["slide"], "[[TN, FP], [FN, TP]]", *matrices, "", ""])
    caption = (
        "The deck's single runs beside ours. Its optimizer, learning rate, batch size and number "
        "of synthetic images beyond balanced are unknown."
    )
    header = ["slide", "", "deck", "ours", "95 % range for one more run of ours", "the deck's is"]
    return {"caption": caption, "header": header, "rows": rows}
