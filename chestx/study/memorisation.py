"""Memorisation: are generated images copies of training images?

A generator that learned the distribution is as far from its training images as from other real
ones. All functions take distances, so that pixels and features are treated alike.
"""

import numpy as np
import torch
from scipy.stats import hypergeom

from chestx.radiographs.images import resize


def aligned_distances(
    images: torch.Tensor, others: torch.Tensor, batch_size: int = 64
) -> torch.Tensor:
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
    steps, found = range(2 * shift + 1), []
    for batch in others.split(batch_size):
        moved = torch.stack(
            [
                _standardised(batch[..., y : y + window, x : x + window])
                for y in steps
                for x in steps
            ]
        )  # (shifts, B, P)
        correlation = (moved @ middle.T).amax(0)  # (B, N)
        found.append((2 - 2 * correlation.T).clamp(min=0).sqrt())
    return torch.cat(found, 1)


def _standardised(images: torch.Tensor) -> torch.Tensor:
    """Images as rows (N, P) of mean 0 and length 1; a constant one becomes 0."""
    rows = images.flatten(1)
    return torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1, eps=1e-6)


def feature_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (N, M) over sqrt(d): in [0, 2] for features of a ``FeatureSpace``."""
    return (torch.cdist(x.double(), y.double()) / x.shape[1] ** 0.5).float()


def closer_to_train(to_train: torch.Tensor, to_held_out: torch.Tensor) -> dict[str, float]:
    """Share of images whose nearest real image is a training image, 0.5 where nothing was copied.

    ``to_train`` (N, T) and ``to_held_out`` (N, H) are distances, H <= T. As many of the T as
    there are held-out ones, H, take part: the share is the mean over all subsets of that size,
    which the hypergeometric distribution gives without drawing. ``se`` counts images as
    independent. Compare with real images that are in neither set: a patient with several
    images makes one set closer than the other, too. Raises ValueError if H > T.
    """
    (_, total), (_, size) = to_train.shape, to_held_out.shape
    if size > total:
        raise ValueError(f"{size} held-out images but {total} of train; take fewer held-out ones")
    nearest = to_held_out.amin(1, keepdim=True)
    closer = (to_train < nearest).sum(1).numpy()
    shares = hypergeom.sf(0, total, closer, size)  # P(at least one of the closer ones is drawn)
    return {"share": float(shares.mean()), "se": float(shares.std() / len(shares) ** 0.5)}


def authenticity(to_train: torch.Tensor, within_train: torch.Tensor) -> float:
    """AuthPct: per cent of images that are no noisy copy of a training image.

    Alaa et al. 2022, arXiv:2102.08921: an image is authentic unless it is closer to its nearest
    training image than that one's own nearest neighbour in train. ``to_train`` (N, T),
    ``within_train`` (T, T); exact duplicates in train would excuse every copy of them, so leave
    them out before.
    """
    own = within_train.clone().fill_diagonal_(torch.inf).amin(1)
    distance, nearest = to_train.min(1)
    return 100 * float((distance >= own[nearest]).double().mean())


def copies(
    distances: tuple[torch.Tensor, torch.Tensor], real: tuple[torch.Tensor, torch.Tensor]
) -> list[int]:
    """Images nearer to train than any real image is, by ratio: candidates to look at.

    Both arguments are distances (to train, to held-out images), ``real`` those of real images in
    neither set. The nearest training image's distance over the nearest held-out one's is near 0
    for a copy and near 1 for an image that is merely average, blurred or washed out, which lies
    close to everything. Of N images like the R real ones N / (R + 1) are expected, by chance.
    """
    made_ratio, real_ratio = (
        near.amin(1) / away.amin(1).clamp(min=1e-12) for near, away in (distances, real)
    )
    return torch.nonzero(made_ratio < real_ratio.min())[:, 0].tolist()


def closest_pairs(to_train: torch.Tensor, count: int = 8) -> list[tuple[int, int, float]]:
    """(image, training image, distance) of the ``count`` images closest to train, closest first."""
    distance, nearest = to_train.min(1)
    order = np.argsort(distance.numpy(), kind="stable")[:count]
    return [(int(i), int(nearest[i]), float(distance[i])) for i in order]
