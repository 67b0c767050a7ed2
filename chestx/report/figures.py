"""The deck's own figures: of the data, of a training, of a noise schedule, of sets of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.utils import make_grid, save_image

from chestx.config import processes
from chestx.exhibits import GREY, blank, plain, row_name, start_figure
from chestx.generators.registry import GENERATORS, title
from chestx.radiographs.sources import CLASS_NAMES

CLASS_COLOURS = {"NORMAL": "#4c9f70", "PNEUMONIA": "#8e5ea2"}


def colour(name: str) -> str:
    """A generator's colour; grey for anything else."""
    return GENERATORS[name].colour if name in GENERATORS else GREY


def class_colour(name: str, label: int) -> str:
    """The colour of a class: by its name, else as that of Kaggle's class with the same label."""
    return CLASS_COLOURS[name if name in CLASS_COLOURS else CLASS_NAMES[label]]


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


def noise_schedules(schedules: dict[str, torch.Tensor], data: dict[str, Any]) -> Figure:
    """beta_t, signal left and signal-to-noise ratio over t for each (name -> betas (T,))."""
    figure = start_figure(10, 3.1, data, "Noise schedules")
    panels = figure.subplots(1, 3)
    for name, betas in schedules.items():
        alphas_cumprod = (1 - betas.double()).cumprod(0)
        t = np.arange(1, len(betas) + 1)
        style = {"color": colour(name), "label": title(name)}
        panels[0].plot(t, betas, **style)
        panels[1].plot(t, alphas_cumprod.sqrt(), **style)
        left = alphas_cumprod[-1].sqrt().item()
        panels[1].annotate(f"{left:.1%}", (t[-1], left), (2, 14), textcoords="offset points",
                           ha="right", fontsize=8, color=colour(name))  # fmt: skip
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
        blank(axes)
        epoch = int(path.stem.split("_")[1])
        row_name(axes, f"epoch {epoch}")
    return figure


def loss_curve(
    name: str,
    history: list[dict[str, Any]],
    data: dict[str, Any],
    heading: str,
    marks: dict[str, int] | None = None,
) -> Figure:
    """Training (dashed) and validation (solid) loss per epoch; ``marks``: text -> epoch."""
    figure = start_figure(6, 3.2, data, heading)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    train, held_out = ([row[part]["loss"] for row in history] for part in ("train", "validation"))
    axes.plot(epochs, train, "--", color=colour(name), label="train")
    axes.plot(epochs, held_out, color=colour(name), label="validation")
    later = train[len(train) // 10 :] + held_out[len(held_out) // 10 :]
    low, high = min(later), max(later)
    margin = 0.08 * (high - low) or 1.0  # the first steep epochs would flatten the rest
    axes.set_ylim(low - margin, high + margin)
    for (text, epoch), line in zip((marks or {}).items(), ("-", ":", "-.")):
        axes.axvline(epoch, color="#444444", lw=1, ls=line, label=f"{text} {epoch}")
    axes.set_title(title(name), fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
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
        body.set_facecolor(colour(name))
        body.set_alpha(0.6)
    for line in ("cbars", "cmins", "cmaxes", "cmedians"):
        parts[line].set_color("#444444")
    labels = [f"{title(n)}\nsd {np.std(samples[n]):.3f}" for n in names]
    axes.set_yticks(np.arange(1, len(names) + 1), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean grey in [-1, 1]")
    plain(axes)
    return figure
