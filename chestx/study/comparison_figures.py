"""Figures of a comparison: scores of every arm, paired differences, calibration, disagreements."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chestx.classifier.arms import ARMS
from chestx.exhibits import plain, start_figure, titled_images
from chestx.radiographs.tensors import RadiographTensors

NAMES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
Rows = list[dict[str, Any]]  # what ``comparison.summarize`` returns
# What a forest plot shows: metric, baseline, threshold; the exchange rate comes from its own.
DIFFERENCES = (("auroc", "original", "0.5"), ("auroc", "duplicates", "0.5"))
EXCHANGE = (("auroc", "original", "0.5"), ("balanced_accuracy", "original", "validation"))


def _small_panels(count: int, size: float, data: dict[str, Any], title: str) -> tuple[Figure, list]:
    """A figure of ``count`` square panels, at most five a row, none of them empty."""
    columns = min(5, -(-count // -(-count // 5)))
    lines = -(-count // columns)
    figure = start_figure(size * columns + 0.6, (size + 0.45) * lines + 0.7, data, title)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def arm_scores(rows: Rows, data: dict[str, Any], deck: Rows) -> Figure:
    """Accuracy and AUROC per arm: every seed a dot, mean and 95 % interval; the deck's as x."""
    title = "Test scores per arm: every seed is a dot"
    figure = start_figure(9, 0.45 * len(rows) + 1.6, data, title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, ("accuracy", "auroc")):
        for y, row in enumerate(rows):
            colour, score = ARMS[row["arm"]].colour, row["test"][metric]
            values = [seed[metric] for seed in row["seeds"]]
            axes.plot(values, np.full(len(values), y), "o", color=colour, alpha=0.45, ms=5)
            if score["n"] > 1:
                axes.plot([score["low"], score["high"]], [y + 0.25] * 2, color=colour, lw=2)
            axes.plot(score["mean"], y + 0.25, "D", color=colour, ms=4)
            theirs = [d[metric] for d in deck if d["arm"] == row["arm"] and metric in d]
            axes.plot(theirs, np.full(len(theirs), y - 0.25), "x", color="black", ms=6)
        axes.set_xlabel(NAMES.get(metric, metric))
        plain(axes)
    _name_lines(panels[0], [row["arm"] for row in rows])
    if deck:
        panels[0].plot([], [], "x", color="black", label="the deck's single run")
        figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    return figure


def _name_lines(axes: Axes, arms: list[str]) -> None:
    """The arms down the left side, the first at the top."""
    axes.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms], fontsize=9)
    axes.set_ylim(len(arms) - 0.4, -0.6)


def forest(
    found: dict[str, Any], data: dict[str, Any], wanted: tuple[tuple[str, str, str], ...]
) -> Figure:
    """Paired differences with 95 % intervals, one panel per (metric, baseline, threshold).

    ``found`` is what ``comparison.compare`` returns. The band is the equivalence margin, which is
    one of AUROC; primary contrasts are filled diamonds with the p value that Holm adjusted.
    """
    panels = {
        key: [
            c
            for c in found["contrasts"]
            if (c["metric"], c["b"], c["threshold"]) == key
            and c["a"] != "original"  # the mirror of another row
        ]
        for key in wanted
    }
    panels = {key: rows for key, rows in panels.items() if rows}
    arms = list(dict.fromkeys(c["a"] for rows in panels.values() for c in rows))
    adjusted = {(c["b"], c["a"]): c["p_holm"] for c in found["primary"]}  # all of one metric
    title = "Paired differences on test, 95 % intervals"
    figure = start_figure(4 * len(panels) + 2, 0.36 * len(arms) + 1.7, data, title)
    drawn = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    for axes, ((metric, base, threshold), rows) in zip(drawn, panels.items()):
        if metric == "auroc":
            axes.axvspan(-rows[0]["margin"], rows[0]["margin"], color="#e9eef3", zorder=0)
        axes.axvline(0, color="#444444", lw=1)
        for row in rows:
            p = adjusted.get((base, row["a"])) if metric == "auroc" else None
            _draw_difference(axes, arms.index(row["a"]), row, p)
        name = NAMES.get(metric, metric)
        if threshold != "0.5":
            name += f", threshold of {threshold}"
        axes.set_xlabel(f"{name}\nminus that of: {ARMS[base].title}", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        plain(axes)
    _name_lines(drawn[0], arms)
    return figure


def _draw_difference(axes: Axes, y: int, row: dict[str, Any], p: float | None) -> None:
    """One contrast at height ``y``; a primary one is filled and has its ``p`` beside it."""
    colour = ARMS[row["a"]].colour
    axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=2)
    if p is None:
        axes.plot(row["estimate"], y, "o", color=colour, mfc="white", ms=6)
        return
    axes.plot(row["estimate"], y, "D", color=colour, ms=6)
    axes.text(
        1.01, y, f"p {p:.2g}", transform=axes.get_yaxis_transform(), va="center", fontsize=8,
        color=colour,
    )  # fmt: skip


def reliability_diagrams(rows: Rows, data: dict[str, Any]) -> Figure:
    """Share of the positive class against its probability, all seeds pooled, one panel per arm.

    The grey bars are the images of each bin, as a share of the fullest. ECE: mean over seeds.
    """
    figure, panels = _small_panels(len(rows), 1.9, data, "Reliability on the test set")
    for axes, row in zip(panels, rows):
        table, colour = row["reliability"], ARMS[row["arm"]].colour
        share = np.asarray(table["count"]) / max(table["count"])
        axes.bar(table["predicted"], 0.25 * share, 0.05, color="#cccccc")
        axes.plot([0, 1], [0, 1], ":", color="#444444", lw=1)
        axes.plot(table["predicted"], table["observed"], "o-", color=colour, ms=3, lw=1.2)
        error = row["test"]["calibration_error"]["mean"]
        axes.set_title(f"{ARMS[row['arm']].title}\nECE {error:.3f}", fontsize=8)
        axes.set(xlim=(-0.03, 1.03), ylim=(0, 1.03), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
        plain(axes)
    positive = list(data["counts"]["test"])[1]
    panels[0].set_xlabel(f"P({positive})", fontsize=7)
    panels[0].set_ylabel(f"share of {positive}", fontsize=7)
    return figure


def confusion_matrices(rows: Rows, data: dict[str, Any]) -> Figure:
    """One confusion matrix per arm, averaged over its seeds."""
    title = "Confusion on the test set, mean over seeds: true class down, predicted across"
    figure, panels = _small_panels(len(rows), 1.8, data, title)
    names = list(data["counts"]["test"])
    for axes, row in zip(panels, rows):
        matrix = np.asarray(row["confusion"])
        axes.imshow(matrix / matrix.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(matrix):
            dark = value > matrix[i].sum() / 2
            axes.text(
                j, i, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black"
            )
        first = axes.get_subplotspec().is_first_col()
        axes.set_xticks([0, 1], names, fontsize=6)
        axes.set_yticks([0, 1], names if first else ["", ""], fontsize=6, rotation=90, va="center")
        axes.set_title(ARMS[row["arm"]].title, fontsize=8)
    return figure


def disagreement_gallery(
    found: dict[str, dict[str, list[int]]],
    test: RadiographTensors,
    data: dict[str, Any],
    columns: int = 8,
) -> Figure:
    """The first test images that each arm corrects and spoils: True / Original / Augmented.

    ``found`` is what ``comparison.disagreements`` returns.
    """
    rows, names = {}, list(data["counts"]["test"])
    for arm, kinds in found.items():
        for kind, indices in kinds.items():
            row = rows.setdefault(f"{ARMS[arm].title}\n{kind} {len(indices)}", [])
            for index in indices[:columns]:
                label = int(test.labels[index])
                true, other = names[label], names[1 - label]
                answers = (other, true) if kind == "corrected" else (true, other)
                text = "True {}\nOriginal {}\nAugmented {}".format(true, *answers)
                row.append((test[[index]]["images"][0], text))
    return titled_images(rows, data, "True / Original / Augmented")
