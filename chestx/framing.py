"""The same chest, framed and exposed otherwise: random shift, zoom, rotation, contrast, brightness.

The augmentation that radiographs bear: no flips (the heart is on the left), no crops that lose a
lung. As a training augmentation and, on validation images, as a test of robustness.
"""

import dataclasses
import math

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
