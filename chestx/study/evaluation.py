"""Generators against real images: one row of numbers per set of images and feature space."""

from typing import Any

import torch

from chestx.exhibits import image_rows, worded_table, words_of
from chestx.generators.registry import title
from chestx.step import Exhibit, Picture, Table
from chestx.study import distances
from chestx.study.features import Extract, RealImages
from chestx.study.memorisation import aligned_distances, feature_distances, memorised
from chestx.study.samplers import Judge

WORDS = words_of(__file__)
Scores = dict[str, Any]
# TRAIN stands for a perfect generator, UNSEEN says what chance alone makes of real images.
TRAIN, UNSEEN, REFERENCE = "training images", "validation images", "reference images"


def evaluate(
    real: RealImages,
    made: dict[str, torch.Tensor],
    extractors: dict[str, Extract],
    neighbours: int,
    data: dict[str, Any],
) -> tuple[dict[str, Scores], dict[str, Exhibit]]:
    """(scores, exhibits) of generators; ``made`` holds N images (N, 1, H, W) of each.

    ``greys`` is what ``grey_scores`` says of every set, ``spaces`` are the scores in every space of
    features, see ``space_scores``, ``memorisation`` those in pixels and in every space.
    """
    train, reference = real.own["train"], real.own["reference"]
    count = len(next(iter(made.values())))
    greys = {name: grey_scores(images) for name, images in {REFERENCE: reference, **made}.items()}
    sets = {UNSEEN: real.own["validation"], **made}
    spaces, copies = {}, {"pixels": memorised(sets, train, reference, aligned_distances)}
    for name, extract in extractors.items():
        judge = Judge.of(extract, real, count)
        features = {which: judge.space(images) for which, images in made.items()}
        spaces[name] = space_scores(judge, real, features, neighbours)
        held_out = judge.real["reference"]
        features = {UNSEEN: judge.real["validation"], **features}
        copies[name] = memorised(features, judge.space.real, held_out, feature_distances)
        for which, row in spaces[name]["rows"].items():
            print(f"{title(name)}, {title(which)}: KID {row['kid']['kid']:.3f}")
    for which, row in copies["pixels"].items():
        chance = f"{row['by_chance']:.1f} by chance"
        print(f"{title(which)}: {row['copies']} candidates for copies ({chance})")
    about = {"count": count, "reference": len(reference), "neighbours": neighbours}
    rows = [{"title": title(name), **row} for name, row in greys.items()]
    exhibits = {
        "07_pairs": pairs_picture(sets, train, copies["pixels"], data),
        "about": WORDS["about"].format(**about),
        **{name: space_table(name, space) for name, space in spaces.items()},
        "greys": worded_table(WORDS["greys"], rows),
        "copies": copies_table(copies),
    }
    return {"greys": greys, "spaces": spaces, "memorisation": copies}, exhibits


def grey_scores(images: torch.Tensor) -> Scores:
    """Brightness, its spread, contrast, and MS-SSIM of random pairs of images in [-1, 1]."""
    means = images.mean((1, 2, 3))
    return {
        "brightness": means.mean().item(),
        "spread": means.std().item(),
        "contrast": images.std((1, 2, 3)).mean().item(),
        "ms_ssim": distances.ms_ssim_similarity(images),
    }


def space_scores(
    judge: Judge, real: RealImages, features: dict[str, torch.Tensor], neighbours: int
) -> Scores:
    """Scores of every set in one feature space; ``features`` are (N, d) of each generator.

    As many training images are scored like a generator, which says what is within reach.
    """
    train, reference = judge.space.real, judge.real["reference"]
    of_reference = real.patients["reference"]
    count = len(next(iter(features.values())))
    # Evenly spread, for files lie in an order, by patient.
    chosen = torch.linspace(0, len(train) - 1, min(count, len(train))).round().long()
    rows = {}
    for name, found in {TRAIN: train[chosen], **features}.items():
        patients = [real.patients["train"][i] for i in chosen] if name == TRAIN else None
        kid = distances.kid_interval(found, reference, patients, of_reference)
        rows[name] = {
            "kid": kid,
            "share": kid["kid"] / judge.other_class,
            "fid": distances.fid_interval(found, reference, patients, of_reference),
            **distances.precision_to_coverage(reference, found, neighbours),
            "real_or_made": distances.real_or_made(reference, found, of_reference, patients),
        }
    return {"floor": judge.floor, "kid_to_other": judge.other_class, "rows": rows}


def pairs_picture(
    sets: dict[str, torch.Tensor], train: torch.Tensor, found: Scores, data: dict[str, Any]
) -> Picture:
    """The images of every set that are closest to train, each above its neighbour there."""
    rows, texts = {}, {}
    for name, images in sets.items():
        pairs = found[name]["pairs"]
        rows[title(name)] = [images[i] for i, _, _ in pairs]
        rows[f"nearest in train\nto {title(name)}"] = [train[j] for _, j, _ in pairs]
        texts[title(name)] = [f"{distance:.2f}" for _, _, distance in pairs]
    figure = image_rows(rows, data, "The images closest to a training image", texts)
    return Picture(figure, WORDS["pairs"])


def space_table(name: str, space: Scores) -> Table:
    """One feature space; training images stand for what a perfect generator would score."""
    rows = [
        {"title": title(which), "margin": distances.Z * row["fid"]["se"], **row}
        for which, row in space["rows"].items()
    ]
    return worded_table(WORDS["space"], rows, features=title(name), space=space)


def copies_table(found: dict[str, dict[str, Scores]]) -> Table:
    """What ``memorised`` says of every set, by what its distances are measured in."""
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
    return worded_table(WORDS["copies"], rows)
