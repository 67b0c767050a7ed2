"""Health of a variational autoencoder's latent space."""

from typing import Any

import torch

from chestx.exhibits import worded_table, words_of
from chestx.generators.cvae import ConditionalVAE, kl_divergence
from chestx.generators.enhanced_cvae import mean_ssim
from chestx.generators.registry import title
from chestx.radiographs.images import to_float
from chestx.radiographs.tensors import RadiographTensors
from chestx.step import Table

WORDS = words_of(__file__)


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
    rows = [{"title": title(name), **row} for name, row in found.items()]
    return worded_table(WORDS["table"], rows)
