"""Which sampler, and how many steps: time and KID of each, and the choice between them."""

import time
from typing import Any

import torch
from diffusers import DDPMPipeline

from chestx import images as pixels
from chestx.config import generator_for
from chestx.metrics.distribution import kid_difference, kid_interval
from chestx.metrics.features import FeatureSpace
from chestx.sources import NORMAL
from chestx.synthesis import Generator

EVALUATION = 2000  # keeps this noise apart from that of the synthetic sets


def timed_images(
    generator: Generator, num_images: int, batch_size: int = 32, seed: int = 0
) -> tuple[torch.Tensor, float]:
    """NORMAL images (N, 1, H, W), rounded to grey levels as on disk, and seconds per image."""
    started, batches = time.monotonic(), []
    for start in range(0, num_images, batch_size):
        indices = range(start, min(start + batch_size, num_images))
        labels = torch.full((len(indices),), NORMAL)
        batches.append(
            generator.sample(labels, [generator_for(seed, EVALUATION, i) for i in indices]).cpu()
        )
    seconds = (time.monotonic() - started) / num_images
    return pixels.to_float(pixels.to_uint8(torch.cat(batches))), seconds


def timed_stock_images(
    pipeline: DDPMPipeline, num_images: int, batch_size: int = 32, seed: int = 0
) -> tuple[torch.Tensor, float]:
    """The same from diffusers' own ``DDPMPipeline``, with every step of its scheduler."""
    started, batches = time.monotonic(), []
    steps = pipeline.scheduler.config.num_train_timesteps
    for start in range(0, num_images, batch_size):
        count = min(batch_size, num_images - start)
        arrays = pipeline(
            count, generator_for(seed, EVALUATION, start), steps, output_type="np"
        ).images
        batches.append(torch.from_numpy(arrays).permute(0, 3, 1, 2) * 2 - 1)
    seconds = (time.monotonic() - started) / num_images
    return pixels.to_float(pixels.to_uint8(torch.cat(batches))), seconds


def score(images: torch.Tensor, space: FeatureSpace, real: dict[str, torch.Tensor]):
    """Features of the images, and their KID with its interval to each set of real features."""
    features = space(images)
    return features, {name: kid_interval(features, other) for name, other in real.items()}


def pareto_front(rows: list[dict[str, Any]], split: str = "reference") -> list[dict[str, Any]]:
    """The rows that no other row beats in both seconds and KID to ``split``."""

    def beaten(row: dict[str, Any]) -> bool:
        return any(
            other["seconds"] <= row["seconds"]
            and other[split]["kid"] <= row[split]["kid"]
            and (other["seconds"], other[split]["kid"]) != (row["seconds"], row[split]["kid"])
            for other in rows
        )

    return [row for row in rows if not beaten(row)]


def recommend(
    rows: list[dict[str, Any]], features: list[torch.Tensor], validation: torch.Tensor
) -> dict[str, Any]:
    """The fastest row that the validation split cannot tell from the one of least KID there.

    Cannot tell: the 95 % interval of ``kid_difference`` reaches 0.
    """
    best = min(range(len(rows)), key=lambda i: rows[i]["validation"]["kid"])
    for index in sorted(range(len(rows)), key=lambda i: rows[i]["seconds"]):
        difference = kid_difference(features[index], features[best], validation)
        if index == best or difference["low"] <= 0:
            return rows[index] | {"against_best": difference}
    raise AssertionError("unreachable: the best row is among them")
