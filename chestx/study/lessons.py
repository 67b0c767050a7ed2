"""Small computations behind the lessons: what SSIM sees, what beta does, what wrong formulas do."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage, optimize

from chestx.classifier.cnn import ChestCNN
from chestx.config import generator_for
from chestx.exhibits import plain, start_figure
from chestx.generators.ddpm import build_scheduler
from chestx.generators.enhanced_cvae import mean_ssim


def distortions(image: torch.Tensor) -> dict[str, tuple[torch.Tensor, float, float]]:
    """name -> (distorted image, MSE, SSIM): four distortions with the same mean squared error.

    ``image`` (1, H, W) in [-1, 1]. The blur is given, a Gaussian of H / 24 pixels (at least 1);
    the strength of noise, brightness and shift is solved for so that their MSE, after clipping
    to [-1, 1], is the blur's. Raises ValueError for a constant image, which no blur changes.
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
    if target < 1e-9:
        raise ValueError("the image is constant: no blur changes it; choose another image")
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


def deck_errors() -> list[dict[str, Any]]:
    """The slides' slips: where, as written, right, and what would happen if one used it.

    Every number is computed from the deck's schedule and network.
    """
    scheduler = build_scheduler("deck")
    T = scheduler.config.num_train_timesteps
    betas, alphas_cumprod = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    alphas = 1 - betas
    left = alphas_cumprod[-1].sqrt().item()

    noise_variance = torch.zeros((), dtype=torch.float64)
    for alpha in alphas:  # x <- alpha x + sqrt(1 - alpha) eps
        noise_variance = alpha.square() * noise_variance + 1 - alpha
    rootless = noise_variance.sqrt().item()
    tiny = torch.zeros((), dtype=torch.float64)
    for alpha, beta in zip(alphas, betas):  # variance (1 - alpha) sigma_t^2 with sigma_t^2 = beta
        tiny = alpha * tiny + beta * beta
    factors = (betas / alphas_cumprod)[:-1]  # (1 - alpha_t) / abar_t, for t = 1 ... T - 1

    cnn = ChestCNN(64)
    one_pool = 4 * cnn.fc1.in_features
    return [
        {
            "slide": "noise schedule",
            "wrong": r"\bar{\alpha}_t = \sum_{s=1}^{t} \alpha_s",
            "right": r"\bar{\alpha}_t = \prod_{s=1}^{t} \alpha_s",
            "then": f"The sum is {alphas[:2].sum():.2f} at t = 2, {alphas.sum():.0f} at t = {T}: "
            "the root of 1 minus it does not exist.",
        },
        {
            "slide": "forward process",
            "wrong": r"x_{t+1} = \alpha x_t + \sqrt{1 - \alpha}\, \epsilon",
            "right": r"x_{t+1} = \sqrt{\alpha}\, x_t + \sqrt{1 - \alpha}\, \epsilon",
            "then": f"After {T} steps {alphas_cumprod[-1]:.0%} of the signal's amplitude would be "
            f"left instead of {left:.0%}, and noise of standard deviation {rootless:.2f} instead "
            f"of {(1 - alphas_cumprod[-1]).sqrt():.2f}: x_T would not be N(0, 1).",
        },
        {
            "slide": "forward process, variance",
            "wrong": r"q(x_{t+1} \mid x_t) = \mathcal{N}(x_{t+1};\, x_t \sqrt{\alpha_{t+1}},\, "
            r"(1 - \alpha_{t+1})\, \sigma_t^2)",
            "right": r"q(x_{t+1} \mid x_t) = \mathcal{N}(x_{t+1};\, x_t \sqrt{\alpha_{t+1}},\, "
            r"1 - \alpha_{t+1})",
            "then": "With the reverse step's sigma, about the root of beta, all steps would add "
            f"noise of standard deviation {tiny.sqrt():.2f}: the image would never get lost.",
        },
        {
            "slide": "reverse process",
            "wrong": r"p(x_t \mid x_{t+1}) = \mathcal{N}(x_t;\, \mu_\theta,\, \sigma_\theta^2), "
            r"\quad \mu_\theta = (1 - \alpha_t)\, \bar{\alpha}_t^{-1} (x_{t+1} - \beta_t\, "
            r"\bar{\alpha}_t^{-1} \epsilon_\theta(x_{t+1}, t))",
            "right": r"\mu_\theta = \frac{1}{\sqrt{\alpha_{t+1}}} \left( x_{t+1} - "
            r"\frac{\beta_{t+1}}{\sqrt{1 - \bar{\alpha}_{t+1}}} \epsilon_\theta(x_{t+1}, t + 1) "
            r"\right), \quad \sigma_\theta^2 = \beta_{t+1} "
            r"\frac{1 - \bar{\alpha}_t}{1 - \bar{\alpha}_{t+1}}",
            "then": "Right are Ho et al. 2020, eq. 7 and 11. As written, the first step would "
            f"multiply the image by {factors[-1]:.2f} and the last by {factors[0]:.4f}, where "
            f"1 / sqrt(alpha) is {alphas[-1].rsqrt():.2f} and {alphas[1].rsqrt():.4f}; ten steps "
            f"would leave {factors[-10:].prod():.0e} of it, all {T - 1} of them "
            f"1e{factors.log10().sum():.0f}: grey, however good the network.",
        },
        {
            "slide": "training",
            "wrong": r"x_1 = \alpha_{t+1} x_0 + \sqrt{1 - \alpha_{t+1}}\, \epsilon, \quad "
            r"\epsilon_\theta(x_1, t)",
            "right": r"x_t = \sqrt{\bar{\alpha}_t}\, x_0 + \sqrt{1 - \bar{\alpha}_t}\, \epsilon, "
            r"\quad \epsilon_\theta(x_t, t)",
            "then": f"The network would see noise of standard deviation {betas[0].sqrt():.2f} to "
            f"{betas[-1].sqrt():.2f} only, but sampling starts at 1.",
        },
        {
            "slide": "DDPM parameters",
            "wrong": rf"T = {T}, \quad \beta_1 = 10^{{-4}}, \quad \beta_T = 0.02",
            "right": r"\beta_t \times 1000 / T",
            "then": f"Ho et al. chose these betas for T = 1000. Walked in {T} steps they leave "
            f"{left:.0%} of the signal's amplitude at T, yet sampling starts from pure noise: the "
            "samples of radiographs come out washed out. This one is kept, as the arm ddpm.",
        },
        {
            "slide": "CNN architecture",
            "wrong": r"\mathrm{one\ max\ pool}",
            "right": r"\mathrm{two\ max\ pools}",
            "then": f"The slide's {cnn.fc1.in_features:,} features need two. With one, the first "
            f"linear layer would read {one_pool:,} features and alone have "
            f"{one_pool * 128 + 128:,} parameters.",
        },
    ]  # fmt: skip


def snr_curves(curves: dict[str, torch.Tensor], data: dict[str, Any]) -> Figure:
    """Signal and its ratio to the noise against t: ``curves`` are abar_t, (T,) per schedule."""
    figure = start_figure(9, 3.2, data, "What is left of the image at t")
    left, right = figure.subplots(1, 2)
    for name, curve in curves.items():
        abar = curve.double().cpu()
        label = f"{name}: {float(abar[-1]) ** 0.5:.1%} at T"
        left.plot(abar.sqrt(), color=SCHEDULE_COLOURS[name], label=label)
        snr = 10 * torch.log10(abar / (1 - abar))
        right.plot(snr[snr > -60], color=SCHEDULE_COLOURS[name])
    left.set_ylabel("share of the amplitude, sqrt(abar_t)")
    right.set_ylabel("signal to noise, dB")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("t")
        plain(axes)
    return figure
