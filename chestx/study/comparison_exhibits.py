"""A comparison as exhibits: the plan, its answer, figures, all scores, and what is exploratory."""

from typing import Any

import numpy as np

from chestx.classifier.experiment import Unit
from chestx.exhibits import plus_minus, worded_table
from chestx.generators.registry import DDPMS
from chestx.radiographs.sources import CLASS_NAMES
from chestx.radiographs.tensors import RadiographTensors
from chestx.step import Exhibit, Picture, Step, Table, settings
from chestx.study import comparison_figures as figures
from chestx.study import verdict
from chestx.study.arms import ARMS
from chestx.study.comparison import WORDS, deviations, disagreements, generators_in_words
from chestx.study.paired import prediction_interval

METRICS = WORDS["of_probabilities"] | WORDS["at_threshold"]
MARKS = {"better": " ↑", "worse": " ↓", "equivalent": " =", "inconclusive": ""}
TABLES = WORDS["tables"]


def exhibits(
    found: dict[str, Any], out: Step, units: list[Unit], test: RadiographTensors, suffix: str
) -> dict[str, Exhibit]:
    """All that is shown of a comparison; a table or text that would be empty is left out.

    ``found`` are ``comparison.answers`` and the audits, ``test`` the images of the test split.
    ``suffix`` is the protocol, and the group of arms if they are not the main ones.
    """
    result = found | {"data": out.about, "config": settings(out.config), "inputs": out.inputs}
    pictures = _pictures(result, units, test, suffix)
    shown: dict[str, Exhibit] = {
        **verdict.plain_answer(result),
        "verdict": verdict.verdict_sentence(result),
        **_texts(result),
        **{f"09_{name}_{suffix}": picture for name, picture in pictures.items()},
        "primary": _primary_table(result),
        "trainings": _trainings_table(result),
        **_score_tables(result),
        "contrasts": _contrast_table(result),
        "deck": _deck_table(result),
    }
    return {name: exhibit for name, exhibit in shown.items() if getattr(exhibit, "rows", exhibit)}


def _texts(result: dict[str, Any]) -> dict[str, str]:
    """The protocol; what was asked beforehand; rates; audits; the consoles of the deck."""
    protocol, words = result["data"]["protocol"], WORDS["text"]
    texts = {"protocol": WORDS["protocols"][protocol].format(**result["config"])}
    if result["primary"]:
        if list(result["data"]["counts"]["train"]) == list(CLASS_NAMES):
            texts["plan"] = words["plan"].format(**result["plan"])
        if departures := "; ".join(deviations(result)):
            texts["departures"] = words["departures"].format(departures=departures)
    if result["exchange"]:
        texts["rates"] = words["rates"]
    if protocol == "deck":
        arms = [row["arm"] for row in result["arms"] if row["arm"] != "original"]
        for name, is_ddpm in (("console_ddpm", True), ("console_cvae", False)):
            own = [arm for arm in arms if (arm in DDPMS) == is_ddpm]
            texts[name] = verdict.console(result["arms"], own)
    audits = [name for name in ("audit", "shortcuts") if name in result]
    return texts | {name: result[name]["sentence"] for name in audits}


def _pictures(
    result: dict[str, Any], units: list[Unit], test: RadiographTensors, suffix: str
) -> dict[str, Picture]:
    """The figures; a group of further arms has its differences and scores alone."""
    rows, data = result["arms"], result["data"]
    made = {"scores": figures.arm_scores(rows, data, result["deck"])}
    if result["contrasts"]:
        made["forest"] = figures.forest(result, data)
    if "_" not in suffix and (differ := disagreements(units)):
        made["gallery"] = figures.disagreement_gallery(differ, test, data)
    values = {"margin": result["plan"]["equivalence_margin"], "seed": units[0]["seed"]}
    values["generators"] = generators_in_words(result)
    return {
        name: Picture(figure, WORDS["pictures"][name].format(**values))
        for name, figure in made.items()
    }


def _primary_table(result: dict[str, Any]) -> Table:
    margin, alpha = result["plan"]["equivalence_margin"], result["plan"]["primary"]["alpha"]
    rows = [
        c
        | {"title": ARMS[c["a"]].title, "base": ARMS[c["b"]].title}
        | {"within": "yes" if c["equivalent"] else "no"}
        for c in result["primary"]
    ]
    return worded_table(TABLES["primary"], rows, margin=margin, alpha=alpha)


def _trainings_table(result: dict[str, Any]) -> Table:
    rows = [
        row
        | {"title": ARMS[row["arm"]].title}
        | {"means": ", ".join(f"{value:.4f}" for value in row["means"])}
        | {"gains": ", ".join(f"{value:+.4f}" for value in row["gains"])}
        for row in result["trainings"]
    ]
    return worded_table(TABLES["trainings"], rows)


def _score_tables(result: dict[str, Any]) -> dict[str, Table]:
    arms, (negative, positive) = result["arms"], result["data"]["counts"]["test"]
    values = {"seeds": len(arms[0]["seeds"]), "negative": negative, "positive": positive}
    parts = {"probabilities": ("test", "of_probabilities"), "at_half": ("test", "at_threshold")}
    if result["data"]["protocol"] != "deck":  # its val folder decides nothing
        parts["at_validation"] = ("test_tuned", "at_threshold")
    tables = {}
    for key, (part, metrics) in parts.items():
        names = WORDS[metrics]
        rows = [
            [ARMS[row["arm"]].title, *(plus_minus(row[part][name], 3) for name in names)]
            for row in arms
        ]
        tables[key] = Table(["arm", *names.values()], rows, TABLES[key].format(**values))
    tables["probabilities"].header += ["validation accuracy", "added", "steps"]
    for line, row in zip(tables["probabilities"].rows, arms):
        line += [plus_minus(row["validation_accuracy"], 3), row["num_added"], row["steps"]]
    return tables


def _contrast_table(result: dict[str, Any]) -> Table:
    """One row per arm and metric, the baselines side by side."""
    cells = {
        (c["a"], c["metric"], c["b"]): WORDS["difference"].format(**c) + MARKS[c["verdict"]]
        for c in result["contrasts"]
    }
    bases = dict.fromkeys(base for _, _, base in cells)
    rows = [
        [ARMS[arm].title, METRICS[metric], *(cells.get((arm, metric, base), "") for base in bases)]
        for arm in dict.fromkeys(arm for arm, _, _ in cells)
        if arm != "original"  # the mirror of another row
        for metric in ("auroc", "accuracy", "balanced_accuracy")
    ]
    header = ["arm", "metric", *(f"minus {ARMS[base].title}" for base in bases)]
    margin = result["plan"]["equivalence_margin"]
    return Table(header, rows, TABLES["contrasts"].format(margin=margin))


def _deck_table(result: dict[str, Any]) -> Table:
    """The numbers on the slides, each inside or outside the range of one more run of ours."""
    ours, rows = {row["arm"]: row for row in result["arms"]}, []
    for slide in result["deck"]:
        if slide["arm"] not in ours:
            continue
        own = ours[slide["arm"]]
        for metric, title in METRICS.items():
            if metric in slide and own["test"][metric]["n"] > 1:
                low, high = np.clip(prediction_interval(own["test"][metric]), 0, 1)
                inside = "inside" if low <= slide[metric] <= high else "outside"
                mine, scope = plus_minus(own["test"][metric]), f"{low:.4f} to {high:.4f}"
                rows.append([slide["slide"], title, f"{slide[metric]:.4f}", mine, scope, inside])
        if "confusion" in slide:
            matrices = [str(slide["confusion"]), str(own["confusion"])]
            rows.append([slide["slide"], "[[TN, FP], [FN, TP]]", *matrices, "", ""])
    header = ["slide", "", "deck", "ours", "95 % range for one more run of ours", "the deck's is"]
    return Table(header, rows, TABLES["deck"])
