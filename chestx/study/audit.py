"""Audits before an experiment: images in two places, sources of synthetic images, shortcuts."""

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

from chestx.classifier.experiment import training_folder
from chestx.exhibits import words_of
from chestx.radiographs.splits import Radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.study.paired import bootstrap
from chestx.synthesis import SyntheticSet

WORDS = words_of(__file__)


def pixel_hashes(pixels: torch.Tensor) -> list[str]:
    """SHA-256 of each of the decoded uint8 images (N, 1, H, W), however its file is encoded."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in pixels]


def leak_audit(
    radiographs: Radiographs,
    image_size: int,
    generators: Iterable[str] = (),
    root: Path = Path(),
    trainings: int = 1,
) -> dict[str, Any]:
    """Raise ValueError if an image lies in two splits, or a synthetic image does not come from
    train alone.

    Images are compared by their files and as decoded to ``image_size``, which finds a copy in
    another format, but none that was cropped or compressed anew. (That no patient lies in two
    splits is how they are made.) For the sets of each of ``generators``, of either class, by each
    of its ``trainings``: the generator passes ``check_no_leak``, its weights are those in every
    record of the manifest and of no other training, and no image is a real one. Returns how many
    images each set has, and a sentence.
    """
    real = real_images(radiographs, image_size)
    checked, trained = {}, {}  # set -> images; weights and label -> set
    for k, name, label in itertools.product(range(trainings), generators, (0, 1)):
        made = SyntheticSet.checked(training_folder(root, k), name, radiographs, label, image_size)
        if listed := made.listed():
            other = trained.setdefault((listed[0]["checkpoint"], label), made.folder)
            if other != made.folder:
                raise ValueError(
                    f"{other} and {made.folder} have the same weights; train {name} with --seed {k}"
                )
            check_not_real(made, image_size, real)
            checked[str(made.folder.relative_to(root))] = len(listed)
    deck, unknown = radiographs.protocol == "deck", radiographs.count_unnamed()
    sentence = WORDS["leaks"].format(
        images=sum(map(len, radiographs.values())),
        splits=len(radiographs),
        but=WORDS["deck_but"] * deck,
        unknown=WORDS["unknown"].format(count=unknown) * bool(unknown),
        made=sum(checked.values()),
        sets=len(checked),
        saw=WORDS["deck_saw" if deck else "fair_saw"],
    )
    return {"files": checked, "sentence": sentence}


def real_images(radiographs: Radiographs, image_size: int) -> dict[str, tuple[str, str]]:
    """Hash of file and of pixels -> (file, split). ValueError if one lies in two splits, but for
    train and val of the deck, whose folders are taken as they are and whose val decides nothing."""
    found: dict[str, tuple[str, str]] = {}
    for split, rows in radiographs.items():
        pixels = pixel_hashes(to_tensors(rows, image_size).images)
        for file, *keys in zip(rows["file_name"], rows["sha256"], pixels):
            for key in keys:
                other, where = found.setdefault(key, (file, split))
                if where != split and (radiographs.protocol != "deck" or "test" in (split, where)):
                    raise ValueError(
                        f"leak: {file} of {split} is {other} of {where}; keep one of them, or both "
                        f"in one split of {radiographs.source}"
                    )
    return found


def check_not_real(made: SyntheticSet, image_size: int, real: dict[str, tuple[str, str]]) -> None:
    """Raise ValueError if the pixels of an image are a key of ``real``, or if its file is gone."""
    hashes = pixel_hashes(made.tensors(len(made.listed()), image_size).images)
    for record, key in zip(made.records, hashes):
        if key in real:
            file, split = real[key]
            raise ValueError(
                f"{made.path(record)} is no synthetic image but a copy of {file} ({split}); delete "
                f"the folder of this set and run 06 again"
            )


def shortcut_audit(radiographs: Radiographs) -> dict[str, Any]:
    """How well width, height, aspect and mean brightness of an image alone tell its class.

    Logistic regression of the standardised numbers, fitted to train: AUROC on validation with the
    95 % percentile interval of a bootstrap over patients, the fit kept. Size has nothing to do with
    disease; brightness may.
    """
    train, validation = radiographs["train"], radiographs["validation"]
    fitted = file_numbers(train)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(fitted, train["label"])
    scores = model.decision_function(file_numbers(validation))[None]
    draws = bootstrap(validation["label"], validation["patient"], {"": scores}, draws=2000)[""]
    auroc, low, high = draws["auroc"][0], *np.quantile(draws["auroc"][1:], [0.025, 0.975])
    sizes = len(np.unique(fitted[:, :2], axis=0))
    known = WORDS["known" if sizes > 1 else "known_of_one_size"].format(sizes=sizes)
    found = {"auroc": float(auroc), "low": float(low), "high": float(high)}
    verdict = WORDS["shortcut" if low > 0.5 else "no_shortcut"]
    return found | {"sentence": WORDS["shortcuts"].format(known=known, verdict=verdict, **found)}


def file_numbers(split: datasets.Dataset) -> np.ndarray:
    """Width, height and aspect from each file's header and the mean grey in [0, 255]: (N, 4)."""
    stored = split.cast_column("image", datasets.Image(decode=False))["image"]
    rows = []
    for entry in stored:
        with Image.open(entry["path"]) as picture:  # reads the header alone
            rows.append((*picture.size, picture.width / picture.height))
    grey = to_tensors(split, 64).images.float().mean((1, 2, 3))
    return np.column_stack([rows, grey.numpy()])
