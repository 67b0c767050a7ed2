"""The same chest, framed and exposed otherwise; and ways to take the exposure out again.

``Framing`` is the augmentation that radiographs bear: random shift, zoom, rotation, contrast and
brightness, but no flips (the heart is on the left) and no crops that lose a lung.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True)
class Framing:
    """How far framing and intensity may move; every image draws its own, uniformly."""

    shift: float = 0.1  # of the side, each way
    zoom: float = 0.2  # factor between exp(-zoom) and exp(zoom), both sides alike
    stretch: float = 0.1  # the same for width against height: squashed files differ in aspect
    rotation: float = 7.0  # degrees
    contrast: float = 0.3  # factor between exp(-contrast) and exp(contrast), around mid-grey
    brightness: float = 0.2  # added, in greys of [-1, 1]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, H, W) in [-1, 1] -> the same shape and range; draws from torch's state.

        What comes in from outside the picture repeats its border.
        """
        u = torch.rand(7, len(images), device=images.device) * 2 - 1  # one row per quantity
        angle = u[0] * math.radians(self.rotation)
        size, shape = torch.exp(self.zoom * u[1]), torch.exp(self.stretch * u[2] / 2)
        shift = 2 * self.shift * u[3:5]  # the grid's side is 2
        cos, sin = angle.cos(), angle.sin()
        rows = [cos * size * shape, -sin * size, shift[0], sin * size, cos * size / shape, shift[1]]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), images.shape, align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        gain = torch.exp(self.contrast * u[5])[:, None, None, None]
        offset = (self.brightness * u[6])[:, None, None, None]
        return (moved * gain + offset).clamp(-1, 1)


def standardized(batch: torch.Tensor) -> torch.Tensor:
    """Every image with mean 0 and standard deviation 1/2, then cut to [-1, 1]."""
    sd, mean = torch.std_mean(batch, (1, 2, 3), keepdim=True)
    return ((batch - mean) / (2 * sd + 1e-3)).clamp(-1, 1)


def locally_normalized(batch: torch.Tensor, reach: float = 1 / 8) -> torch.Tensor:
    """Every pixel minus its neighbourhood's mean, by its deviation.

    ``reach`` is how far that goes each way, as a share of the side: 17 of 64 pixels for 1/8.
    """
    place = torch.arange(batch.shape[-1], device=batch.device)
    near = ((place[:, None] - place).abs() <= len(place) * reach).to(batch)
    near /= near.sum(1, keepdim=True)  # W x W^T is the mean over a square, cut at the border
    mean, square = near @ batch @ near.T, near @ batch**2 @ near.T
    return ((batch - mean) / (3 * (square - mean**2).clamp(min=0).sqrt() + 0.1)).clamp(-1, 1)


NORMALIZE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda batch: batch,
    "standardize": standardized,
    "local": locally_normalized,
    "local_fine": functools.partial(locally_normalized, reach=1 / 16),
    "local_coarse": functools.partial(locally_normalized, reach=1 / 4),
}
