"""Figures of a comparison: scores of every arm, paired differences, disagreements."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chestx.exhibits import image_rows, start_figure
from chestx.radiographs.tensors import RadiographTensors
from chestx.study.arms import ARMS

Rows = list[dict[str, Any]]  # what ``comparison.summarize`` returns


def arm_scores(rows: Rows, data: dict[str, Any], deck: Rows) -> Figure:
    """Accuracy and AUROC per arm: every seed a dot, mean and 95 % interval; the deck's as x."""
    title = "Test scores per arm: every seed is a dot"
    figure = start_figure(9, 0.45 * len(rows) + 1.6, data, title)
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
    return figure


def _name_lines(axes: Axes, arms: list[str]) -> None:
    """The arms down the left side, the first at the top."""
    axes.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms], fontsize=9)
    axes.set_ylim(len(arms) - 0.4, -0.6)


def forest(found: dict[str, Any], data: dict[str, Any]) -> Figure:
    """Paired differences of AUROC with 95 % intervals, one panel per baseline.

    ``found`` is what ``comparison.answers`` returns. The band is the equivalence margin; primary
    contrasts are filled diamonds with the p value that Holm adjusted.
    """
    wanted = [c for c in found["contrasts"] if c["metric"] == "auroc" and c["a"] != "original"]
    adjusted = {(c["b"], c["a"]): c["p_holm"] for c in found["primary"]}
    wanted += [c for c in found["beside"] if (c["b"], c["a"]) in adjusted]
    bases, arms = (list(dict.fromkeys(c[side] for c in wanted)) for side in ("b", "a"))
    title = "Paired differences on test, 95 % intervals"
    figure = start_figure(4 * len(bases) + 2, 0.36 * len(arms) + 1.7, data, title)
    panels = figure.subplots(1, max(1, len(bases)), sharey=True, squeeze=False)[0]
    for axes, base in zip(panels, bases):
        rows = [c for c in wanted if c["b"] == base]
        axes.axvspan(-rows[0]["margin"], rows[0]["margin"], color="#e9eef3", zorder=0)
        axes.axvline(0, color="#444444", lw=1)
        for row in rows:
            _draw_difference(axes, arms.index(row["a"]), row, adjusted.get((base, row["a"])))
        axes.set_xlabel(f"AUROC\nminus that of: {ARMS[base].title}", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
    _name_lines(panels[0], arms)
    return figure


def _draw_difference(axes: Axes, y: int, row: dict[str, Any], p: float | None) -> None:
    """One contrast at height ``y``; a primary one is filled and has its ``p`` beside it."""
    colour = ARMS[row["a"]].colour
    axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=2)
    if p is None:
        axes.plot(row["estimate"], y, "o", color=colour, mfc="white", ms=6)
        return
    axes.plot(row["estimate"], y, "D", color=colour, ms=6)
    beside = axes.get_yaxis_transform()
    axes.text(1.01, y, f"p {p:.2g}", transform=beside, va="center", fontsize=8, color=colour)


def disagreement_gallery(
    found: dict[str, dict[str, list[int]]], test: RadiographTensors, data: dict[str, Any]
) -> Figure:
    """The first eight test images that each arm corrects and spoils: True / Original / Augmented.

    ``found`` is what ``comparison.disagreements`` returns.
    """
    rows, texts, names = {}, {}, list(data["counts"]["test"])
    for arm, kinds in found.items():
        for kind, indices in kinds.items():
            row = f"{ARMS[arm].title}\n{kind} {len(indices)}"
            rows[row], texts[row] = test[indices[:8]]["images"], []
            for label in test.labels[indices[:8]].tolist():
                true, other = names[label], names[1 - label]
                answers = (other, true) if kind == "corrected" else (true, other)
                texts[row].append("True {}\nOriginal {}\nAugmented {}".format(true, *answers))
    return image_rows(rows, data, "True / Original / Augmented", texts)
