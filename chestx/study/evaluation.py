"""Generators against real images: one row of numbers per set of images and feature space."""

import dataclasses
from typing import Any

import numpy as np
import torch

from chestx.exhibits import table_of, titled_images
from chestx.generators.registry import title
from chestx.step import Exhibit, Picture, Table
from chestx.study import memorisation as nearest
from chestx.study.distances import fid_interval, ms_ssim_similarity, precision_to_coverage
from chestx.study.features import Extract, RealImages, spread
from chestx.study.latent import checkerboard_energy
from chestx.study.samplers import Judge
from chestx.study.utility import real_or_made, transfer_auroc

Scores = dict[str, Any]
SPACES = {
    "random_vgg16": "random VGG16",
    "classifier": "penultimate layer of a classifier of the real training images",
}
# TRAIN stands for a perfect generator, UNSEEN says what chance alone makes of real images.
TRAIN, UNSEEN, REFERENCE = "training images", "validation images", "reference images"


@dataclasses.dataclass
class Evaluation:
    """Generators against real images: what ``evaluate`` found, by the name of the set."""

    about: str
    pictures: dict[str, Scores]
    spaces: dict[str, Scores]  # see ``space_scores``
    memorisation: dict[str, dict[str, Scores]]  # in pixels and in every space
    pairs: dict[str, list[tuple[torch.Tensor, str]]]  # rows of a figure

    def exhibits(self, data: dict[str, Any]) -> dict[str, Exhibit]:
        """The closest pairs as a picture, everything else as tables."""
        figure = titled_images(self.pairs, data, "The images closest to a training image")
        caption = (
            "Above each the distance, 0 for a copy, after a small shift and without brightness and "
            "contrast. Real validation images, which no generator saw, come first."
        )
        return {
            "07_pairs": Picture(figure, caption),
            "about": self.about,
            **{name: space_table(name, space) for name, space in self.spaces.items()},
            "pictures": pictures_table(self.pictures, self.spaces),
            "copies": copies_table(self.memorisation),
        }


def evaluate(
    real: RealImages, made: dict[str, torch.Tensor], extractors: dict[str, Extract], neighbours: int
) -> Evaluation:
    """``made`` holds N images (N, 1, H, W) per generator, all equally many."""
    shown = {REFERENCE: real.own["reference"], **made}
    copies, pairs = pixel_memorisation(real, made)
    spaces, memorisation = {}, {"pixels": copies}
    for name, extract in extractors.items():
        spaces[name], memorisation[name] = space_scores(extract, real, made, neighbours)
        for which, row in spaces[name]["rows"].items():
            print(f"{title(name)}, {title(which)}: KID {row['kid']['kid']:.3f}")
    for which, row in copies.items():
        chance = f"{row['by_chance']:.1f} by chance"
        print(f"{title(which)}: {row['copies']} candidates for copies ({chance})")
    about = (
        f"{len(next(iter(made.values()))):,} images of each set against "
        f"{len(real.own['reference']):,} of the reference split. Precision, recall, density, "
        f"coverage: {neighbours} neighbours. No test image was read."
    )
    pictures = {name: picture_scores(images) for name, images in shown.items()}
    return Evaluation(about, pictures, spaces, memorisation, pairs)


def picture_scores(images: torch.Tensor) -> dict[str, float]:
    """What needs no feature: likeness of pairs, checkerboard, brightness. (N, 1, H, W)."""
    grey = images.mean((1, 2, 3))
    return {
        "ms_ssim": ms_ssim_similarity(images),
        "checkerboard": checkerboard_energy(images),
        "brightness_mean": float(grey.mean()),
        "brightness_sd": float(grey.std()),
    }


def space_scores(
    extract: Extract, real: RealImages, made: dict[str, torch.Tensor], neighbours: int
) -> tuple[Scores, dict[str, Scores]]:
    """(scores of every set in one feature space, memorisation of every set in that space).

    ``made`` holds N images per generator, all equally many; as many training images are scored
    like a generator, which says what is within reach. Train on synthetic / test on real and the
    reverse take N images of either class of train; the other class is real throughout.
    ``feature_size`` holds mean and deviation of the size of features before it is normalised, in
    units of the training images' mean.
    """
    count = len(next(iter(made.values())))
    judge = Judge.of(extract, real, count)
    space, reference, train = judge.space, judge.real["reference"], judge.space.real
    other_train, other_reference = (space(real.others(s, count)) for s in ("train", "reference"))
    chosen = spread(count, len(train))

    def auroc(trained_on: torch.Tensor, tested_on: torch.Tensor) -> float:
        return transfer_auroc((trained_on, other_train), (tested_on, other_reference))

    features = {TRAIN: train[chosen]}
    sizes = {TRAIN: space.real_size[chosen], REFERENCE: space.measure(real.own["reference"])[1]}
    for name, images in made.items():
        features[name], sizes[name] = space.measure(images)
    rows = {}
    for name, found in features.items():
        patients = np.asarray(real.train_patients)[chosen].tolist() if name == TRAIN else None
        kid = judge.scores(found)["reference"]
        rows[name] = {
            "kid": kid,
            "share": kid["kid"] / judge.other_class,
            "fid": fid_interval(found, reference, patients, real.reference_patients),
            **precision_to_coverage(reference, found, neighbours),
            "real_or_made": real_or_made(reference, found, real.reference_patients, patients),
        }
        if name != TRAIN:
            rows[name]["train_on_synthetic"] = auroc(found, reference)
            rows[name]["test_on_synthetic"] = auroc(train[chosen], found)
    scores = {
        "floor": judge.floor,
        "kid_to_other": judge.other_class,
        "real_to_real": auroc(train[chosen], reference),
        "feature_size": {
            name: {"mean": float(size.mean()), "sd": float(size.std())}
            for name, size in sizes.items()
        },
        "rows": rows,
    }
    unseen = {UNSEEN: judge.real["validation"], **{name: features[name] for name in made}}
    distances = {
        name: tuple(nearest.feature_distances(found, to) for to in (train, reference))
        for name, found in unseen.items()
    }
    return scores, memorised(distances, nearest.feature_distances(train, train))[0]


def memorised(
    distances: dict[str, tuple[torch.Tensor, torch.Tensor]], within_train: torch.Tensor
) -> tuple[dict[str, Scores], dict[str, list[tuple[int, int, float]]]]:
    """(scores, closest pairs) of every set, from distances to train and to held-out images.

    The first set must be real images of neither: it says what is to be expected.
    """
    real = next(iter(distances.values()))
    scores = {
        name: {
            "closer": nearest.closer_to_train(near, away),
            "authentic": nearest.authenticity(near, within_train),
            "copies": len(nearest.copies((near, away), real)),
            "by_chance": len(near) / (len(real[0]) + 1),
            "closest": float(near.min()),
        }
        for name, (near, away) in distances.items()
    }
    pairs = {n: nearest.closest_pairs(near) for n, (near, _) in distances.items()}
    return scores, pairs


def pixel_memorisation(
    real: RealImages, made: dict[str, torch.Tensor]
) -> tuple[dict[str, Scores], dict[str, list[tuple[torch.Tensor, str]]]]:
    """Memorisation by ``aligned_distances``; for a figure, two rows of (image, text) per set."""
    sets = {UNSEEN: real.own["validation"], **made}
    train, held_out = real.own["train"], real.own["reference"]
    distances = {
        name: tuple(nearest.aligned_distances(images, to) for to in (train, held_out))
        for name, images in sets.items()
    }
    scores, pairs = memorised(distances, nearest.aligned_distances(train, train))
    rows = {}
    for name, closest in pairs.items():
        rows[title(name)] = [(sets[name][i], f"{distance:.2f}") for i, _, distance in closest]
        rows[f"nearest in train\nto {title(name)}"] = [(train[j], "") for _, j, _ in closest]
    return scores, rows


def space_table(name: str, space: Scores) -> Table:
    """One feature space; training images stand for what a perfect generator would score."""
    columns = {
        "set": "{title}",
        "KID": "{kid[kid]:.3f} [{kid[low]:.3f}, {kid[high]:.3f}]",
        "share": "{share:.0%}",
        "FID": "{fid[fid]:.1f}{margin}",
        **{key: f"{{{key}:.2f}}" for key in ("precision", "recall", "density", "coverage")},
        "told apart": "{real_or_made:.2f}",
        "trained on synthetic": "{train_on_synthetic:.3f}",
        "tested on synthetic": "{test_on_synthetic:.3f}",
    }
    real = dict.fromkeys(("train_on_synthetic", "test_on_synthetic"), space["real_to_real"])
    rows = []
    for which, row in space["rows"].items():
        se = row["fid"]["se"]
        margin = "" if se is None else f" ± {1.96 * se:.1f}"
        rows.append({"title": title(which), "margin": margin, **real, **row})
    caption = (
        f"Features: {SPACES[name]}. KID [95 %] of real against real stays below "
        f"{space['floor']['p95']:.3f} in 95 % of patient-disjoint splits; its share is that of the "
        f"KID to the other class, {space['kid_to_other']:.3f}. FID ± 95 % at these numbers of "
        f"images, which alone make it large. Told apart: AUROC of a logistic "
        f"regression between real and synthetic, folds by patient, 0.5 is the goal. Trained or "
        f"tested on synthetic images: AUROC of one between the classes at equal numbers, the other "
        f"class real throughout; in the first row both are real."
    )
    return table_of(columns, rows, caption)


def pictures_table(pictures: dict[str, Scores], spaces: dict[str, Scores]) -> Table:
    """``picture_scores`` of every set, and the size of its features in every space."""
    columns = {
        "": "{title}",
        "MS-SSIM": "{ms_ssim:.3f}",
        "checkerboard, dB": "{checkerboard:+.1f}",
        "brightness": "{brightness_mean:+.3f}",
        "its sd": "{brightness_sd:.3f}",
        **{f"size, sd: {title(s)}": f"{{{s}[mean]:.2f}}, {{{s}[sd]:.2f}}" for s in spaces},
    }
    rows = [
        {"title": title(name), **row, **{s: spaces[s]["feature_size"][name] for s in spaces}}
        for name, row in pictures.items()
    ]
    caption = (
        "MS-SSIM of random pairs (higher: more alike); power at the lattice frequencies against "
        "that beside them; mean grey of an image in [-1, 1]; size of features: distance from the "
        "mean of the training images, whose mean is 1, before features are normalised."
    )
    return table_of(columns, rows, caption)


def copies_table(found: dict[str, dict[str, Scores]]) -> Table:
    """What ``memorised`` says of every set, by what its distances are measured in."""
    columns = {
        "set": "{title}",
        "distance in": "{space}",
        "closer to train": "{closer[share]:.0%} ± {margin:.0%}",
        "authentic": "{authentic:.0f} %",
        "smallest distance": "{closest:.3f}",
        "copies (by chance)": "{candidates}",
    }
    rows = [
        {
            "title": title(name),
            "space": title(space),
            "margin": 1.96 * row["closer"]["se"],
            "candidates": "" if name == UNSEEN else f"{row['copies']} ({row['by_chance']:.1f})",
            **row,
        }
        for space, sets in found.items()
        for name, row in sets.items()
    ]
    caption = (
        "Memorisation. Closer to train: the nearest of as many training images as there are "
        "held-out ones is nearer than the nearest held-out one; about 50 % where nothing was "
        "copied. Copies: the distance to train is a smaller part of that to held-out images than "
        "for any validation image; in brackets, how many chance alone would give. "
        "Authentic: AuthPct. Compare with validation images, which no generator saw: few patients "
        "and blur move both. Pixel distances allow for a small shift, brightness and contrast."
    )
    return table_of(columns, rows, caption)
