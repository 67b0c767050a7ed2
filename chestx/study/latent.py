"""Health of a variational autoencoder's latent space, and the decoder's checkerboard."""

from typing import Any

import numpy as np
import torch

from chestx.exhibits import table_of
from chestx.generators.cvae import ConditionalVAE, kl_divergence
from chestx.generators.enhanced_cvae import mean_ssim
from chestx.generators.registry import title
from chestx.radiographs.images import to_float
from chestx.radiographs.tensors import RadiographTensors
from chestx.step import Table


@torch.no_grad()
def latent_health(model: ConditionalVAE, data: RadiographTensors) -> dict[str, Any]:
    """Active units, KL per dimension in nats, and SSIM with the own z against another image's.

    z is the posterior mean. A dimension is active if Var_x(E[z_u | x]) exceeds 0.01, Burda et al.
    2015, arXiv:1509.00519. The other image is the next one of the same class: where
    ``ssim_shuffled`` equals ``ssim`` the decoder does not listen to z. Raises ValueError if a class
    has one image, which has no other.
    """
    if torch.unique(data.labels, return_counts=True)[1].min() < 2:
        raise ValueError("every class needs at least two images, to swap their z; give more")
    model.eval()
    images = to_float(data.images).to(model.device)
    class_labels = data.labels.to(model.device)
    mu, logvar = model.encode(images, class_labels)  # (N, latent_dim)
    columns = (values.reshape(-1, 1) for values in (mu, logvar))
    kl = kl_divergence(*columns).view(mu.shape).mean(0)
    other = torch.arange(len(images), device=model.device)
    for label in torch.unique(class_labels):
        members = (class_labels == label).nonzero()[:, 0]
        other[members] = members.roll(1)
    own, swapped = (model.decode(z, class_labels) for z in (mu, mu[other]))
    return {
        "active_units": int((mu.var(0) > 0.01).sum()),
        "latent_dim": mu.shape[1],
        "kl": float(kl.sum()),
        "kl_per_dimension": sorted(kl.tolist(), reverse=True),
        "ssim": mean_ssim(images, own).item(),
        "ssim_shuffled": mean_ssim(images, swapped).item(),
    }


def latent_table(found: dict[str, dict[str, Any]]) -> Table:
    """``latent_health`` of each VAE, by the name of the generator or in words."""
    columns = {
        "": "{title}",
        "active dimensions": "{active_units} of {latent_dim}",
        "KL, nats": "{kl:.1f}",
        "of it in one dimension": "{kl_per_dimension[0]:.2f}",
        "SSIM": "{ssim:.3f}",
        "with the z of another image": "{ssim_shuffled:.3f}",
    }
    rows = [{"title": title(name), **row} for name, row in found.items()]
    caption = (
        "The latent space on the validation split; z is the posterior mean. Active are dimensions "
        "whose z varies over images by more than 0.01. Where SSIM is the same with the z of "
        "another image the decoder does not listen to z."
    )
    return table_of(columns, rows, caption)


def checkerboard_energy(images: torch.Tensor) -> float:
    """Spectral power at the lattice frequencies over that beside them, in decibels.

    Stride-2 transposed convolutions cover pixels unequally often (Odena et al. 2016), which
    repeats every 2 or 4 pixels: peaks at multiples of a quarter of the sampling frequency. Power
    of ``images`` (N, 1, H, H) is averaged over images, under a Hann window against what the
    borders leak; each peak is divided by the mean of the 16 frequencies two steps away, which
    the window keeps free of it. About 0 for images without a lattice; compare with real ones.
    Raises ValueError unless the side is a multiple of 4 and at least 16.
    """
    side = images.shape[-1]
    if side % 4 or side < 16:
        raise ValueError(f"side={side} must be a multiple of 4 and at least 16")
    pictures = images[:, 0].double().cpu()
    hann = torch.hann_window(side, dtype=torch.float64)
    pictures = (pictures - pictures.mean((1, 2), keepdim=True)) * hann[:, None] * hann
    power = torch.fft.fft2(pictures).abs().square().mean(0).numpy()
    if power.max() == 0:
        raise ValueError("the images are constant; give others")
    ring = [(u, v) for u in range(-2, 3) for v in range(-2, 3) if max(abs(u), abs(v)) == 2]
    beside = np.mean([np.roll(power, step, (0, 1)) for step in ring], axis=0)
    lattice = np.ix_(range(0, side, side // 4), range(0, side, side // 4))
    ratios = (power[lattice] / beside[lattice]).flatten()[1:]  # without the mean grey
    return float(10 * np.log10(ratios.mean()))
