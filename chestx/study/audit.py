"""Audits before an experiment: leaks between splits, sources of synthetic images, shortcuts."""

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chestx.radiographs import images
from chestx.radiographs.sources import inspect_file, is_image_name
from chestx.radiographs.splits import Radiographs, patient_key
from chestx.radiographs.tensors import to_tensors
from chestx.study.paired import bootstrap
from chestx.synthesis import SyntheticSet

PIXELS = 64  # side at which images are compared: no two different files of Kaggle's set agree


def pixel_hashes(pixels: torch.Tensor) -> list[str]:
    """SHA-256 of each of the decoded uint8 images (N, 1, H, W), however its file is encoded."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in pixels]


def leak_audit(radiographs: Radiographs) -> dict[str, Any]:
    """Raise ValueError if a file, a patient or identical pixels lie in two splits.

    Patients by the column of that name and, once more, by the file names; pixels as decoded to
    64 x 64, which finds a copy in another format, but none that was cropped or compressed anew.
    The deck's val folder is taken as it is: what it shares with train is counted, not refused, for
    nothing is judged by it. Returns the numbers of images, the pairs of splits and what is shared.
    """
    keys = {name: identities(split) for name, split in radiographs.items()}
    shared, pairs = [], list(itertools.combinations(keys, 2))
    for (a, b), kind in itertools.product(pairs, keys["train"]):
        common = set(keys[a][kind]) & set(keys[b][kind])
        if not common:
            continue
        found = {
            part: [
                name
                for name, key in zip(radiographs[part]["file_name"], keys[part][kind])
                if key in common
            ]
            for part in (a, b)
        }
        if radiographs.protocol != "deck" or "validation" not in (a, b) or "test" in (a, b):
            raise ValueError(
                f"leak between {a} and {b}, same {kind}: {len(found[a])} images of {a} and "
                f"{len(found[b])} of {b}, such as {found[a][:3]} and {found[b][:3]}; keep them in "
                f"one split, or remove one side from {radiographs.source}"
            )
        counts = {part: len(names) for part, names in found.items()}
        shared.append({"splits": [a, b], "same": kind, "images": counts})
    counts = {name: len(split) for name, split in radiographs.items()}
    sentence = (
        f"{sum(counts.values()):,} images in {len(counts)} splits: no file, patient or decoded "
        f"image lies in two of them"
    )
    if shared:
        sentence += ", but for what the deck's val folder shares with train"
    if unknown := radiographs.count_unnamed():
        sentence += f"; of {unknown:,} images the patient is unknown"
    return {"images": counts, "pairs": len(pairs), "shared": shared, "sentence": f"{sentence}."}


def identities(split: datasets.Dataset) -> dict[str, list[str]]:
    """By what two images are the same: a list (N,) of keys for each way."""
    names, hashes = list(split["file_name"]), list(split["sha256"])
    return {
        "file": hashes,
        "patient": list(split["patient"]),
        "patient by name": [patient_key(*row) for row in zip(names, hashes)],
        "pixels": pixel_hashes(to_tensors(split, PIXELS).images),
    }


def check_sources(
    names: Iterable[str], radiographs: Radiographs, root: Path, image_size: int
) -> dict[str, Any]:
    """Raise ValueError if a synthetic image comes from anything but the training split.

    For the sets of each generator in ``names``, of either class: the generator passes
    ``check_no_leak``, its weights are those in every record of the manifest, and no file in the
    folder, listed or not, is a real image of any split, byte by byte or as decoded to
    ``image_size``. Returns how many files were compared with how many real images.
    """
    real: dict[str, str] = {}
    for name, split in radiographs.items():
        where = [f"{file} ({name})" for file in split["file_name"]]
        for keys in (split["sha256"], pixel_hashes(to_tensors(split, image_size).images)):
            real |= dict(zip(keys, where))
    checked = {}
    for name in names:
        for label in range(len(radiographs.class_names)):
            made = SyntheticSet.checked(root, name, radiographs, label, image_size)
            paths = [path for path in sorted(made.folder.rglob("*")) if is_image_name(path)]
            for path in paths:
                check_not_real(path, real, image_size)
            checked |= {made.folder.name: len(paths)} if paths else {}
    saw = "no test image" if radiographs.protocol == "deck" else "images of train alone"
    sentence = (
        f"{sum(checked.values()):,} synthetic images in {len(checked)} sets: their generators saw "
        f"{saw}, and none is, file or pixel for pixel, one of "
        f"{sum(map(len, radiographs.values())):,} real images (near copies: 07)."
    )
    return {"files": checked, "sentence": sentence}


def check_not_real(path: Path, real: dict[str, str], image_size: int) -> None:
    """Raise ValueError if a file's bytes or decoded pixels are a key of ``real``."""
    sha, unreadable = inspect_file(path)
    keys = [sha]
    if not unreadable:  # an interrupted run may leave half a file, which no manifest lists
        with Image.open(path) as picture:
            keys += pixel_hashes(images.decode(picture, image_size)[None])
    if found := next((real[key] for key in keys if key in real), ""):
        raise ValueError(
            f"{path} is no synthetic image but a copy of {found}; delete the folder of this set "
            f"and run 06 again"
        )


def shortcut_audit(radiographs: Radiographs) -> dict[str, Any]:
    """How well width, height, aspect and mean brightness of an image alone tell its class.

    Logistic regression of the standardised numbers, of each alone and of all together, fitted to
    train: AUROC on validation with the 95 % interval of a bootstrap over patients, the fit kept.
    Where all files have one size that is not the native one, brightness is left. Size has nothing
    to do with disease; brightness may.
    """
    train, validation = radiographs["train"], radiographs["validation"]
    fitted, judged = file_numbers(train), file_numbers(validation)
    sizes = np.unique(np.concatenate([fitted, judged])[:, :2], axis=0).astype(int)
    if len(sizes) == 1:
        described = "all {} x {}: not native".format(*sizes[0])
        used, columns = "brightness", {"brightness": [3]}
    else:
        described = f"{len(sizes)} sizes, widths {sizes[0, 0]} to {sizes[-1, 0]}"
        columns = {"width": [0], "height": [1], "aspect": [2], "brightness": [3]}
        used, columns = ", ".join(columns), columns | {"together": [0, 1, 2, 3]}
    rows = {}
    for name, chosen in columns.items():
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(fitted[:, chosen], train["label"])
        scores = model.decision_function(judged[:, chosen])
        row = auroc_interval(validation["label"], scores, validation["patient"])
        rows[name] = row
    verdict = "a shortcut" if row["low"] > 0.5 else "no shortcut shown"
    sentence = (
        f"From {used} of an image alone ({described}) the class is told on validation with AUROC "
        f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]: {verdict}."
    )
    return {"sizes": described, "validation": rows, "sentence": sentence}


def file_numbers(split: datasets.Dataset) -> np.ndarray:
    """Width, height and aspect from each file's header and the mean grey in [0, 255]: (N, 4)."""
    stored = split.cast_column("image", datasets.Image(decode=False))["image"]
    rows = []
    for entry in stored:
        with Image.open(entry["path"]) as picture:  # reads the header alone
            rows.append((*picture.size, picture.width / picture.height))
    grey = to_tensors(split, PIXELS).images.float().mean((1, 2, 3))
    return np.column_stack([rows, grey.numpy()])


def auroc_interval(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int = 2000
) -> dict[str, float]:
    """AUROC of ``scores`` (N,) with the 95 % percentile interval over resampled patients."""
    draws = bootstrap(labels, patients, {"": scores[None]}, draws=resamples)[""]["auroc"]
    low, high = np.quantile(draws[1:], [0.025, 0.975]).tolist()
    return {"auroc": float(draws[0]), "low": low, "high": high}
