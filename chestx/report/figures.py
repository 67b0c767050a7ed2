"""Sets of images as the deck shows them: the data (01) and the synthetic sets (06)."""

import itertools
from typing import Any

import numpy as np

from chestx.exhibits import image_rows, start_figure, worded_table, words_of
from chestx.generators.registry import title
from chestx.radiographs import images as pixels
from chestx.radiographs.sources import FOLDERS
from chestx.radiographs.splits import Radiographs, missing_images, smaller_class
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.step import Exhibit, Picture, Table
from chestx.study.lessons import brightness

WORDS = words_of(__file__)
CLASS_COLOURS = ("#4c9f70", "#8e5ea2")  # by label


def class_proportions(data: dict[str, Any], caption: str = "") -> Picture:
    """Images per class in every split, with numbers and shares."""
    figure = start_figure(8, 3.2, data, "Class proportions")
    axes, splits = figure.subplots(), list(data["counts"])
    counts = np.array([list(of_class.values()) for of_class in data["counts"].values()])
    places, shares = np.arange(len(splits)), counts / counts.sum(1, keepdims=True)
    for label, (name, colour) in enumerate(zip(data["counts"][splits[0]], CLASS_COLOURS)):
        bars = axes.bar(places + 0.4 * label, counts[:, label], 0.38, label=name, color=colour)
        texts = [f"{n:,}\n{share:.0%}" for n, share in zip(counts[:, label], shares[:, label])]
        axes.bar_label(bars, texts, fontsize=8)
    axes.set_xticks(places + 0.2, splits)
    axes.set_ylabel("images")
    axes.margins(y=0.2)
    axes.legend(frameon=False)
    return Picture(figure, caption)


def first_images(radiographs: Radiographs, image_size: int, heading: str) -> Picture:
    """The first eight images of each class in every split."""
    rows = {}
    for split, dataset in radiographs.items():
        tensors = to_tensors(dataset, image_size)
        for label, name in enumerate(radiographs.class_names):
            rows[f"{split} {name}"] = pixels.to_float(tensors.of_class(label).images[:8])
    figure = image_rows(rows, radiographs.describe(), heading)
    return Picture(figure, f"The first images of each class at {image_size} px.")


def shared(radiographs: Radiographs, column: str) -> int:
    """How many values of a column occur in two splits, counted for each pair of splits."""
    pairs = itertools.combinations(radiographs.values(), 2)
    return sum(len(set(a[column]) & set(b[column])) for a, b in pairs)


def splits(radiographs: Radiographs, official: Radiographs) -> dict[str, Exhibit]:
    """The numbers of the data: what is missing for a balance, patients, what splits share."""
    about, names = radiographs.describe(), radiographs.class_names
    lacks = ", ".join(
        f"{loaded.protocol} protocol {missing_images(loaded['train']['label'])[1]:,}"
        for loaded in {own.protocol: own for own in (official, radiographs)}.values()
    )
    folder, unnamed = official.describe()["counts"]["train"], about["without_patient"]
    values = {
        "smaller": smaller_class(about["counts"]["train"]),
        "lacks": lacks,
        "folder": ", ".join(f"{count:,} {name}" for name, count in folder.items()),
        "patients": shared(radiographs, "patient"),
        "files": shared(radiographs, "sha256"),
        "unnamed": unnamed,
    }
    said = {
        "missing": True,
        "official": about["official_folders"] == list(FOLDERS),
        "shared": True,
        "by_content" if unnamed else "by_name": True,
        "set_aside": "test" not in about["official_folders"],
        "reference": "reference" in radiographs,
    }
    text = " ".join(WORDS["splits"][name] for name, holds in said.items() if holds)
    rows = []
    for split, counts in about["counts"].items():
        of_images = set(zip(radiographs[split]["patient"], radiographs[split]["label"]))
        patients = [sum(y == label for _, y in of_images) for label in range(len(names))]
        rows.append([split, *counts.values(), *patients])
    header = ["split", *(f"{name} {what}" for what in ("images", "patients") for name in names)]
    caption = f"Images and patients per split, {radiographs.protocol} protocol."
    return {"splits": text.format(**values), "split_counts": Table(header, rows, caption)}


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
    first, rows = {}, []
    for name, tensors in sets.items():
        images = pixels.to_float(tensors.images)  # (N, 1, H, W)
        first[title(name)] = images[:10]
        used = [settings.get(name, {}).get(key) for key in ("scheduler", "num_inference_steps")]
        sampler = ", ".join(str(value) for value in used if value is not None)
        row = {"title": title(name), "sampler": sampler, "pixels": images.std(correction=0)}
        rows.append(row | brightness(images))
    figure = image_rows(first, data, f"Training and synthetic {class_name} images")
    gallery = Picture(figure, WORDS["gallery"].format(count=num_images))
    return {f"06_gallery_{protocol}": gallery, "spread": worded_table(WORDS["spread"], rows)}
