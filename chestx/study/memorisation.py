"""Memorisation: are generated images copies of training images?

A generator that learned the distribution is as far from its training images as from other real
ones. Pixels and features are treated alike: what counts are the distances of a set of images to
train, ``near`` (N, T), and to held-out real images, ``away`` (N, H).
"""

from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import hypergeom

from chestx.radiographs.images import resize


def aligned_distances(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Pixel distances (N, M) in [0, 2] that a small shift, brightness and contrast leave alone.

    sqrt(2 - 2 r), where r is the largest correlation of the middle of an image with any window
    of the other one that is shifted by at most 1/32 of the side (at least one pixel) each way:
    0 for a copy, about 1.4 for unrelated images. Images (N, 1, H, H) and (M, 1, H, H) in [-1, 1]
    larger than 64 px are reduced to 64.
    """
    side = min(64, images.shape[-1])
    shift = max(1, side // 32)
    images, others = resize(images.float(), side), resize(others.float(), side)
    window = side - 2 * shift
    middle = _standardised(images[..., shift : shift + window, shift : shift + window])
    correlation = torch.full((len(images), len(others)), -1.0)
    for y in range(2 * shift + 1):
        for x in range(2 * shift + 1):
            moved = _standardised(others[..., y : y + window, x : x + window])
            correlation = torch.maximum(correlation, middle @ moved.T)
    return (2 - 2 * correlation).clamp(min=0).sqrt()


def _standardised(images: torch.Tensor) -> torch.Tensor:
    """Images as rows (N, P) of mean 0 and length 1; a constant one becomes 0."""
    rows = images.flatten(1)
    return torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1, eps=1e-6)


def feature_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (N, M) over sqrt(d): in [0, 2] for features of a ``FeatureSpace``."""
    return (torch.cdist(x.double(), y.double()) / x.shape[1] ** 0.5).float()


def closer_to_train(near: torch.Tensor, away: torch.Tensor) -> dict[str, float]:
    """Share of images whose nearest real image is a training image, 0.5 where nothing was copied.

    As many of the T training images as there are held-out ones, H, take part: the share is the
    mean over all subsets of that size, which the hypergeometric distribution gives without
    drawing. ``se`` counts images as independent. Compare with real images that are in neither
    set: a patient with several images makes one set closer than the other, too. Raises ValueError
    if H > T.
    """
    total, size = near.shape[1], away.shape[1]
    if size > total:
        raise ValueError(f"{size} held-out images but {total} of train; take fewer held-out ones")
    closer = (near < away.amin(1, keepdim=True)).sum(1).numpy()
    shares = hypergeom.sf(0, total, closer, size)  # P(at least one of the closer ones is drawn)
    return {"share": float(shares.mean()), "se": float(shares.std() / len(shares) ** 0.5)}


def copies(
    distances: tuple[torch.Tensor, torch.Tensor], real: tuple[torch.Tensor, torch.Tensor]
) -> list[int]:
    """Images nearer to train than any real image is, by ratio: candidates to look at.

    Both arguments are (near, away), ``real`` those of real images in neither set. The nearest
    training image's distance over the nearest held-out one's is near 0 for a copy and near 1 for
    an image that is merely average, blurred or washed out, which lies close to everything. Of N
    images like the R real ones N / (R + 1) are expected, by chance.
    """
    made_ratio, real_ratio = (
        near.amin(1) / away.amin(1).clamp(min=1e-12) for near, away in (distances, real)
    )
    return torch.nonzero(made_ratio < real_ratio.min())[:, 0].tolist()


def closest_pairs(near: torch.Tensor, count: int = 8) -> list[tuple[int, int, float]]:
    """(image, training image, distance) of the ``count`` images closest to train, closest first."""
    distance, nearest = near.min(1)
    order = distance.argsort(stable=True)[:count].tolist()
    return [(i, int(nearest[i]), float(distance[i])) for i in order]


def memorised(
    sets: dict[str, torch.Tensor],
    train: torch.Tensor,
    held_out: torch.Tensor,
    distances: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> dict[str, dict[str, Any]]:
    """What ``distances`` to train and held-out images say of sets of images, or of their features.

    The first of ``sets`` must be real images that are in neither: they tell what to expect.
    """
    found = {name: (distances(s, train), distances(s, held_out)) for name, s in sets.items()}
    real = next(iter(found.values()))
    return {
        name: {
            "closer": closer_to_train(near, away),
            "copies": len(copies((near, away), real)),
            "by_chance": len(near) / (len(real[0]) + 1),
            "pairs": closest_pairs(near),
        }
        for name, (near, away) in found.items()
    }
