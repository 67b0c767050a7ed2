"""The Gaussian twin: data whose exact denoiser is known, so that samplers are tried untrained.

For x_0 ~ N(mu, S) and x_t = a x_0 + b eps with a = sqrt(abar_t), b = sqrt(1 - abar_t) the best
prediction is linear: E[x_0 | x_t] = mu + a S (a^2 S + b^2)^-1 (x_t - a mu), and eps and v
follow from it. In the eigenbasis of S every coordinate is on its own.
"""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin

from chestx.config import generator_for
from chestx.generators.schedulers import SAMPLERS, check_schedule, swap_scheduler, walk
from chestx.generators.trained import Generator, checked_weights
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import Radiographs
from chestx.radiographs.tensors import to_tensors

STOCHASTIC = ("ddpm", "euler-ancestral", "kdpm2-ancestral", "sde-dpmsolver++")  # add noise
SIDE = 64  # of what a coordinate is drawn as
UNBOUNDED = {"clip_sample": False, "thresholding": False}  # for data that are no greys in [-1, 1]


class GaussianDenoiser:
    """The exact prediction for independent Gaussians, as ``walk`` asks for it: of x_t and t.

    ``mean`` and ``variances`` (K, 1, 1) belong to the K channels of "images" (B, K, side, side),
    each pixel of which is a draw of its own.
    """

    def __init__(self, scheduler: SchedulerMixin, mean: torch.Tensor, variances: torch.Tensor):
        self.prediction_type = scheduler.config.prediction_type
        abar = scheduler.alphas_cumprod.double()
        # Between two timesteps, where solvers with sigmas of their own land, the angle of
        # (a, b) is interpolated; unlike the SNR it is finite at both ends.
        self.angles = torch.atan2((1 - abar).sqrt(), abar.sqrt()).numpy()
        self.mean, self.variances = mean, variances

    def __call__(self, noisy_images: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        angle = np.interp(float(timestep), np.arange(len(self.angles)), self.angles)
        a, b = math.cos(angle), math.sin(angle)
        gain = a * self.variances / (a**2 * self.variances + b**2)
        images = self.mean + gain * (noisy_images - a * self.mean)  # E[x_0 | x_t]
        noise = (noisy_images - a * images) / b
        v = a * noise - b * images
        return {"epsilon": noise, "v_prediction": v, "sample": images}[self.prediction_type]


def recovered(
    trained: SchedulerMixin,
    sampler: str,
    num_inference_steps: int,
    means: torch.Tensor,
    deviations: torch.Tensor,
    **changes: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and standard deviations that a sampler makes of independent N(mean, deviation^2).

    ``trained`` is the noise schedule; both results have the shape (K,) of the arguments. Each
    coordinate is drawn ``SIDE``^2 times by the very loop that samples images. What is linear
    in x_T is taken out by regression, so that an ODE solver's numbers are exact but for rounding
    and a stochastic one's deviation has a relative error of about 1 / (SIDE sqrt(2)).
    """
    mean, sd = (values.double()[:, None, None] for values in (means, deviations))
    scheduler, generator = swap_scheduler(trained, sampler, **changes), generator_for(0)
    noise = torch.randn((1, len(mean), SIDE, SIDE), generator=generator, dtype=torch.double)
    denoiser = GaussianDenoiser(trained, mean, sd**2)
    *_, (_, final) = walk(scheduler, denoiser, noise, num_inference_steps, generator)
    noise, final = (images[0].flatten(1) for images in (noise, final))  # (K, SIDE^2)
    centred = noise - noise.mean(1, keepdim=True)
    slope = (centred * final).mean(1) / centred.square().mean(1)
    rest = final - slope[:, None] * noise
    return rest.mean(1), (slope.square() + rest.var(1)).sqrt()


@dataclasses.dataclass
class GaussianTwin:
    """The normal distribution with mean and covariance of a set of images.

    ``mean`` (C, H, W); ``vectors`` (K, C H W) the principal directions, ``variances`` (K,). Fewer
    images than pixels span fewer directions than there are; across them the twin has no variance,
    and no floor is put under it, which would be grain that no radiograph has.
    """

    mean: torch.Tensor
    vectors: torch.Tensor
    variances: torch.Tensor

    @classmethod
    def of(cls, images: torch.Tensor) -> "GaussianTwin":
        """The twin of images (N, C, H, W) in [-1, 1]; ValueError unless two of them differ."""
        if len(images) < 2 or torch.equal(images.amin(0), images.amax(0)):
            raise ValueError(
                f"the {len(images)} images given do not vary, so they have no covariance; give at "
                f"least two different ones"
            )
        rows = images.double().flatten(1)
        mean = rows.mean(0)
        _, singular, vectors = torch.linalg.svd(rows - mean, full_matrices=False)
        variances = singular**2 / (len(rows) - 1)
        kept = variances > 1e-9 * variances[0]  # centring takes one direction away
        return cls(mean.view(images.shape[1:]), vectors[kept], variances[kept])

    def sample(self, generators: list[torch.Generator]) -> torch.Tensor:
        """Images (B, C, H, W), float32 in [-1, 1], one per generator."""
        z = torch.stack([torch.randn(len(self.variances), generator=g) for g in generators])
        rows = (z.double() * self.variances.sqrt()) @ self.vectors
        return (self.mean + rows.view(-1, *self.mean.shape)).clamp(-1, 1).float()

    def rendered(
        self, trained: SchedulerMixin, sampler: str, num_inference_steps: int
    ) -> "GaussianTwin":
        """The twin as a sampler with the exact denoiser renders it: again Gaussian.

        Mean and deviation that come out depend on a direction's deviation alone, so they are
        measured at 33 deviations and interpolated. Clipping and thresholding are off:
        coordinates in the eigenbasis are no greys.
        """
        deviations = self.variances.sqrt()
        grid = torch.from_numpy(np.geomspace(deviations.min(), deviations.max(), 33))
        far = 100 * grid  # far from 0, so that what is left of a mean is exact too
        means, spread = recovered(trained, sampler, num_inference_steps, far, grid, **UNBOUNDED)
        mean_kept, kept = (
            torch.from_numpy(np.interp(deviations.log(), grid.log(), values))
            for values in (means / far, spread / grid)
        )
        flat = self.mean.flatten()
        lost = (self.vectors @ flat * (mean_kept - 1)) @ self.vectors
        return GaussianTwin(
            (flat + lost).view_as(self.mean), self.vectors, self.variances * kept**2
        )

    def distance(self, other: "GaussianTwin") -> float:
        """Fréchet (2-Wasserstein) distance of two twins with the same directions, in greys.

        sqrt of the mean over pixels of (difference of means)^2 + (difference of deviations)^2.
        """
        means = (self.mean - other.mean).square().sum()
        spread = (self.variances.sqrt() - other.variances.sqrt()).square().sum()
        return float(((means + spread) / self.mean.numel()).sqrt())

    def brightness(self) -> dict[str, float]:
        """Mean and standard deviation of an image's mean grey."""
        weights = self.vectors.mean(1)  # of each direction in the mean over pixels
        sd = (weights**2 * self.variances).sum().sqrt()
        return {"mean": float(self.mean.mean()), "sd": float(sd)}


def steps_within(name: str, evaluations: int) -> int:
    """Steps that cost at most so many evaluations of the network: 2 n - 1 in second order."""
    order = getattr(SAMPLERS[name][0], "order", 1)
    return max(1, (evaluations + order - 1) // order)


def survey(
    twin: GaussianTwin, trained: SchedulerMixin, budgets: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Every sampler with as many steps as each budget of network evaluations allows; prints them.

    One row per sampler and budget: ``steps``, what ``check_schedule`` says (``problems``) and, as
    far as the sampler can do it, its ``distance`` to the twin and the share of the twin's spread
    of brightness that it keeps (``kept``).
    """
    rows = []
    for sampler, budget in itertools.product(SAMPLERS, budgets):
        row = {"sampler": sampler, "steps": steps_within(sampler, budget)}
        rows.append(row)
        try:
            row["problems"] = check_schedule(swap_scheduler(trained, sampler), row["steps"])
            out = twin.rendered(trained, sampler, row["steps"])
        except ValueError as error:
            row["problems"] = [str(error)]
        else:
            row["distance"] = twin.distance(out)
            row["kept"] = out.brightness()["sd"] / twin.brightness()["sd"]
        kept = [f"keeps {row['kept']:.0%} of the spread"] if "kept" in row else []
        problems = [problem.partition(":")[0] for problem in row["problems"]]
        print(f"{sampler:>22} {row['steps']:3d} steps: {', '.join(kept + problems)}")
    return rows


def candidates(rows: list[dict[str, Any]], count: int) -> list[str]:
    """The ``count`` samplers that come closest to the twin, by the mean log distance of ``survey``.

    The best stochastic one is always among them: the exact denoiser errs nowhere, whereas with
    a learned one fresh noise mends the errors of earlier steps.
    """
    logs = dict.fromkeys((row["sampler"] for row in rows), 0.0)
    for row in rows:
        logs[row["sampler"]] += math.log(row.get("distance", math.inf))
    ranked = sorted((sampler for sampler in logs if logs[sampler] < math.inf), key=logs.get)
    chosen = ranked[:count]
    if not set(chosen) & set(STOCHASTIC):
        chosen = chosen[: count - 1] + [s for s in ranked if s in STOCHASTIC][:1]
    return chosen


def twin_generator(data: Radiographs, image_size: int) -> Generator:
    """The Gaussian twin of each class of the training split, as a generator: the plainest one."""
    train = to_tensors(data["train"], image_size)
    twins = [GaussianTwin.of(to_float(train.of_class(label).images)) for label in (0, 1)]

    def sample(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        return torch.cat([twins[int(y)].sample([g]) for y, g in zip(class_labels, generators)])

    settings = dict.fromkeys(("scheduler", "num_inference_steps", "guidance_scale"))
    checkpoint = checked_weights("twin", Path(), data, image_size)
    return Generator("twin", sample, checkpoint, settings, tuple(data.class_names))
