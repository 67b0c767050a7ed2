"""Which sampler, and how many steps: time and KID of each, and the choice between them."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from chestx.config import generator_for
from chestx.exhibits import plain, start_figure
from chestx.generators.pipeline import load_pipeline
from chestx.radiographs import images as pixels
from chestx.radiographs.tensors import RadiographTensors
from chestx.study.distances import kid_difference, kid_floor, kid_interval
from chestx.study.features import Extract, FeatureSpace

EVALUATION = 2000  # keeps this noise apart from that of the synthetic sets
Sample = Callable[[torch.Tensor, list[torch.Generator]], torch.Tensor]


def timed_images(
    sample: Sample, num_images: int, batch_size: int = 32, seed: int = 0, label: int = 0
) -> tuple[torch.Tensor, float]:
    """Images of one class (N, 1, H, W), rounded to grey levels as on disk, and seconds per image.

    ``sample(class_labels, torch_generators)`` is a ``synthesis.Generator``'s. One image before
    the clock starts pays for what happens only once.
    """

    def make(start: int, stop: int) -> torch.Tensor:
        generators = [generator_for(seed, EVALUATION, i) for i in range(start, stop)]
        return sample(torch.full((stop - start,), label), generators).cpu()  # waits for a GPU

    make(0, 1)
    started = time.monotonic()
    starts = range(0, num_images, batch_size)
    batches = [make(start, min(start + batch_size, num_images)) for start in starts]
    seconds = (time.monotonic() - started) / num_images
    return pixels.to_float(pixels.to_uint8(torch.cat(batches))), seconds


def stock_sampler(folder: Path) -> Sample:
    """diffusers' own ``DDPMPipeline`` with every step of training, as ``timed_images`` wants it."""
    pipeline = load_pipeline(folder, DDPMPipeline)
    steps = pipeline.scheduler.config.num_train_timesteps

    def sample(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        made = pipeline(len(generators), generators, steps, output_type="np")
        return torch.from_numpy(made.images).permute(0, 3, 1, 2) * 2 - 1

    return sample


@dataclasses.dataclass
class Judge:
    """Scores images by KID to the real images of two splits, in one feature space."""

    space: FeatureSpace
    real: dict[str, torch.Tensor]  # split -> features (N, d)
    floor: dict[str, float]  # of real against real, with as many images
    other_class: float  # KID of the reference images of the other class: the unit to think in

    @classmethod
    def of(
        cls, extract: Extract, tensors: dict[str, RadiographTensors], label: int,
        patients: list[str], num_images: int,
    ) -> "Judge":  # fmt: skip
        """From the splits train, validation and reference; ``patients`` are those of train.

        ``num_images`` is how many images will be judged, which decides the floor (as far as
        there are so many real ones).
        """
        real = {s: pixels.to_float(t.of_class(label).images) for s, t in tensors.items()}
        others = tensors["reference"].of_class(1 - label).images
        every = max(1, len(others) // num_images)  # files lie in an order, so not the first ones
        space = FeatureSpace(extract, real["train"])
        features = {s: space(real[s]) for s in ("validation", "reference")}
        own = [p for p, y in zip(patients, tensors["train"].labels) if y == label]
        m = min(num_images, len(own) // 2)  # a small debug subset has no more
        floor = kid_floor(space.real, own, m, min(len(real["reference"]), len(own) - m))
        to_other = kid_interval(space(pixels.to_float(others[::every])), features["reference"])
        return cls(space, features, floor, to_other["kid"])

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, dict[str, float]]]:
        """Features of the images, and KID with its interval per split."""
        features = self.space(images)
        return features, self.scores(features)

    def scores(self, features: torch.Tensor) -> dict[str, dict[str, float]]:
        """KID of features with its interval, per split."""
        return {name: kid_interval(features, real) for name, real in self.real.items()}


def measure(
    sample: Sample,
    judge: Judge,
    num_images: int,
    batch_size: int = 32,
    seed: int = 0,
    label: int = 0,
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """A row with ``seconds`` per image and KID per split; the features; the images."""
    images, seconds = timed_images(sample, num_images, batch_size, seed, label)
    features, scores = judge(images)
    return {"seconds": seconds, **scores}, features, images


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
) -> int:
    """Index of the cheapest row that cannot be told from the one of least KID to validation.

    Cheapest: fewest evaluations of the network (seconds are noisy), then least KID. Cannot be
    told: the 95 % interval of ``kid_difference`` reaches 0. Few validation images tell little
    apart, so the fewer there are, the more the choice goes by cost.
    """
    best = min(range(len(rows)), key=lambda i: rows[i]["validation"]["kid"])
    cost = [(row["evaluations"], row["validation"]["kid"]) for row in rows]
    for index in sorted(range(len(rows)), key=cost.__getitem__):
        if index == best:
            break
        if kid_difference(features[index], features[best], validation)["low"] <= 0:
            return index
    return best


def against_stock(
    row: dict[str, Any],
    features: torch.Tensor,
    stock_row: dict[str, Any],
    stock_features: torch.Tensor,
    reference: torch.Tensor,
) -> dict[str, Any]:
    """How many times faster ``row`` is than the stock pipeline, and whether its KID is no worse.

    No worse: the upper 95 % bound of the difference lies under 10 % of the stock pipeline's KID.
    """
    difference = kid_difference(features, stock_features, reference)
    limit = 0.1 * stock_row["reference"]["kid"]
    return stock_row | {
        "times_faster": stock_row["seconds"] / row["seconds"],
        "difference": difference,
        "limit": limit,
        "no_worse": difference["high"] < limit,
    }


def quality_against_time(
    rows: list[dict[str, Any]], front: list[dict[str, Any]], floor: float, data: dict[str, Any]
) -> Figure:
    """KID with its interval against seconds per image; ``front`` are the rows no other beats."""
    figure = start_figure(8, 4.2, data, "Quality against time")
    axes = figure.subplots()
    for index, name in enumerate(dict.fromkeys(row["sampler"] for row in rows)):
        own = sorted((r for r in rows if r["sampler"] == name), key=lambda r: r["seconds"])
        seconds = [r["seconds"] for r in own]
        kids = np.array([r["reference"]["kid"] for r in own])
        bars = [1.96 * r["reference"]["se"] for r in own]
        axes.errorbar(seconds, kids, bars, fmt="o", color=f"C{index}", capsize=2, label=name, ms=5)
        for row, x, y in zip(own, seconds, kids):
            axes.annotate(str(row["steps"]), (x, y), (5, 4), textcoords="offset points", fontsize=7)
    best = sorted(front, key=lambda r: r["seconds"])
    axes.plot(
        [r["seconds"] for r in best], [r["reference"]["kid"] for r in best], color="#999999",
        lw=1, zorder=0, label="Pareto front",
    )  # fmt: skip
    axes.axhline(floor, color="#4c9f70", ls="--", lw=1, label="real against real, 95th percentile")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=max(floor, 1e-3))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds per image; the numbers are steps")
    axes.set_ylabel("KID to the reference split")
    axes.legend(frameon=False, fontsize=7)
    plain(axes)
    return figure
