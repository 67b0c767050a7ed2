"""Figures: functions that read results and return a ``Figure``, one colour per method.

Every figure says at its foot which data it was made from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image
from torchvision.utils import make_grid, save_image

from chestx.config import processes
from chestx.images import to_uint8
from chestx.sources import CLASS_NAMES

# A "$" in a folder's or class's name is a "$"; log axes therefore need a plain formatter.
matplotlib.rcParams["text.parse_math"] = False


class _Names(dict):
    """Names of arms; one that is not listed stands for itself."""

    def __missing__(self, name: str) -> str:
        return name.replace("_", " ")


class _Colours(dict):
    """One colour per method and class; what is not listed is grey."""

    def __missing__(self, name: str) -> str:
        return "#888888"


COLOURS = _Colours(
    {
        "original": "#555555",
        "cvae": "#1f77b4",
        "enhanced_cvae": "#17a398",
        "ddpm": "#e08214",
        "ddpm_mended": "#b2182b",
        "ddpm_zero_snr": "#7b3294",
        "ddpm_custom": "#b8860b",
        "twin": "#2b8cbe",
        "class_weights": "#a6761d",
        "classical": "#66a61e",
        "duplicates": "#000000",
        "classical_best": "#e7298a",
        "logit_adjustment": "#c2a500",
        "best_25": "#f4a582",
        "best_50": "#d6604d",
        "best_200": "#8e0d1f",
        "best_300": "#5c0010",
        "cvae_both": "#6a9fd0",
        "twin_both": "#9bbcd8",
        "pretrained": "#c51b7d",
        "back_synthetic": "#b2182b",
        "back_duplicates": "#000000",
        "back_real": "#4c9f70",
        "NORMAL": "#4c9f70",
        "PNEUMONIA": "#8e5ea2",
    }
)
TITLES = _Names(
    {
        "original": "original",
        "cvae": "CVAE",
        "enhanced_cvae": "enhanced CVAE",
        "ddpm": "DDPM (deck's schedule)",
        "ddpm_mended": "DDPM mended",
        "ddpm_zero_snr": "DDPM, zero terminal SNR",
        "ddpm_custom": "DDPM, custom",
        "twin": "Gaussian twin",
        "class_weights": "class weights",
        "classical": "classical augmentation",
        "duplicates": "duplicates",
        "classical_best": "classical + DDPM mended",
        "logit_adjustment": "logit adjustment",
        "best_25": "DDPM mended, 25 %",
        "best_50": "DDPM mended, 50 %",
        "best_200": "DDPM mended, 200 %",
        "best_300": "DDPM mended, 300 %",
        "cvae_both": "CVAE, both classes",
        "twin_both": "twin, both classes",
        "pretrained": "DDPM mended, pretraining",
        "back_synthetic": "half + DDPM mended",
        "back_duplicates": "half + duplicates",
        "back_real": "half + the hidden real",
    }
)
SCHEDULE_COLOURS = {
    "deck": COLOURS["ddpm"],
    "scaled": COLOURS["ddpm_mended"],
    "zero_snr": COLOURS["ddpm_zero_snr"],
}
COLOURS |= {f"twin: {name}": colour for name, colour in SCHEDULE_COLOURS.items()}


def data_line(data: dict[str, Any]) -> str:
    """The foot of every figure: phantom or real, source, protocol."""
    source = "" if data["kind"] == "phantom" else f" ({Path(data['source']).name})"
    return f"{data['kind']} data{source}, {data['protocol']} protocol"


def plus_minus(interval: dict[str, float | None], digits: int = 4) -> str:
    """Mean ± standard deviation of ``mean_interval``, the mean alone if there is one value."""
    if interval["sd"] is None:
        return f"{interval['mean']:.{digits}f}"
    return f"{interval['mean']:.{digits}f} ± {interval['sd']:.{digits}f}"


def class_colour(name: str, label: int) -> str:
    """The colour of a class: by its name, else as that of Kaggle's class with the same label."""
    return COLOURS[name if name in COLOURS else CLASS_NAMES[label]]


def save_figure(figure: Figure, output_dir: Path, name: str, caption: str) -> dict[str, str]:
    """Write ``output_dir/figures/name.png`` and return what the report needs to show it."""
    path = Path(output_dir) / "figures" / f"{name}.png"
    if processes().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"Description": figure.get_supxlabel()}  # phantom or real, also in the file itself
        figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white", metadata=about)
    return {"file": path.name, "caption": caption}


def save_samples(images: torch.Tensor, folder: Path, epoch: int) -> Path:
    """Write images (B, 1, H, W) in [-1, 1] as one row, ``folder/samples/epoch_0001.png``."""
    path = folder / "samples" / f"epoch_{epoch:04d}.png"
    if processes().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = make_grid((images.clamp(-1, 1).float().cpu() + 1) / 2, nrow=len(images), padding=2)
        beside = path.with_name(f".{path.name}")  # the other processes may be reading
        save_image(grid, beside)
        beside.replace(path)
    return path


def start_figure(width: float, height: float, data: dict[str, Any], title: str) -> Figure:
    """An empty figure of that many inches with its title, and the data at its foot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(data_line(data), fontsize=8, color="#777777")
    return figure


def plain(axes: Any) -> None:
    """Take away the frame's upper and right sides."""
    axes.spines[["top", "right"]].set_visible(False)


def class_proportions(counts: dict[str, dict[str, int]], data: dict[str, Any]) -> Figure:
    """Images per class in every split, with numbers and shares."""
    figure = start_figure(8, 3.2, data, "Class proportions")
    axes = figure.subplots()
    splits = list(counts)
    for index, name in enumerate(counts[splits[0]]):
        heights = [counts[split][name] for split in splits]
        bars = axes.bar(
            np.arange(len(splits)) + 0.4 * index, heights, 0.38, label=name,
            color=class_colour(name, index),
        )  # fmt: skip
        totals = [sum(counts[split].values()) for split in splits]
        labels = [f"{h:,}\n{h / t:.0%}" for h, t in zip(heights, totals)]
        axes.bar_label(bars, labels, fontsize=8)
    axes.set_xticks(np.arange(len(splits)) + 0.2, splits)
    axes.set_ylabel("images")
    axes.margins(y=0.2)
    axes.legend(frameon=False)
    plain(axes)
    return figure


def image_rows(
    rows: dict[str, torch.Tensor], data: dict[str, Any], title: str, columns: Sequence[str] = ()
) -> Figure:
    """One labelled row of images per entry: tensors (B, 1, H, W) in [-1, 1]."""
    count = max(len(images) for images in rows.values())
    figure = start_figure(1.1 * count + 1.6, 1.25 * len(rows) + 0.7, data, title)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for number, (line, (name, images)) in enumerate(zip(grid, rows.items())):
        for index, axes in enumerate(line):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if index < len(images):
                picture = to_uint8(images[index])[0].cpu().numpy()
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            if columns and number == 0:
                axes.set_title(columns[index], fontsize=8)
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    return figure


def titled_images(
    rows: dict[str, list[tuple[torch.Tensor, str]]], data: dict[str, Any], title: str
) -> Figure:
    """One labelled row per entry, every image (1, H, W) in [-1, 1] with a title of its own."""
    columns = max([1, *(len(row) for row in rows.values())])
    lines = max([1, *(text.count("\n") + 1 for row in rows.values() for _, text in row)])
    width, height = (1.25, 1.3) if lines < 2 else (1.5, 1.55 + 0.13 * lines)
    figure = start_figure(width * columns + 1.6, height * len(rows) + 0.8, data, title + "\n")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, row) in zip(grid, rows.items()):
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        for axes, (image, text) in zip(line, row):
            axes.imshow(to_uint8(image)[0].cpu().numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(text, fontsize=7)
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    return figure


def noise_schedules(schedules: dict[str, torch.Tensor], data: dict[str, Any]) -> Figure:
    """beta_t, signal left and signal-to-noise ratio over t for each (name -> betas (T,))."""
    figure = start_figure(10, 3.1, data, "Noise schedules")
    panels = figure.subplots(1, 3)
    for name, betas in schedules.items():
        alphas_cumprod = (1 - betas.double()).cumprod(0)
        t = np.arange(1, len(betas) + 1)
        style = {"color": COLOURS[name], "label": TITLES[name]}
        panels[0].plot(t, betas, **style)
        panels[1].plot(t, alphas_cumprod.sqrt(), **style)
        left = alphas_cumprod[-1].sqrt().item()
        panels[1].annotate(f"{left:.1%}", (t[-1], left), (2, 14), textcoords="offset points",
                           ha="right", fontsize=8, color=COLOURS[name])  # fmt: skip
        snr = alphas_cumprod / (1 - alphas_cumprod)
        panels[2].plot(t, 10 * snr.clamp(min=1e-8).log10(), **style)
    titles = ("beta", "signal's amplitude, sqrt(abar)", "signal to noise, dB")
    for axes, label in zip(panels, titles):
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("t", fontsize=8)
        plain(axes)
    panels[0].legend(frameon=False, fontsize=8)
    panels[1].set_ylim(0, 1.05)
    return figure


def sample_epochs(folder: Path, epochs: Sequence[int], data: dict[str, Any], title: str) -> Figure:
    """The sample grids that training wrote after ``epochs``, one row each."""
    paths = [folder / "samples" / f"epoch_{epoch:04d}.png" for epoch in sorted(set(epochs))]
    paths = [path for path in paths if path.exists()]
    figure = start_figure(9, 1.25 * len(paths) + 0.7, data, title)
    for axes, path in zip(figure.subplots(len(paths), squeeze=False)[:, 0], paths):
        with Image.open(path) as picture:
            axes.imshow(np.asarray(picture.convert("L")), cmap="gray", vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        epoch = int(path.stem.split("_")[1])
        axes.set_ylabel(f"epoch {epoch}", fontsize=8, rotation=0, ha="right", va="center")
    return figure


def loss_curves(
    histories: dict[str, list[dict]],
    data: dict[str, Any],
    title: str,
    key: str = "loss",
    marks: dict[str, int] | None = None,
) -> Figure:
    """Training (dashed) and validation (solid) per epoch, one panel per method.

    ``marks``: name -> epoch to mark by a vertical line.
    """
    width = 6.0 if marks else 4.2 if len(histories) < 3 else 3.0
    figure = start_figure(width * len(histories), 3.2, data, title)
    for axes, (name, history) in zip(
        figure.subplots(1, len(histories), squeeze=False)[0], histories.items()
    ):
        epochs = [row["epoch"] for row in history]
        train = [row["train"][key] for row in history]
        held_out = [row["validation"][key] for row in history]
        axes.plot(epochs, train, "--", color=COLOURS[name], label="train")
        axes.plot(epochs, held_out, color=COLOURS[name], label="validation")
        later = [v for v in train[len(train) // 10 :] + held_out[len(held_out) // 10 :]]
        low, high = min(later), max(later)
        margin = 0.08 * (high - low) or 1.0  # the first steep epochs would flatten the rest
        axes.set_ylim(low - margin, high + margin)
        for (text, epoch), line in zip((marks or {}).items(), ("-", ":", "-.")):
            axes.axvline(epoch, color="#444444", lw=1, ls=line, label=f"{text} {epoch}")
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_ylabel(key)
        axes.legend(loc="upper center" if marks else "best", edgecolor="white")
        plain(axes)
    return figure


def brightness(samples: dict[str, np.ndarray], data: dict[str, Any]) -> Figure:
    """Distribution of each image's mean grey, (N,) in [-1, 1] per entry."""
    figure = start_figure(7, 0.55 * len(samples) + 1.4, data, "Mean brightness of an image")
    axes = figure.subplots()
    names = list(samples)
    values = [samples[name] for name in names]
    parts = axes.violinplot(values, orientation="horizontal", showmedians=True, widths=0.8)
    for body, name in zip(parts["bodies"], names):
        body.set_facecolor(COLOURS[name])
        body.set_alpha(0.6)
    for line in ("cbars", "cmins", "cmaxes", "cmedians"):
        parts[line].set_color("#444444")
    labels = [f"{TITLES[n]}\nsd {np.std(samples[n]):.3f}" for n in names]
    axes.set_yticks(np.arange(1, len(names) + 1), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean grey in [-1, 1]")
    plain(axes)
    return figure


def snr_curves(curves: dict[str, torch.Tensor], data: dict[str, Any]) -> Figure:
    """Signal and its ratio to the noise against t: ``curves`` are abar_t, (T,) per schedule."""
    figure = start_figure(9, 3.2, data, "What is left of the image at t")
    left, right = figure.subplots(1, 2)
    for name, curve in curves.items():
        abar = curve.double().cpu()
        label = f"{name}: {float(abar[-1]) ** 0.5:.1%} at T"
        left.plot(abar.sqrt(), color=SCHEDULE_COLOURS[name], label=label)
        snr = 10 * torch.log10(abar / (1 - abar))
        right.plot(snr[snr > -60], color=SCHEDULE_COLOURS[name])
    left.set_ylabel("share of the amplitude, sqrt(abar_t)")
    right.set_ylabel("signal to noise, dB")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("t")
        plain(axes)
    return figure


def quality_against_time(
    rows: list[dict[str, Any]], front: list[dict[str, Any]], floor: float, data: dict[str, Any]
) -> Figure:
    """KID with its interval against seconds per image; ``front`` are the rows no other beats."""
    figure = start_figure(8, 4.2, data, "Quality against time")
    axes = figure.subplots()
    for index, name in enumerate(dict.fromkeys(row["sampler"] for row in rows)):
        own = sorted((r for r in rows if r["sampler"] == name), key=lambda r: r["seconds"])
        seconds = [r["seconds"] for r in own]
        kids = np.array([r["reference"]["kid"] for r in own])
        bars = [1.96 * r["reference"]["se"] for r in own]
        axes.errorbar(seconds, kids, bars, fmt="o", color=f"C{index}", capsize=2, label=name, ms=5)
        for row, x, y in zip(own, seconds, kids):
            axes.annotate(str(row["steps"]), (x, y), (5, 4), textcoords="offset points", fontsize=7)
    best = sorted(front, key=lambda r: r["seconds"])
    axes.plot(
        [r["seconds"] for r in best], [r["reference"]["kid"] for r in best], color="#999999",
        lw=1, zorder=0, label="Pareto front",
    )  # fmt: skip
    axes.axhline(floor, color="#4c9f70", ls="--", lw=1, label="real against real, 95th percentile")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=max(floor, 1e-3))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds per image; the numbers are steps")
    axes.set_ylabel("KID to the reference split")
    axes.legend(frameon=False, fontsize=7)
    plain(axes)
    return figure


def recipes(rows: list[dict[str, Any]], data: dict[str, Any]) -> Figure:
    """Every recipe of a search (``recipe.ranking``): its criterion, and plain validation AUROC."""
    figure = start_figure(8, 0.28 * len(rows) + 1.6, data, "Recipes, the best first")
    axes = figure.subplots()
    scores = {
        "criterion": ("o", "#b2182b"),
        "auroc": ("|", "#555555"),
        "plain_auroc": ("x", "#999999"),
    }
    labels = {"criterion": "criterion, bar: spread over seeds", "auroc": "AUROC, all shifts pooled",
              "plain_auroc": "AUROC, plain validation"}  # fmt: skip
    for score, (marker, colour) in scores.items():
        means = [row[score]["mean"] for row in rows]
        spread = [row[score]["sd"] or 0 for row in rows] if score == "criterion" else None
        axes.errorbar(means, range(len(rows)), xerr=spread, fmt=marker, color=colour, ms=6,
                      label=labels[score])  # fmt: skip
    names = [f"{row['name']}, {row['recipe']['num_steps']:,} steps" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("score on validation images\n")
    axes.legend(frameon=False, fontsize=8)
    plain(axes)
    return figure
