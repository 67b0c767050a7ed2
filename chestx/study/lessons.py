"""Small computations behind the lessons: what SSIM sees, what is left at T, what slips would do."""

import numpy as np
import torch
from diffusers import DDPMScheduler
from scipy import ndimage, optimize

from chestx.classifier.cnn import ChestCNN
from chestx.config import generator_for
from chestx.exhibits import worded_table, words_of
from chestx.generators.ddpm import build_scheduler
from chestx.generators.enhanced_cvae import mean_ssim
from chestx.generators.registry import GENERATORS, title
from chestx.step import Table
from chestx.study.twin import GaussianTwin

WORDS = words_of(__file__)
REAL = "training images"
TERMINAL = ("ddpm", "ddpm_mended", "ddpm_zero_snr")  # one of each noise schedule
SCHEDULE_COLOURS = {GENERATORS[name].schedule: GENERATORS[name].colour for name in TERMINAL}


def distortions(image: torch.Tensor) -> dict[str, tuple[torch.Tensor, float, float]]:
    """name -> (distorted image, MSE, SSIM): four distortions with the same mean squared error.

    ``image`` (1, H, W) in [-1, 1]. The blur is given, a Gaussian of H / 24 pixels (at least 1);
    the strength of noise, brightness and shift is solved for so that their MSE, after clipping
    to [-1, 1], is the blur's.
    """
    clean = image[0].double().numpy()
    noise = torch.randn(clean.shape, generator=generator_for(0), dtype=torch.float64).numpy()
    sign = -1 if clean.mean() > 0 else 1  # towards the side with more room
    kinds = {
        "noise": lambda s: clean + s * noise,
        "brightness": lambda s: clean + sign * s,
        "shift": lambda s: ndimage.shift(clean, s * len(clean) / 2, order=1, mode="nearest"),
    }

    def error(picture: np.ndarray) -> float:
        return float(np.square(picture.clip(-1, 1) - clean).mean())

    blurred = ndimage.gaussian_filter(clean, max(1, len(clean) / 24), mode="nearest")
    target = error(blurred)
    pictures = {"original": clean, "blur": blurred}
    for name, distort in kinds.items():
        strength = optimize.brentq(lambda s, f=distort: error(f(s)) - target, 0, 1)
        pictures[name] = distort(strength)
    found = {}
    for name, picture in pictures.items():
        distorted = torch.from_numpy(picture.clip(-1, 1)).float()[None]
        similarity = mean_ssim(image[None].float(), distorted[None]).item()
        found[name] = (distorted, error(picture), similarity)
    return found


def deck_errors() -> list[dict[str, str]]:
    """The slides' slips of ``lessons.toml``: ``slide``, ``wrong``, ``right``, and what would happen
    ``then``, every number computed from the deck's schedule and network."""
    scheduler, cnn = build_scheduler("deck"), ChestCNN(64)
    betas, bars = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    alphas = 1 - betas
    rootless = tiny = torch.zeros((), dtype=torch.float64)  # variances of noise, step by step
    for alpha, beta in zip(alphas, betas):
        rootless = alpha.square() * rootless + beta  # x <- alpha x + sqrt(1 - alpha) eps
        tiny = alpha * tiny + beta * beta  # variance (1 - alpha) sigma_t^2 with sigma_t^2 = beta
    factors = (betas / bars)[:-1]  # (1 - alpha_t) / abar_t, for t = 1 ... T - 1
    one_pool = 4 * cnn.fc1.in_features
    numbers = {
        "T": len(betas),
        "sum_of_two": alphas[:2].sum(),
        "sum_of_all": alphas.sum(),
        "bar_at_T": bars[-1],
        "signal_at_T": bars[-1].sqrt(),
        "noise_at_T": (1 - bars[-1]).sqrt(),
        "rootless": rootless.sqrt(),
        "tiny": tiny.sqrt(),
        "first_factor": factors[-1],  # sampling begins at T
        "last_factor": factors[0],
        "first_right": alphas[-1].rsqrt(),
        "last_right": alphas[1].rsqrt(),
        "ten_factors": factors[-10:].prod(),
        "num_factors": len(factors),
        "log_factors": factors.log10().sum(),
        "least_noise": betas[0].sqrt(),
        "most_noise": betas[-1].sqrt(),
        "two_pools": cnn.fc1.in_features,
        "one_pool": one_pool,
        "one_pool_parameters": one_pool * 128 + 128,
    }
    return [slip | {"then": slip["then"].format(**numbers)} for slip in WORDS["slip"]]


def deck_slips() -> Table:
    """``deck_errors`` as a table; its formulas are typeset."""
    return worded_table(WORDS["slips"], deck_errors())


def signal_left(scheduler: DDPMScheduler) -> float:
    """sqrt(abar_T): the share of the signal's amplitude that is left at T."""
    return float(scheduler.alphas_cumprod[-1]) ** 0.5


def brightness(images: torch.Tensor) -> dict[str, float]:
    """Mean and standard deviation of the mean greys of images (N, 1, H, W)."""
    grey = images.mean((1, 2, 3))
    return {"mean": float(grey.mean()), "sd": float(grey.std(correction=0))}


def twin_brightness(
    real: torch.Tensor, schedulers: dict[str, DDPMScheduler]
) -> dict[str, dict[str, float]]:
    """Brightness of ``real`` (N, 1, H, W), its Gaussian twin, and the twin as each schedule renders
    it with all its steps and the exact denoiser."""
    twin = GaussianTwin.of(real)
    greys = {REAL: brightness(real), "twin": twin.brightness()}
    for name, scheduler in schedulers.items():
        found = twin.rendered(scheduler, "ddpm", len(scheduler.betas)).brightness()
        greys[f"twin: {name}"] = found | {"signal_at_T": signal_left(scheduler)}
    return greys


def brightness_table(greys: dict[str, dict[str, float]]) -> Table:
    """``brightness`` by name; ``signal_at_T`` where a schedule has one."""
    rows = []
    for name, row in greys.items():
        left = f"{row['signal_at_T']:.1%}" if "signal_at_T" in row else ""
        kept = row["sd"] / greys[REAL]["sd"]
        rows.append({"title": title(name), "kept": kept, "left": left, **row})
    return worded_table(WORDS["brightness"], rows)
