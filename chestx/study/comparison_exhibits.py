"""A comparison as exhibits: the plan, its answer, figures, all scores, and what is exploratory."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from chestx.classifier.experiment import Unit
from chestx.exhibits import image_rows, plus_minus, start_figure, worded_table
from chestx.radiographs.sources import CLASS_NAMES
from chestx.radiographs.tensors import RadiographTensors
from chestx.step import Exhibit, Picture, Step, Table, settings
from chestx.study.arms import ARMS
from chestx.study.comparison import WORDS, deviations, disagreements, generators_in_words
from chestx.study.paired import prediction_interval
from chestx.study.verdict import consoles, plain_answer, verdict_sentence

METRICS = WORDS["of_probabilities"] | WORDS["at_threshold"]
MARKS = {"better": " ↑", "worse": " ↓", "equivalent": " =", "inconclusive": ""}
TABLES, CAPTIONS = WORDS["tables"], WORDS["pictures"]


def exhibits(
    found: dict[str, Any], out: Step, units: list[Unit], test: RadiographTensors, suffix: str
) -> dict[str, Exhibit]:
    """All that is shown of a comparison; a table or text that would be empty is left out.

    ``found`` are ``comparison.answers`` and the audits, ``test`` the images of the test split.
    ``suffix`` is the protocol, and the group of arms if they are not the main ones: such a group
    has no gallery.
    """
    result = found | {"data": out.about, "config": settings(out.config), "inputs": out.inputs}
    shown: dict[str, Exhibit] = {
        **plain_answer(result),
        "verdict": verdict_sentence(result),
        **_texts(result),
        f"09_scores_{suffix}": _arm_scores(result),
        f"09_forest_{suffix}": _forest(result) if result["contrasts"] else "",
        f"09_gallery_{suffix}": "" if "_" in suffix else _gallery(units, test, out.about),
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
        texts |= consoles(result["arms"])
    return texts | {name: result[name]["sentence"] for name in ("audit", "shortcuts")}


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
    for slide in (slide for slide in result["deck"] if slide["arm"] in ours):
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


def _arm_scores(result: dict[str, Any]) -> Picture:
    """Accuracy and AUROC per arm: every seed a dot, mean and 95 % interval; the deck's as x."""
    rows, deck = result["arms"], result["deck"]
    title = "Test scores per arm: every seed is a dot"
    figure = start_figure(9, 0.45 * len(rows) + 1.6, result["data"], title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (metric, name) in zip(panels, {"accuracy": "accuracy", "auroc": "AUROC"}.items()):
        for y, row in enumerate(rows):
            colour, score = ARMS[row["arm"]].colour, row["test"][metric]
            values = [seed[metric] for seed in row["seeds"]]
            axes.plot(values, np.full(len(values), y), "o", color=colour, alpha=0.45, ms=5)
            if score["n"] > 1:
                axes.plot([score["low"], score["high"]], [y + 0.25] * 2, color=colour, lw=2)
            axes.plot(score["mean"], y + 0.25, "D", color=colour, ms=4)
            theirs = [d[metric] for d in deck if d["arm"] == row["arm"] and metric in d]
            axes.plot(theirs, np.full(len(theirs), y - 0.25), "x", color="black", ms=6)
        axes.set_xlabel(name)
    _name_lines(panels[0], [row["arm"] for row in rows])
    if deck:
        panels[0].plot([], [], "x", color="black", label="the deck's single run")
        figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    return Picture(figure, CAPTIONS["scores"])


def _name_lines(axes: Axes, arms: list[str]) -> None:
    """The arms down the left side, the first at the top."""
    axes.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms], fontsize=9)
    axes.set_ylim(len(arms) - 0.4, -0.6)


def _forest(result: dict[str, Any]) -> Picture:
    """Paired differences of AUROC with 95 % intervals, one panel per baseline.

    The band is the equivalence margin; primary contrasts are filled diamonds with the p value that
    Holm adjusted.
    """
    wanted = [c for c in result["contrasts"] if c["metric"] == "auroc" and c["a"] != "original"]
    adjusted = {(c["a"], c["b"]): c["p_holm"] for c in result["primary"]}
    wanted += [c for c in result["beside"] if (c["a"], c["b"]) in adjusted]
    bases, arms = (list(dict.fromkeys(c[side] for c in wanted)) for side in ("b", "a"))
    margin = result["plan"]["equivalence_margin"]
    title = "Paired differences on test, 95 % intervals"
    figure = start_figure(4 * len(bases) + 2, 0.36 * len(arms) + 1.7, result["data"], title)
    panels = figure.subplots(1, max(1, len(bases)), sharey=True, squeeze=False)[0]
    for axes, base in zip(panels, bases):
        axes.axvspan(-margin, margin, color="#e9eef3", zorder=0)
        axes.axvline(0, color="#444444", lw=1)
        for row in (c for c in wanted if c["b"] == base):
            y, colour = arms.index(row["a"]), ARMS[row["a"]].colour
            axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=2)
            p = adjusted.get((row["a"], base))
            marker, filling = ("o", "white") if p is None else ("D", colour)
            axes.plot(row["estimate"], y, marker, color=colour, mfc=filling, ms=6)
            if p is not None:
                beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
                axes.text(1.01, y, f"p {p:.2g}", color=colour, **beside)
        axes.set_xlabel(f"AUROC\nminus that of: {ARMS[base].title}", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
    _name_lines(panels[0], arms)
    generators = generators_in_words(result["arms"])
    return Picture(figure, CAPTIONS["forest"].format(margin=margin, generators=generators))


def _gallery(units: list[Unit], test: RadiographTensors, data: dict[str, Any]) -> Picture:
    """The first eight test images that each arm corrects and spoils, with both answers."""
    rows, texts, names = {}, {}, list(data["counts"]["test"])
    for arm, kinds in disagreements(units).items():
        for kind, indices in kinds.items():
            row = f"{ARMS[arm].title}\n{kind} {len(indices)}"
            rows[row], texts[row] = test[indices[:8]]["images"], []
            for label in test.labels[indices[:8]].tolist():
                true, other = names[label], names[1 - label]
                answers = (other, true) if kind == "corrected" else (true, other)
                texts[row].append("True {}\nOriginal {}\nAugmented {}".format(true, *answers))
    figure = image_rows(rows, data, "True / Original / Augmented", texts)
    return Picture(figure, CAPTIONS["gallery"].format(seed=units[0]["seed"]))
