"""Figures: functions that read results and return a ``Figure``, one colour per method."""

from pathlib import Path

import torch
from torchvision.utils import make_grid, save_image


def save_samples(images: torch.Tensor, folder: Path, epoch: int) -> Path:
    """Write images (B, 1, H, W) in [-1, 1] as one row, ``folder/samples/epoch_0001.png``."""
    path = folder / "samples" / f"epoch_{epoch:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = make_grid((images.clamp(-1, 1).float().cpu() + 1) / 2, nrow=len(images), padding=2)
    save_image(grid, path)
    return path
