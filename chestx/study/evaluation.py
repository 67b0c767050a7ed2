"""Generators against real images: one row of numbers per set of images and feature space."""

import dataclasses
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from chestx.radiographs import images as pixels
from chestx.radiographs.tensors import RadiographTensors
from chestx.study import memorisation
from chestx.study.distances import (
    fid_interval,
    ms_ssim_similarity,
    precision_to_coverage_intervals,
)
from chestx.study.features import Extract
from chestx.study.latent import checkerboard_energy
from chestx.study.samplers import Judge
from chestx.study.utility import real_or_made, transfer_auroc


def spread(count: int, total: int) -> torch.Tensor:
    """Indices of ``count`` of ``total`` images, evenly: files lie in an order, by patient."""
    return torch.linspace(0, total - 1, min(count, total)).round().long()


@dataclasses.dataclass
class RealImages:
    """The real images of three splits; ``own`` are those of the class that is synthesized."""

    label: int  # of that class
    tensors: dict[str, RadiographTensors]  # train, validation, reference: both classes
    train_patients: list[str]  # of both classes
    own: dict[str, torch.Tensor]  # split -> (N, 1, H, W) in [-1, 1]
    reference_patients: list[str]  # of own

    @classmethod
    def of(
        cls, splits: dict[str, Dataset], tensors: dict[str, RadiographTensors], label: int
    ) -> "RealImages":
        """Exact duplicates in train are left out: they would excuse every copy of them.

        See ``memorisation.authenticity``.
        """
        _, first = np.unique(splits["train"]["sha256"], return_index=True)
        kept, train = np.sort(first), tensors["train"]
        tensors = tensors | {"train": RadiographTensors(train.images[kept], train.labels[kept])}
        own = {s: pixels.to_float(t.of_class(label).images) for s, t in tensors.items()}
        mine = np.asarray(splits["reference"]["label"]) == label
        patients = np.asarray(splits["reference"]["patient"])[mine].tolist()
        every = np.asarray(splits["train"]["patient"])[kept].tolist()
        return cls(label, tensors, every, own, patients)

    def others(self, split: str, count: int) -> torch.Tensor:
        """At most ``count`` images of the other class, evenly spread over the split."""
        images = self.tensors[split].of_class(1 - self.label).images
        return pixels.to_float(images[spread(count, len(images))])


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
    extract: Extract,
    real: RealImages,
    made: dict[str, torch.Tensor],
    neighbours: int,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(scores of every set in one feature space, memorisation of every set in that space).

    ``made`` holds N images per generator, all equally many; as many training images are scored
    like a generator, which says what is within reach. Train on synthetic / test on real and the
    reverse take N images of either class of train; the other class is real throughout.
    ``feature_size`` holds, beside the reference images, mean and deviation of the size of features
    before it is normalised, in units of the training images' mean.
    """
    count = len(next(iter(made.values())))
    judge = Judge.of(extract, real.tensors, real.label, real.train_patients, count)
    space, reference, held_out = judge.space, judge.real["reference"], judge.real["validation"]
    train, chosen = space.real, spread(count, len(space.real))
    mine = np.asarray(real.train_patients)[(real.tensors["train"].labels == real.label).numpy()]
    others = {split: space(real.others(split, count)) for split in ("train", "reference")}
    rows, found = {}, {"validation images": held_out}
    sizes = {"reference images": space.measure(real.own["reference"])[1]}
    test = (reference, others["reference"])
    on_real = transfer_auroc((train[chosen], others["train"]), test)
    for name, images in {"training images": None, **made}.items():
        if images is None:
            features, sizes[name], patients = (
                train[chosen], space.real_size[chosen], mine[chosen].tolist()
            )  # fmt: skip
        else:
            (features, sizes[name]), patients = space.measure(images), None
        kid = judge.scores(features)["reference"]
        intervals = {
            "fid": fid_interval(features, reference, patients, real.reference_patients),
            **precision_to_coverage_intervals(
                reference, features, neighbours, real.reference_patients, patients
            ),
        }
        rows[name] = {
            "kid": kid, "share": kid["kid"] / judge.other_class,
            **{key: interval[key] for key, interval in intervals.items()},
            "intervals": intervals,
            "real_or_made": real_or_made(reference, features, real.reference_patients, patients),
        }  # fmt: skip
        if images is not None:
            found[name] = features
            rows[name]["train_on_synthetic"] = transfer_auroc((features, others["train"]), test)
            rows[name]["test_on_synthetic"] = transfer_auroc(
                (train[chosen], others["train"]), (features, others["reference"])
            )
    distances = {
        name: tuple(memorisation.feature_distances(f, to) for to in (train, reference))
        for name, f in found.items()
    }
    within = memorisation.feature_distances(train, train)
    scores = {"floor": judge.floor, "kid_to_other": judge.other_class, "real_to_real": on_real}
    scores["feature_size"] = {
        name: {"mean": float(size.mean()), "sd": float(size.std())} for name, size in sizes.items()
    }
    return {**scores, "rows": rows}, memorised(distances, within)[0]


def memorised(
    distances: dict[str, tuple[torch.Tensor, torch.Tensor]], within_train: torch.Tensor
) -> tuple[dict[str, dict[str, Any]], dict[str, list[tuple[int, int, float]]]]:
    """(scores, closest pairs) of every set, from distances to train and to held-out images.

    The first set must be real images of neither: it says what is to be expected.
    """
    real = next(iter(distances.values()))
    scores = {
        name: {
            "closer_to_train": memorisation.closer_to_train(near, away),
            "authentic": memorisation.authenticity(near, within_train),
            "copies": len(memorisation.copies((near, away), real)),
            "by_chance": len(near) / (len(real[0]) + 1),
            "closest": float(near.min()),
        }
        for name, (near, away) in distances.items()
    }
    pairs = {n: memorisation.closest_pairs(near) for n, (near, _) in distances.items()}
    return scores, pairs


def pixel_memorisation(
    real: RealImages, made: dict[str, torch.Tensor]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[tuple[torch.Tensor, str]]]]:
    """Memorisation by ``aligned_distances``; for a figure, two rows of (image, text) per set."""
    sets = {"validation images": real.own["validation"], **made}
    train, held_out = real.own["train"], real.own["reference"]
    distances = {
        name: tuple(memorisation.aligned_distances(images, to) for to in (train, held_out))
        for name, images in sets.items()
    }
    scores, pairs = memorised(distances, memorisation.aligned_distances(train, train))
    rows = {}
    for name, closest in pairs.items():
        title = TITLES[name]
        rows[title] = [(sets[name][i], f"{distance:.2f}") for i, _, distance in closest]
        rows[f"nearest in train\nto {title}"] = [(train[j], "") for _, j, _ in closest]
    return scores, rows
