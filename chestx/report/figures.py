"""Sets of images as the deck shows them: the data (01) and the synthetic sets (06)."""

import itertools
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from chestx.exhibits import GREY, image_rows, plain, start_figure, titled_images
from chestx.generators.registry import GENERATORS, title
from chestx.radiographs import images as pixels
from chestx.radiographs.sources import CLASS_NAMES, FOLDERS
from chestx.radiographs.splits import Radiographs, missing_images, smaller_class
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.step import Exhibit, Picture, Table
from chestx.study.lessons import SCHEDULE_COLOURS

CLASS_COLOURS = {"NORMAL": "#4c9f70", "PNEUMONIA": "#8e5ea2"}


def colour(name: str) -> str:
    """A generator's colour, or that of the schedule of "twin: deck"; grey for anything else."""
    if name in GENERATORS:
        return GENERATORS[name].colour
    return SCHEDULE_COLOURS.get(name.removeprefix("twin: "), GREY)


def class_colour(name: str, label: int) -> str:
    """The colour of a class: by its name, else as that of Kaggle's class with the same label."""
    return CLASS_COLOURS[name if name in CLASS_COLOURS else CLASS_NAMES[label]]


# ------------------------------------------------------------------------------------ the data


def class_proportions(data: dict[str, Any]) -> Figure:
    """Images per class in every split, with numbers and shares."""
    figure = start_figure(8, 3.2, data, "Class proportions")
    axes, counts = figure.subplots(), data["counts"]
    splits = list(counts)
    for index, name in enumerate(counts[splits[0]]):
        heights = [counts[split][name] for split in splits]
        places = np.arange(len(splits)) + 0.4 * index
        bars = axes.bar(places, heights, 0.38, label=name, color=class_colour(name, index))
        totals = [sum(counts[split].values()) for split in splits]
        labels = [f"{h:,}\n{h / t:.0%}" for h, t in zip(heights, totals)]
        axes.bar_label(bars, labels, fontsize=8)
    axes.set_xticks(np.arange(len(splits)) + 0.2, splits)
    axes.set_ylabel("images")
    axes.margins(y=0.2)
    axes.legend(frameon=False)
    plain(axes)
    return figure


def first_images(radiographs: Radiographs, image_size: int, heading: str) -> Figure:
    """The first eight images of each class in every split."""
    rows = {}
    for split, dataset in radiographs.items():
        tensors = to_tensors(dataset, image_size)
        for label, name in enumerate(radiographs.class_names):
            rows[f"{split} {name}"] = pixels.to_float(tensors.of_class(label).images[:8])
    return image_rows(rows, radiographs.describe(), heading)


def class_means(radiographs: Radiographs, image_size: int) -> Picture:
    """The mean training image of either class, and their difference."""
    tensors = to_tensors(radiographs["train"], image_size)
    names = radiographs.class_names
    means = [pixels.to_float(tensors.of_class(label).images).mean(0) for label in (0, 1)]
    difference = means[1] - means[0]
    row = [(mean, f"mean {name}") for mean, name in zip(means, names)]
    row.append((2 * difference, "2 x difference"))
    return Picture(
        titled_images({"": row}, radiographs.describe(), "What the classes share"),
        f"Mean train image of either class and their difference, bright where {names[1]} is "
        f"brighter; greys differ by {difference.abs().mean():.3f} on average, in [-1, 1].",
    )


def patients(radiographs: Radiographs) -> dict[str, list[int]]:
    """Split -> number of patients of each class."""
    return {
        split: [
            len({p for p, y in zip(rows["patient"], rows["label"]) if y == label})
            for label in range(len(radiographs.class_names))
        ]
        for split, rows in radiographs.items()
    }


def shared(radiographs: Radiographs, column: str) -> int:
    """How many values of a column occur in two splits, counted for each pair of splits."""
    pairs = itertools.combinations(radiographs.values(), 2)
    return sum(len(set(a[column]) & set(b[column])) for a, b in pairs)


def splits(radiographs: Radiographs, official: Radiographs) -> dict[str, Exhibit]:
    """The numbers of the data: what is missing for a balance, patients, what splits share."""
    about, people = radiographs.describe(), patients(radiographs)
    smaller = smaller_class(about["counts"]["train"])
    missing = {
        loaded.protocol: missing_images(loaded["train"]["label"])[1]
        for loaded in (official, radiographs)
    }
    lacks = [f"{name} protocol {count:,}" for name, count in missing.items()]
    known = "A NORMAL patient is known by a number in the file name alone, which is a proxy."
    if unnamed := about["without_patient"]:
        known = f"{unnamed:,} file names tell no patient; these images are grouped by content."
    sentences = [
        f"{smaller} images missing for a balance: {', '.join(lacks)}.",
        f"{shared(radiographs, 'patient')} patients and {shared(radiographs, 'sha256')} identical "
        f"files lie in two splits. {known}",
    ]
    if about["official_folders"] == list(FOLDERS):
        folder = official.describe()["counts"]["train"]
        whole = ", ".join(f"{count:,} {name}" for name, count in folder.items())
        sentences.insert(1, f"The official train folder: {whole}.")
    if "test" not in about["official_folders"]:
        sentences.append("The test split is no official one, but a fifth of the images, set aside.")
    if "reference" in radiographs:
        sentences.append("The reference split is kept for measuring generators.")
    classes = radiographs.class_names
    return {
        "splits": " ".join(sentences),
        "split_counts": Table(
            ["split", *(f"{name} {what}" for what in ("images", "patients") for name in classes)],
            [
                [split, *counts.values(), *people[split]]
                for split, counts in about["counts"].items()
            ],
            f"Images and patients per split, {radiographs.protocol} protocol.",
        ),
    }


# ---------------------------------------------------------------------------- the synthetic sets


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


def greys(images: torch.Tensor) -> np.ndarray:
    """Mean grey of each image: uint8 (N, 1, H, W) -> (N,) in [-1, 1]."""
    return pixels.to_float(images).mean((1, 2, 3)).numpy()


def synthetic_sets(
    sets: dict[str, RadiographTensors],
    settings: dict[str, dict[str, Any]],
    num_images: int,
    data: dict[str, Any],
) -> dict[str, Exhibit]:
    """Real and synthetic images of one class side by side, and how far their greys spread.

    ``sets``: name -> images, the real ones first; ``settings``: generator -> how it sampled.
    """
    protocol, class_name = data["protocol"], smaller_class(data["counts"]["train"])
    first = {title(name): pixels.to_float(tensors.images[:10]) for name, tensors in sets.items()}
    means = {name: greys(tensors.images) for name, tensors in sets.items()}
    rows = []
    for name, tensors in sets.items():
        used = [settings.get(name, {}).get(key) for key in ("scheduler", "num_inference_steps")]
        sampler = ", ".join(str(value) for value in used if value is not None)
        numbers = (means[name].mean(), means[name].std(), pixels.to_float(tensors.images).std())
        rows.append([title(name), sampler, *(f"{number:.3f}" for number in numbers)])
    return {
        f"06_gallery_{protocol}": Picture(
            image_rows(first, data, f"Training and synthetic {class_name} images"),
            "The first images of each set, not chosen.",
        ),
        f"06_brightness_{protocol}": Picture(
            brightness(means, data),
            "Ticks: minimum, median, maximum. A generator with too little spread makes images "
            "that are too alike.",
        ),
        "balance": f"{num_images:,} images per generator balance the training split.",
        "spread": Table(
            ["set", "sampler, steps", "brightness", "its sd", "sd of all pixels"],
            rows,
            "Grey levels in [-1, 1]. A good generator has the spread of the training images.",
        ),
    }
